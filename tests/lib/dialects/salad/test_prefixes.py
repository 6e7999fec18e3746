"""Names of files: ids that are safe in a path, and where they are put."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.dialects.salad.prefixes import MAX_ID_BYTES, prefixed, safe_id
from lib.workflow.files import path_problem

ANY_TEXT = st.text(min_size=1, max_size=300) | st.text(alphabet="a./\\%~ :?*#\0\n\ud800é漢", min_size=1, max_size=300)
USUAL = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,70}[A-Za-z0-9_-]", fullmatch=True)


@given(ANY_TEXT)
def test_a_name_made_of_an_id_stays_where_it_is_put(request_id: str) -> None:
    """No folder, no step out of one, nothing that ComfyUI fills in or a file system refuses; and short."""
    name = safe_id(request_id)
    assert 0 < len(name.encode()) <= MAX_ID_BYTES
    assert not set('/\\%<>:"|?*#') & set(name)
    assert name.isprintable()
    assert name[0] not in ". ~-"
    assert path_problem(f"{name}_ComfyUI") is None


@given(USUAL)
def test_a_usual_id_is_its_own_name(request_id: str) -> None:
    """That is the contract: ``<id>_ComfyUI_00001_.png``."""
    assert safe_id(request_id) == request_id


@given(ANY_TEXT, ANY_TEXT)
def test_different_ids_have_different_names(one: str, other: str) -> None:
    """Nobody's file overwrites another's in a bucket."""
    assert (safe_id(one) == safe_id(other)) == (one == other)


@given(ANY_TEXT)
def test_a_name_is_made_once(request_id: str) -> None:
    """An id that is a name already is left as it is."""
    name = safe_id(request_id)
    assert safe_id(name) == name


@given(
    st.dictionaries(
        st.text(max_size=3),
        st.none()
        | st.integers()
        | st.fixed_dictionaries({}, optional={"inputs": st.none() | st.dictionaries(st.text(max_size=3), st.none())})
        | st.fixed_dictionaries(
            {"inputs": st.fixed_dictionaries({"filename_prefix": st.text() | st.none() | st.lists(st.none())})}
        ),
        max_size=5,
    ),
    st.booleans(),
)
def test_only_prefixes_change(prompt: dict[str, Any], prepend: bool) -> None:
    """Whatever a graph is made of; and what was given is left as it was."""
    before = repr(prompt)
    changed, counts = prefixed(prompt, "abc", prepend=prepend)
    assert repr(prompt) == before
    assert changed.keys() == prompt.keys()
    renamed = 0
    for node_id, node in prompt.items():
        prefix = (node.get("inputs") or {}).get("filename_prefix") if isinstance(node, dict) else None
        if isinstance(prefix, str) and prefix:
            expected = f"abc_{prefix}" if prepend else "abc"
            assert changed[node_id] == {"inputs": {"filename_prefix": expected}}
            renamed += 1
        else:
            assert changed[node_id] is node
    assert counts == (renamed > 0)


@pytest.mark.parametrize("value", [False, None, 0, 0.0, ""])
def test_what_says_that_it_saves_nothing_does_not_count(value: Any) -> None:
    """As JavaScript sees it; it is renamed all the same."""
    node = {"class_type": "V", "inputs": {"filename_prefix": "a", "save_output": value}}
    changed, counts = prefixed({"1": node}, "abc", prepend=True)
    assert (changed["1"]["inputs"]["filename_prefix"], counts) == ("abc_a", False)


@pytest.mark.parametrize("value", [True, 1, "false", [], {}, ["3", 0]])
def test_what_may_save_counts(value: Any) -> None:
    """A link or an empty list is true there."""
    node = {"class_type": "V", "inputs": {"filename_prefix": "a", "save_output": value}}
    assert prefixed({"1": node}, "abc", prepend=True)[1]
