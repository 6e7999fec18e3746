"""Graphs that can't run, or that would kill ComfyUI."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import InvalidWorkflow, UnsafeInput
from lib.workflow.graph import MAX_CHAIN, check_graph

PICTURE = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "hw/w1"}},
}


def with_node(**changes: Any) -> dict[str, Any]:
    """The good graph with one more node."""
    return {**copy.deepcopy(PICTURE), "3": {"class_type": "PreviewAny", "inputs": {}, **changes}}


def refusal(workflow: object) -> InvalidWorkflow:
    """The error that a graph gets."""
    with pytest.raises(InvalidWorkflow) as caught:
        check_graph(workflow)
    assert caught.value.details["expected"]
    return caught.value


def test_a_good_graph_passes() -> None:
    """The smallest picture workflow is fine, with a title and old exports' extra keys too."""
    graph = with_node(_meta={"title": "x"}, is_changed=["hash"])
    check_graph(graph)


@pytest.mark.parametrize(
    ("node", "field"),
    [
        ({"inputs": {}}, "class_type"),
        ({"class_type": 3, "inputs": {}}, "class_type"),
        ({"class_type": "", "inputs": {}}, "class_type"),
        ({"class_type": "A" * 300, "inputs": {}}, "class_type"),
        ({"class_type": "A"}, "inputs"),
        ({"class_type": "A", "inputs": None}, "inputs"),
        ({"class_type": "A", "inputs": []}, "inputs"),
        ({"class_type": "A", "inputs": {}, "_meta": []}, "_meta"),
    ],
)
def test_a_malformed_node_is_named_even_when_nothing_uses_it(node: dict[str, Any], field: str) -> None:
    """A node without inputs kills ComfyUI's executor although it is unreachable."""
    error = refusal({**PICTURE, "77": node})
    assert error.details["node_id"] == "77"
    assert error.details["field"] == field


@pytest.mark.parametrize("node", [None, 3, "text", [], True])
def test_a_node_must_be_an_object(node: object) -> None:
    """Anything else in a node's place is refused."""
    assert refusal({**PICTURE, "x": node}).details["node_id"] == "x"


@pytest.mark.parametrize(
    "key", ["client_id", "extra_data", "number", "front", "prompt_id", "partial_execution_targets"]
)
def test_fields_that_are_ours_are_refused_with_a_hint(key: str) -> None:
    """A client_id that is a list ends ComfyUI's process; callers don't choose it."""
    assert "sets that field itself" in refusal({**PICTURE, key: ["x"]}).message


@pytest.mark.parametrize("name", ["images", "junk"])
@pytest.mark.parametrize("link", [["55", 0], ["55", 0.0], ["55", True], [55, 0]])
def test_a_link_to_nowhere_is_refused_in_any_input(name: str, link: list[object]) -> None:
    """Undeclared inputs count: their links are followed and kill the executor."""
    error = refusal(with_node(inputs={name: link}))
    assert error.details["node_id"] == "3"
    assert error.details["field"] == name
    assert "__value__" in error.message


@pytest.mark.parametrize("slot", [-1, 0.5, True])
def test_a_link_needs_a_slot_number(slot: object) -> None:
    """A slot is a whole number from 0."""
    assert refusal(with_node(inputs={"x": ["1", slot]})).details["field"] == "x"


def test_a_numeric_node_id_in_a_link_is_explained() -> None:
    """Hand-written graphs give the id as a number."""
    assert '["1", 0]' in refusal(with_node(inputs={"source": [1, 0]})).message


@pytest.mark.parametrize(
    "value", [["a", "b"], [0.5, 0.5], [[1, 2], [3, 4]], [], ["55", 0, 1], {"__value__": ["55", 0]}]
)
def test_lists_that_are_no_links_pass(value: object) -> None:
    """ComfyUI takes only [string, number] for a link."""
    check_graph(with_node(inputs={"x": value}))


@pytest.mark.parametrize("node_id", ["", "x" * 300, "a\nb", "a\0"])
def test_unusable_ids_are_refused(node_id: str) -> None:
    """Ids go into file names and logs."""
    refusal({**PICTURE, node_id: {"class_type": "A", "inputs": {}}})


def test_ids_must_be_strings() -> None:
    """A graph from Python code may hold numbers."""
    refusal({1: {"class_type": "A", "inputs": {}}})


@pytest.mark.parametrize("workflow", [None, [], "x", 3, {}])
def test_what_is_no_graph_is_refused(workflow: object) -> None:
    """An empty graph or another type is not a workflow."""
    refusal(workflow)


def test_the_editors_format_is_explained() -> None:
    """The most frequent mistake gets instructions."""
    error = refusal({"last_node_id": 9, "nodes": [{"id": 1, "type": "SaveImage"}], "links": [], "version": 0.4})
    assert "Export (API)" in error.message


def test_a_whole_prompt_body_is_explained() -> None:
    """Callers of ComfyUI's own API send {"prompt": graph}."""
    assert "`prompt`" in refusal({"prompt": PICTURE, "client_id": "x"}).message


def test_cycles_are_refused() -> None:
    """ComfyUI drops an output that depends on a cycle without a word."""
    graph = {
        "a": {"class_type": "A", "inputs": {"x": ["b", 0]}},
        "b": {"class_type": "B", "inputs": {"x": ["a", 0]}},
        "c": {"class_type": "SaveImage", "inputs": {"images": ["a", 0]}},
    }
    assert "circle" in refusal(graph).message
    del graph["c"]
    assert "circle" in refusal(graph).message
    assert "circle" in refusal({"a": {"class_type": "A", "inputs": {"x": ["a", 0]}}}).message


def test_a_diamond_is_no_cycle() -> None:
    """One node used twice is normal."""
    check_graph(
        {
            "a": {"class_type": "A", "inputs": {}},
            "b": {"class_type": "B", "inputs": {"x": ["a", 0]}},
            "c": {"class_type": "B", "inputs": {"x": ["a", 0], "y": ["b", 0]}},
        }
    )


def test_a_long_chain_needs_no_recursion() -> None:
    """Thousands of nodes in a row are walked, and then refused."""
    chain = {str(n): {"class_type": "A", "inputs": {"x": [str(n - 1), 0]} if n else {}} for n in range(5000)}
    refusal(chain)


def test_too_many_nodes_are_refused() -> None:
    """A graph has a size limit."""
    refusal({str(n): {"class_type": "A", "inputs": {}} for n in range(10_001)})


@pytest.mark.parametrize(
    "name",
    ["../out/x.png", "a/../../x.png", "/etc/passwd", "C:/x.png", "..\\x.png", "\\\\host\\x", "x\0.png", "file://../x"],
)
def test_loader_files_stay_in_the_input_folder(name: str) -> None:
    """ComfyUI itself reads any picture of the host."""
    with pytest.raises(UnsafeInput) as caught:
        check_graph(with_node(class_type="LoadImage", inputs={"image": name}))
    assert caught.value.details["field"] == "image"


@pytest.mark.parametrize(
    "name", ["x.png", "job/x.png", "a..b.png", "x.png [output]", "https://h/a/../b.png?x=/etc", ""]
)
def test_plain_names_and_urls_pass(name: str) -> None:
    """What stays inside, or is fetched first, is fine."""
    check_graph(with_node(class_type="LoadImage", inputs={"image": name}))


@pytest.mark.parametrize(
    "name",
    [
        *("a\\b.png", "https://example.com/a.png", "s3://bucket/a.png", "upload://abc.png", "x.png [output]"),
        "/9j/4AAQSkZJRgABAQAAAQABAAD" + "A" * 100,
    ],
)
def test_what_will_be_a_loader_file_passes(name: str) -> None:
    """Names in Windows' spelling, URLs, and a JPEG as base64, which begins with a slash."""
    check_graph(with_node(class_type="LoadImage", inputs={"image": name}))


@pytest.mark.parametrize("prefix", ["../x", "/x", "a\\..\\..\\b", "x" * 300, "a\0"])
def test_prefixes_stay_in_the_output_folder(prefix: str) -> None:
    """An output's prefix is checked before ComfyUI fails on it late."""
    with pytest.raises(UnsafeInput):
        check_graph(with_node(inputs={"filename_prefix": prefix}))


@pytest.mark.parametrize("prefix", ["", "a/b", "a\\b", "%date:yyyy-MM-dd%/x", "x" * 150 + "/" + "y" * 150])
def test_ordinary_prefixes_pass(prefix: str) -> None:
    """Sub-folders, also in Windows' spelling, are allowed."""
    check_graph(with_node(inputs={"filename_prefix": prefix}))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["1", "2", "A", ""]),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(["1", "2", "class_type", "inputs", "_meta", "nodes", "links", "x"]), children)
    ),
    max_leaves=25,
)


@given(anything)
def test_any_json_is_either_a_graph_or_refused(value: object) -> None:
    """No JSON makes another exception than InvalidWorkflow and UnsafeInput; errors are JSON themselves."""
    try:
        check_graph(value)
    except (InvalidWorkflow, UnsafeInput) as error:
        json.dumps(dict(error.details))


def test_a_chain_has_an_end() -> None:
    """ComfyUI's executor thread dies of a thousand nodes in a row, and with it everybody's jobs."""

    def chain(length: int) -> dict[str, Any]:
        links = {str(number): {"image": [str(number - 1), 0]} if number else {} for number in range(length)}
        return {node_id: {"class_type": "ImageInvert", "inputs": inputs} for node_id, inputs in links.items()}

    check_graph(chain(MAX_CHAIN))
    with pytest.raises(InvalidWorkflow, match="one after the other"):
        check_graph(chain(MAX_CHAIN + 1))
    wide = {"0": {"class_type": "EmptyImage", "inputs": {}}}
    wide |= {str(n): {"class_type": "X", "inputs": {"a": ["0", 0], "b": ["0", 0]}} for n in range(1, MAX_CHAIN * 2)}
    check_graph(wide)
