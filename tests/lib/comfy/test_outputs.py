"""From a history entry and files to outputs, without an engine."""

import base64
from pathlib import Path

import pytest

from lib.comfy.outputs import Item, cleaned, inspect, listed, located, reporting, within
from lib.comfy.ports import Folders
from lib.comfy.rewrite import Restorer
from lib.jobs.model import OutputKind
from tests.fakes.comfyui_nodes import image_png

RESTORER = Restorer(folder="job")


def _file(name: str = "a.png", **options: str) -> dict[str, str]:
    return {"filename": name, "subfolder": "", "type": "output", **options}


def test_order_is_the_callers_and_expanded_nodes_stand_under_their_own() -> None:
    """``meta`` says which node a caller sees."""
    entry = {
        "outputs": {"5.0.1": {"images": [_file("x.png")]}, "9": {"images": [_file("y.png")]}, "zz": {"text": ["?"]}},
        "meta": {"5.0.1": {"display_node": "5"}},
    }
    assert [item.node_id for item in listed(entry, order=["9", "5"], include_temp=False)] == ["9", "5", "zz"]


def test_types_that_are_not_outputs_stay_out() -> None:
    """Temp files only when asked for, input files never; no type means output."""
    entry = {
        "outputs": {"1": {"images": [_file("t.png", type="temp"), _file("i.png", type="input"), {"filename": "o.png"}]}}
    }
    assert [item.filename for item in listed(entry, order=[], include_temp=False)] == ["o.png"]
    assert [item.filename for item in listed(entry, order=[], include_temp=True)] == ["t.png", "o.png"]


def test_rubbish_is_skipped() -> None:
    """Values that are neither files nor texts; keys that are not lists."""
    entry = {
        "outputs": {
            "1": {"a": [None, True, 3, {}, {"filename": 7}, {"filename": ""}], "b": None, "text": "one text"},
            "2": None,
            "3": {"result": ["no suffix", "line\nbreak.png", ""]},
        }
    }
    items = listed(entry, order=[], include_temp=True)
    assert [(item.key, item.text) for item in items] == [("text", "one text")]
    assert listed({}, order=[], include_temp=True) == ()


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (Item(node_id="1", key="k", filename="a.png"), "/out/a.png"),
        (Item(node_id="1", key="k", filename="b/a.png", subfolder="s"), "/out/s/b/a.png"),
        (Item(node_id="1", key="k", filename="/out/s/a.png"), "/out/s/a.png"),
        (Item(node_id="1", key="k", filename="t.png", folder_type="temp"), "/temp/t.png"),
        (Item(node_id="1", key="k", filename="../a.png"), None),
        (Item(node_id="1", key="k", filename="a.png", subfolder="../outside"), None),
        (Item(node_id="1", key="k", filename="/outside/a.png"), "/out/outside/a.png"),
        (Item(node_id="1", key="k", filename="/out/../etc/passwd"), None),
        (Item(node_id="1", key="k", filename="."), None),
    ],
)
def test_names_never_lead_out_of_their_folder(item: Item, expected: str | None) -> None:
    """Whatever a pack reports."""
    folders = Folders(output=Path("/out"), input=Path("/in"), temp=Path("/temp"))
    assert located(item, folders) == expected


def test_temp_files_have_no_place_where_that_folder_is_unknown() -> None:
    """They are fetched instead."""
    folders = Folders(output=Path("/out"), input=Path("/in"))
    assert located(Item(node_id="1", key="k", filename="t.png", folder_type="temp"), folders) is None


def test_a_file_is_what_its_bytes_say(tmp_path: Path) -> None:
    """The name lies, the content doesn't."""
    path = tmp_path / "film.mp4"
    path.write_bytes(image_png(7, 5))
    item = Item(node_id="1", key="gifs", filename="film.mp4", subfolder="job/x")
    (output,) = inspect([item], paths={item: str(path)}, restorer=RESTORER)
    assert (output.kind, output.mime_type, output.width, output.height) == (OutputKind.IMAGE, "image/png", 7, 5)
    assert (output.filename, output.subfolder, output.size_bytes) == ("film.mp4", "x", path.stat().st_size)


def test_small_files_are_inlined_together_or_not_at_all(tmp_path: Path) -> None:
    """Under the limit all of them, over it none: what is half done would be read twice."""
    contents = [image_png(7, 5), b"", b"\xff\xd8\xff\xe0" + bytes(20_000)]  # also more than a header, and nothing
    items = [Item(node_id="1", key="files", filename=f"{number}") for number in range(len(contents))]
    paths: dict[Item, str | None] = {item: str(tmp_path / item.filename) for item in items}
    for item, content in zip(items, contents, strict=True):
        (tmp_path / item.filename).write_bytes(content)
    size = sum(map(len, contents))

    def inlined(limit: int) -> list[str | None]:
        found = inspect(items, paths=paths, restorer=RESTORER, inline_bytes=limit)
        return [output.data_base64 for output in within(found, inline_bytes=limit)]

    assert inlined(size) == [base64.b64encode(content).decode() for content in contents]
    assert inlined(size - 1) == [None] * len(contents)
    assert [output.data_base64 for output in inspect(items, paths=paths, restorer=RESTORER)] == [None] * len(contents)


def test_a_missing_file_is_an_error_on_its_entry(tmp_path: Path) -> None:
    """Never dropped in silence; a bare string that is no file is no output at all."""
    sure = Item(node_id="1", key="images", filename="a.png")
    perhaps = Item(node_id="1", key="result", filename="a.thing", certain=False)
    paths: dict[Item, str | None] = {sure: str(tmp_path / "a.png"), perhaps: str(tmp_path / "a.thing")}
    (output,) = inspect([sure, perhaps], paths=paths, restorer=RESTORER)
    assert output.error is not None and "does not exist" in output.error
    assert (output.local_path, output.kind) == ("", OutputKind.IMAGE)


def test_an_unreadable_file_says_why(tmp_path: Path) -> None:
    """A folder where a file should be."""
    item = Item(node_id="1", key="images", filename="a.png")
    (output,) = inspect([item], paths={item: str(tmp_path)}, restorer=RESTORER)
    assert output.error is not None and "irectory" in output.error


def test_the_entry_is_shown_with_the_callers_graph() -> None:
    """Everything else as ComfyUI has it."""
    entry = {
        "prompt": [3, "id", {"1": "rewritten"}, {"client_id": "c", "pyworker": {"folder": "job"}}, ["1"]],
        "outputs": {"1": {"images": [_file(subfolder="job/hw")]}},
        "status": {"status_str": "success"},
        "meta": {},
    }
    shown = cleaned(entry, caller_graph={"1": "mine"}, restorer=RESTORER)
    assert shown["prompt"] == [3, "id", {"1": "mine"}, {"client_id": "c"}, ["1"]]
    assert shown["outputs"]["1"]["images"][0]["subfolder"] == "hw"
    assert entry["prompt"][2] == {"1": "rewritten"}  # type: ignore[index]


def test_a_3d_preview_reports_paths_as_they_stand(tmp_path: Path) -> None:
    """``[model, camera, background]``; the background lies in the temp folder, under its own name there."""
    entry = {"outputs": {"1": {"result": ["mesh/a.glb", {"position": 1}, "temp/bg_1.png"]}}}
    model, background = listed(entry, order=[], include_temp=True)
    assert (model.filename, model.folder_type) == ("mesh/a.glb", "output")
    assert (background.filename, background.folder_type) == ("bg_1.png", "temp")
    path = tmp_path / "a.glb"
    path.write_bytes(b"glTF" + bytes(20))
    (output,) = inspect([model], paths={model: str(path)}, restorer=RESTORER)
    assert (output.kind, output.filename, output.subfolder) == (OutputKind.MODEL_3D, "a.glb", "mesh")


def test_nodes_that_report_files_are_told_apart_from_those_that_report_none() -> None:
    """Texts are no files; a node that came by expansion stands under its own."""
    entry = {
        "outputs": {"5.0.1": {"images": [_file()]}, "2": {"text": ["a"]}, "3": {}, "4": None},
        "meta": {"5.0.1": {"display_node": "5"}, "2": None},
    }
    assert reporting(entry) == {"5"}
    assert reporting({"outputs": [], "meta": []}) == frozenset()
