"""lib.comfy.fields: which strings of a graph name input files, and which of those are refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.comfy.fields import Site, check_named, is_url, safe_name, sites, url_sites, used_nodes, with_values
from lib.errors import UnsafeInput


def no_uploads(class_type: str) -> tuple[str, ...]:
    return ()


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def found(graph: dict[str, Any], uploads: Any = no_uploads) -> dict[str, str]:
    return {site.label: site.value for site in sites(graph, uploads)}


def test_fields_of_loader_nodes_are_found_and_nothing_else() -> None:
    """A prompt text may hold a URL; links and numbers are no names."""
    graph = {
        "1": node("LoadImage", image="a.png", upload="image"),
        "2": node("LoadVideo", file="v.mp4"),
        "3": node("CLIPTextEncode", text="https://example.com/x is nice"),
        "4": node("LoadAudio", audio=["9", 0]),
        "5": node("VHS_LoadImages", directory=["a", "b"], skip_first_images=1),
        "6": node("Load3D", model_file="3d/x.glb", image={"image": "i.png", "mask": "m.png", "camera_info": {}}),
    }
    assert found(graph) == {
        "workflow.1.inputs.image": "a.png",
        "workflow.2.inputs.file": "v.mp4",
        "workflow.5.inputs.directory.0": "a",
        "workflow.5.inputs.directory.1": "b",
        "workflow.6.inputs.model_file": "3d/x.glb",
        "workflow.6.inputs.image.image": "i.png",
        "workflow.6.inputs.image.mask": "m.png",
    }


def test_fields_that_object_info_marks_for_upload_are_found() -> None:
    """Custom loaders need no table."""
    graph = {"1": node("MyLoader", clip="a.mov", other="b")}
    assert found(graph, lambda name: ("clip",) if name == "MyLoader" else ()) == {"workflow.1.inputs.clip": "a.mov"}


def test_an_image_field_of_any_class_takes_a_url_unless_the_node_fetches_it_itself() -> None:
    """A plain text there is the node's own business."""
    graph = {
        "1": node("SomeLoader", image="https://example.com/a.png"),
        "2": node("SomeLoader", image="whatever/../x"),
        "3": node("LoadImageFromUrl", image="https://example.com/a.png"),
        "4": node("ETN_LoadImageBase64", image="data:image/png;base64,AAAA"),
    }
    assert list(found(graph)) == ["workflow.1.inputs.image"]


def test_malformed_nodes_are_passed_over() -> None:
    """The engine refuses them with a better message."""
    graph: dict[str, Any] = {"1": None, "2": {"class_type": "LoadImage"}, "3": {"inputs": {"image": "x"}}, "4": []}
    assert found(graph) == {}


def test_with_urls_anywhere_every_string_that_parses_as_one_is_found() -> None:
    """The API wrapper's rule, ``_meta`` and lists included; a URL in the middle of a text is none."""
    graph = {
        "1": node("X", text="https://a/b c", more=["ftp://h/x", "see https://a/b"]) | {"_meta": {"title": "s3://b/k"}},
        "2": node("X", text="data:,x", other="//h/x", third="file:///p", fourth="https://"),
    }
    assert [site.value for site in url_sites(graph)] == ["https://a/b c", "ftp://h/x", "s3://b/k"]


def test_very_long_texts_are_no_urls() -> None:
    """Whole files in a field must not end in the parser's cache."""
    assert is_url("https://a/" + "x" * 1000) and not is_url("https://a/" + "x" * 100_000)


def site(value: str) -> Site:
    (only,) = sites({"7": node("LoadImage", image=value)}, no_uploads)
    return only


@pytest.mark.parametrize(
    "value",
    [
        *("../x.png", "a/../../x.png", "a/..", "/etc/passwd", "C:\\x.png", "c:x.png", "\\\\host\\share\\x.png"),
        *("..\\x.png", "a\0.png", "a\n.png", "../x.png [output]", "/x.png [temp]", "x.png[output]", "x" * 5000),
    ],
)
def test_names_that_lead_out_are_refused_with_node_and_field(value: str) -> None:
    """ComfyUI would read any picture of the host."""
    with pytest.raises(UnsafeInput) as caught:
        safe_name(site(value))
    assert caught.value.details["node_id"] == "7"
    assert caught.value.details["field"] == "workflow.7.inputs.image"
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("value", "name"),
    [
        *(("a.png", "a.png"), ("sub\\a.png", "sub/a.png"), ("a..b.png", "a..b.png"), ("", "")),
        *(("job/x_00001_.png [output]", "job/x_00001_.png [output]"), ("x.png [input]", "x.png [input]")),
    ],
)
def test_ordinary_names_pass_and_windows_separators_become_ours(value: str, name: str) -> None:
    """Graphs that were saved on Windows run here."""
    assert safe_name(site(value)) == name


@given(st.text(max_size=60))
def test_no_name_that_passes_leaves_its_folder(value: str) -> None:
    """Joined as ComfyUI joins it, with its suffix rule, the path stays inside."""
    import posixpath

    try:
        name = safe_name(site(value))
    except UnsafeInput:
        return
    for suffix, cut in (("[output]", 9), ("[input]", 8), ("[temp]", 7)):
        if name.endswith(suffix):
            name = name[:-cut]
            break
    joined = posixpath.normpath(posixpath.join("/in/put", name))
    assert joined == "/in/put" or joined.startswith("/in/put/")


def test_replacing_copies_only_the_way_to_the_change() -> None:
    """The caller's graph is left as it was; untouched nodes are shared."""
    graph = {"1": node("A", x=["a", {"b": "c"}]), "2": node("B", y=1)}
    changed = with_values(graph, {("1", "inputs", "x", 1, "b"): "new", ("1", "inputs", "x", 0): "z"})
    assert changed["1"]["inputs"]["x"] == ["z", {"b": "new"}]
    assert graph["1"]["inputs"]["x"] == ["a", {"b": "c"}]
    assert changed["2"] is graph["2"]
    assert with_values(graph, {}) is graph


@pytest.mark.parametrize("value", ["", ".", "./", "  "])
def test_a_picture_that_is_used_needs_a_name(value: str) -> None:
    """ComfyUI would take its whole folder for the file; a loader that nobody uses may be left empty."""
    graph = {"1": node("LoadImage", image=value), "2": node("ImageInvert", image=["1", 0])}
    (found,) = sites(graph, no_uploads)
    with pytest.raises(UnsafeInput) as caught:
        check_named(found, used_nodes(graph))
    assert caught.value.details["field"] == "workflow.1.inputs.image"
    check_named(found, used_nodes({"1": graph["1"]}))
    check_named(site("a.png"), used_nodes(graph))
