"""lib.workflow.files: names inside a graph that lead out of ComfyUI's folders."""

from typing import Any

import pytest

from lib.errors import UnsafeInput
from lib.workflow.files import check_files


def graph(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"1": {"class_type": class_type, "inputs": inputs}}


@pytest.mark.parametrize("class_type", ["SaveImageDataSetToFolder", "SaveTrainingDataset", "LoadTrainingDataset"])
@pytest.mark.parametrize("value", ["/etc", "../x", "a\\..\\..\\b", ["5", 0], {"__value__": "/etc"}])
def test_folders_of_nodes_that_look_at_none_are_written_out_and_stay_inside(class_type: str, value: Any) -> None:
    """ComfyUI joins them to its output folder as they are; what comes over a link could be any path."""
    with pytest.raises(UnsafeInput) as caught:
        check_files(graph(class_type, folder_name=value))
    assert (caught.value.details["node_id"], caught.value.details["field"]) == ("1", "folder_name")
    check_files(graph(class_type, folder_name="set/a", filename_prefix="x"))


@pytest.mark.parametrize("value", ["/x", ["5", 0]])
def test_the_prefix_of_a_node_that_joins_it_as_it_is_is_written_out(value: Any) -> None:
    """SaveImageTextDataSetToFolder writes a caller's text there; other nodes ask ComfyUI where a prefix leads."""
    with pytest.raises(UnsafeInput):
        check_files(graph("SaveImageTextDataSetToFolder", folder_name="x", filename_prefix=value))
    check_files(graph("SaveImage", filename_prefix=["5", 0]))


def test_a_wrapped_value_is_what_comfyui_unwraps() -> None:
    """``{"__value__": x}`` is x."""
    with pytest.raises(UnsafeInput):
        check_files(graph("LoadImage", image={"__value__": "/etc/a.png"}))
    with pytest.raises(UnsafeInput):
        check_files(graph("SaveImage", filename_prefix={"__value__": "../x"}))


def test_a_prefix_has_an_end() -> None:
    """No file system takes more, and each of its tokens is looked up."""
    with pytest.raises(UnsafeInput, match="too long"):
        check_files(graph("SaveImage", filename_prefix="%a.b%/" * 200))
