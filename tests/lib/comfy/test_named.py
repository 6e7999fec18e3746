"""lib.comfy.named: which strings of a graph mean a request's own files, and what is wrong with names."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.comfy.fields import Form
from lib.comfy.named import check_names, unused, uses
from lib.errors import InvalidRequest, UnsafeInput
from lib.jobs.model import NamedInput

OPTIONS = {
    ("KSampler", "sampler_name"): ("euler", "heun"),
    ("Lister", "file"): ("old.png", "photo.png"),
    ("LoadImage", "image"): ("photo",),
}


def files(*names: str) -> tuple[NamedInput, ...]:
    return tuple(NamedInput(name=name, value="x", field=f"images[{i}].image") for i, name in enumerate(names))


def found(class_type: str, given: tuple[NamedInput, ...], **inputs: Any) -> list[tuple[str, str]]:
    """Path and file name of each use."""
    graph = {"1": {"class_type": class_type, "inputs": inputs}}
    sites = uses(
        graph,
        given,
        uploads=lambda name: ("image",) if name == "LoadImage" else (),
        options=lambda class_type, name: OPTIONS.get((class_type, name), ()),
    )
    return [(".".join(map(str, site.path[2:])), site.named.name if site.named else "") for site in sites]


@pytest.mark.parametrize(
    ("name", "class_type", "inputs", "where"),
    [
        ("photo.png", "LoadImage", {"image": "photo.png"}, ["image"]),
        ("photo.png", "LoadImage", {"image": "photo.png [input]"}, ["image"]),
        ("photo.png", "LoadImage", {"image": "photo.png [output]"}, []),
        ("photo.png", "Anything", {"some_text": "photo.png", "other": "see photo.png"}, ["some_text"]),
        ("sub/photo.png", "Anything", {"a": "sub\\photo.png", "b": "sub/photo.png", "c": "photo.png"}, ["a", "b"]),
        ("sub\\photo.png", "Anything", {"a": "sub/photo.png"}, ["a"]),
        ("photo.png", "Rows", {"row": {"on": True, "file": "photo.png"}}, ["row.file"]),
        ("photo.png", "Many", {"all": ["a.png", ["photo.png"]]}, ["all.1.0"]),
        ("photo.png", "Linked", {"image": ["photo.png", 0]}, []),
        ("photo", "LoadImage", {"image": "photo"}, ["image"]),
        ("photo.png", "Lister", {"file": "photo.png"}, ["file"]),
        ("euler", "KSampler", {"sampler_name": "euler", "note": "euler"}, ["note"]),
        ("photo.png", "SaveImage", {"filename_prefix": "photo.png"}, []),
    ],
)
def test_a_name_is_found_wherever_it_is_the_whole_text(
    name: str, class_type: str, inputs: dict[str, Any], where: list[str]
) -> None:
    """Loader or not; but for links, prefixes of outputs, and choices that look like no file."""
    assert found(class_type, files(name), **inputs) == [(path, name) for path in where]


def test_a_folder_of_the_names_is_meant_where_a_folder_is_read() -> None:
    """Its files in their order; a folder field's own list of names, too."""
    given = files("frames/2.png", "frames/1.png", "frames/deep/3.png", "photo.png")
    inside = [("directory.0", "frames/1.png"), ("directory.1", "frames/2.png")]
    assert found("VHS_LoadImages", given, directory="frames") == inside
    assert found("VHS_LoadImages", given, directory="frames\\") == inside
    assert found("VHS_LoadImages", given, directory="elsewhere") == []
    assert found("VHS_LoadImages", given, directory=["photo.png"]) == [("directory.0", "photo.png")]
    assert found("Anything", given, directory="frames") == []


def test_malformed_nodes_are_passed_over() -> None:
    """Others refuse them with a better message."""
    graph: dict[str, Any] = {"1": None, "2": {"class_type": 3, "inputs": {}}, "3": {"class_type": "X", "inputs": []}}
    assert uses(graph, files("a.png"), uploads=lambda _: (), options=lambda *_: ()) == []


def test_what_the_field_wants_is_known_where_the_loader_is() -> None:
    """So that it gets a name, a folder or a path, of a kind of file that it reads."""
    graph = {"1": {"class_type": "VHS_LoadVideoPath", "inputs": {"video": "a.mp4", "note": "a.mp4"}}}
    kinds = [site.kind for site in uses(graph, files("a.mp4"), uploads=lambda _: (), options=lambda *_: ())]
    assert [kind.form for kind in kinds] == [Form.PATH, Form.NAME]
    assert kinds[0].accept and not kinds[1].accept


@pytest.mark.parametrize(
    "name",
    ["", " ", "/etc/passwd", "..", "a/../b.png", "..\\b.png", "C:\\a.png", "\\\\srv\\a.png", "a//b.png", "a/",
     "./a.png", "a\0.png", "a\n.png", "x" * 1025],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    """With the request's field, and what would do."""
    with pytest.raises(
        UnsafeInput, match=r"images\[1\]\.image .*the name is not allowed; expected a file name"
    ) as caught:
        check_names(files("fine.png", name))
    assert caught.value.details["field"] == "images[1].image"
    assert len(caught.value.message) < 500


def test_a_name_comes_once() -> None:
    """However it is written."""
    check_names(files("a/b.png", "b.png"))
    with pytest.raises(InvalidRequest, match=r"images\[1\]\.image .* names must be unique"):
        check_names(files("a/b.png", "a\\b.png"))


def test_a_file_that_nobody_names_is_told() -> None:
    """By its field and name."""
    given = files("a.png", "b.png")
    sites = uses(
        {"1": {"class_type": "X", "inputs": {"a": "b.png"}}}, given, uploads=lambda _: (), options=lambda *_: ()
    )
    assert unused(given, sites) == ("images[0].image ('a.png'): no node uses this file",)


@given(st.text(max_size=20))
def test_what_is_no_name_is_never_changed(text: str) -> None:
    """Whatever it is."""
    if text.replace("\\", "/").removesuffix("[input]").strip() != "photo.png":
        assert found("Anything", files("photo.png"), text=text, row={"text": text}) == []
