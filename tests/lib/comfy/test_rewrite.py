"""What is changed in a graph before it is posted, and undone afterwards."""

import copy
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.comfy.catalog import Catalog, NodeClass
from lib.comfy.rewrite import Plan, Restorer, is_link, plan, resolve_tokens, titles_of
from lib.errors import InvalidWorkflow, UnsafeInput
from tests.fakes.workflows import Graph, empty, node, picture

NOW = datetime(2026, 3, 9, 7, 5, 2, tzinfo=UTC)
CATALOG = Catalog(
    {
        "EmptyImage": NodeClass(),
        "ImageInvert": NodeClass(),
        "Text": NodeClass(),
        "SaveImage": NodeClass(is_output=True, has_prefix=True),
        "PreviewImage": NodeClass(is_output=True),
    }
)


def _plan(graph: Graph) -> Plan:
    return plan(graph, CATALOG, folder="job", nonce="n", now=NOW)


def test_output_nodes_get_folder_and_nonce_and_nothing_else_changes() -> None:
    """The expensive nodes keep their inputs, and with them their place in ComfyUI's cache."""
    graph = picture("hw/a") | {"3": node("PreviewImage", images=["1", 0])}
    before = copy.deepcopy(graph)
    planned = _plan(graph)
    assert graph == before
    assert planned.graph["1"] is graph["1"]
    assert planned.graph["2"]["inputs"] == {
        "images": ["1", 0],
        "filename_prefix": "job/hw/a",
        "_nonce": "n/2",
    }
    assert planned.graph["3"]["inputs"] == {"images": ["1", 0], "_nonce": "n/3"}
    assert planned.wanted == ("2", "3")


def test_a_prefix_that_is_a_link_stays() -> None:
    """It is another node's text; the nonce alone keeps the cache out."""
    graph = {
        "1": empty(),
        "t": node("Text", value="x"),
        "2": node("SaveImage", images=["1", 0], filename_prefix=["t", 0]),
    }
    assert _plan(graph).graph["2"]["inputs"]["filename_prefix"] == ["t", 0]


def test_unreachable_nodes_are_dropped_and_unknown_ones_kept() -> None:
    """ComfyUI is to name the missing class; nobody needs the rest."""
    graph = picture() | {"7": empty(), "8": node("NoSuchNode", image=["9", 0]), "9": empty()}
    assert set(_plan(graph).graph) == {"1", "2", "8", "9"}


@pytest.mark.parametrize(
    "graph",
    [
        picture() | {"3": {"class_type": "EmptyImage"}},
        picture() | {"3": {"class_type": "EmptyImage", "inputs": []}},
        picture() | {"3": {"inputs": {}}},
        picture() | {"3": {"class_type": 7, "inputs": {}}},
        picture() | {"3": "node"},
        {7: empty()},
    ],
)
def test_what_is_not_a_node_is_refused(graph: Graph) -> None:
    """Even unreachable ones: some of them kill the executor."""
    with pytest.raises(InvalidWorkflow):
        _plan(graph)


def test_links_to_nowhere_name_node_and_field() -> None:
    """Declared or not."""
    graph = picture()
    graph["2"]["inputs"]["junk"] = ["55", 0]
    with pytest.raises(InvalidWorkflow, match="node 2, input junk") as caught:
        _plan(graph)
    assert caught.value.details == {"node_id": "2", "field": "junk"}


def test_loops_are_refused() -> None:
    """ComfyUI 0.3.75 drops such an output without a word."""
    graph = {
        "1": node("ImageInvert", image=["3", 0]),
        "3": node("ImageInvert", image=["1", 0]),
        "2": node("SaveImage", images=["1", 0], filename_prefix="x"),
    }
    with pytest.raises(InvalidWorkflow, match="loop"):
        _plan(graph)


def test_a_diamond_is_no_loop() -> None:
    """Two ways to one node."""
    graph = picture() | {"3": node("SaveImage", images=["1", 0], also=["1", 0], filename_prefix="x")}
    assert set(_plan(graph).graph) == {"1", "2", "3"}


def test_a_long_chain_needs_no_stack() -> None:
    """Five thousand nodes deep."""
    graph = picture()
    for index in range(5000):
        graph[f"n{index}"] = node("ImageInvert", image=[f"n{index + 1}" if index < 4999 else "1", 0])
    graph["2"]["inputs"]["images"] = ["n0", 0]
    assert len(_plan(graph).graph) == 5002


@pytest.mark.parametrize("prefix", ["../x", "a/../x", "/x", "\\x", "a\\..\\x", "C:/x", "c:\\x", "a\0"])
def test_prefixes_that_lead_out_are_unsafe(prefix: str) -> None:
    """By node and field."""
    with pytest.raises(UnsafeInput, match="node 2, input filename_prefix"):
        _plan(picture(prefix))


@pytest.mark.parametrize("prefix", ["x" * 201, "é" * 101, "x" * 256 + "/a"])
def test_prefixes_that_no_file_system_takes_are_refused(prefix: str) -> None:
    """Bytes count, not letters."""
    with pytest.raises(InvalidWorkflow, match="longer than"):
        _plan(picture(prefix))


@pytest.mark.parametrize(("prefix", "posted"), [("", "job/ComfyUI"), (".", "job/ComfyUI"), ("a..b", "job/a..b")])
def test_odd_prefixes_stay_in_the_folder(prefix: str, posted: str) -> None:
    """An empty one would name a file beside the folder, after it."""
    assert _plan(picture(prefix)).graph["2"]["inputs"]["filename_prefix"] == posted


@pytest.mark.parametrize(
    ("prefix", "resolved"),
    [
        ("%date:yyyy-MM-dd%/x", "2026-03-09/x"),
        ("%date:yy-M-d_hh.mm.ss%", "26-3-9_07.05.02"),
        ("%Sampler.seed%_x", "42_x"),
        ("%KSampler.seed%", "42"),
        ("%Sampler.name%", "a_b_c"),
        ("%Sampler.model%", ""),
        ("%Nobody.seed%x", "x"),
        ("%width%x%batch_num%_%year%", "%width%x%batch_num%_%year%"),
        ("100%_and_50%", "100%_and_50%"),
        ("%%", "%%"),
    ],
)
def test_tokens_of_the_web_page_are_resolved(prefix: str, resolved: str) -> None:
    """ComfyUI's server knows only its own; unknown ones of the page's two forms go."""
    sampler = node("KSampler", seed=42, name="a/b:c", model=["1", 0]) | {"_meta": {"title": "Sampler"}}
    assert resolve_tokens(prefix, titles_of({"3": sampler}), NOW) == resolved


def test_a_token_can_not_lead_out() -> None:
    """What a widget holds is the caller's text."""
    graph = picture("%Text.value%/%Text.value%") | {"t": node("Text", value="..")}
    with pytest.raises(UnsafeInput):
        _plan(graph)


@pytest.mark.parametrize(
    ("value", "expected"), [(["1", 0], True), (["1", 1.0], True), ([1, 0], False), (["1"], False), ("1", False)]
)
def test_links_are_told_as_comfyui_does(value: object, expected: bool) -> None:
    """A list of a string and a number."""
    assert is_link(value) is expected


@pytest.mark.parametrize(
    ("folder", "subfolder", "shown"),
    [
        ("job", "job", ""),
        ("job", "job/hw", "hw"),
        ("job", "job\\hw\\x", "hw/x"),
        ("job/2", "job/2/hw", "hw"),
        ("job", "jobs/hw", "jobs/hw"),
        ("job", "", ""),
        ("job", "other\\x", "other\\x"),
    ],
)
def test_our_folder_is_taken_off(folder: str, subfolder: str, shown: str) -> None:
    """Only ours, whatever the separator."""
    assert Restorer(folder=folder).subfolder(subfolder) == shown


def test_values_lose_our_folder_and_host_paths_and_nothing_more() -> None:
    """A caller's text that happens to contain the name stays."""
    restorer = Restorer(folder="job", roots=("/srv/out",))
    value = {"a": ["/srv/out/job/x.glb", "job/x.glb", "my job/x", 7, None], "subfolder": "job"}
    assert restorer.value(value) == {"a": ["x.glb", "x.glb", "my job/x", 7, None], "subfolder": ""}


@given(st.text(alphabet=st.sampled_from("ab./\\ %:~é\n"), max_size=12))
def test_whatever_is_posted_stays_under_the_folder(prefix: str) -> None:
    """Property: refused, or below the job's folder by every separator's rules."""
    try:
        posted = _plan(picture(prefix)).graph["2"]["inputs"]["filename_prefix"]
    except (UnsafeInput, InvalidWorkflow):
        return
    parts = posted.replace("\\", "/").split("/")
    assert parts[0] == "job"
    assert ".." not in parts
