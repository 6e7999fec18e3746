"""lib.comfy.seclusion: what strangers' graphs may not name; and that their files can't be guessed, on a ComfyUI."""

import os
from pathlib import Path
from typing import Any

import pytest

from lib.comfy.seclusion import check_stranger
from lib.errors import UnsafeInput
from tests.fakes import workflows as w
from tests.fakes.engine_world import World, job_of

JOB_ID = "0d9b3a54-6d4c-4a3e-8f53-3c1b0e7f2a11"
DIGEST = "0123456789abcdef" * 2


def uploads(class_type: str) -> tuple[str, ...]:
    return ("clip",) if class_type == "MyLoader" else ()


@pytest.mark.parametrize(
    ("class_type", "field", "value"),
    [
        ("LoadImage", "image", "order-1/a_00001_.png [output]"),
        ("LoadImage", "image", "order-1\\a_00001_.png [output]"),
        ("LoadImage", "image", f"{JOB_ID}/../order-1/a.png [output]"),
        ("LoadImage", "image", {"__value__": "order-1/a.png [output]"}),
        ("LoadImage", "image", "ComfyUI_temp_abcde_00001_.png [temp]"),
        ("LoadImage", "image", f"{JOB_ID}/a.png [temp]"),
        ("LoadImage", "image", ["5", 0]),
        ("MyLoader", "clip", "order-1 [output]"),
        ("MyLoader", "clip", ["5", 0]),
        ("Load3D", "image", {"image": "order-1/a.png [output]"}),
        ("AnyPack", "whatever", "order-1/a.png [output]"),
        ("VHS_LoadImages", "directory", "pyworker"),
        ("LoadImageDataSetFromFolder", "folder", "pyworker"),
        ("LoadImageTextDataSetFromFolder", "folder", f"pyworker/{DIGEST}"),
        ("AnyPack", "folder", "./3d/pyworker/"),
        ("AnyPack", "folder", "pyworker [input]"),
    ],
)
def test_a_stranger_can_not_name_what_may_be_another_ones(class_type: str, field: str, value: Any) -> None:
    """Outputs of other jobs, temporary files, and the folders where everybody's inputs lie."""
    with pytest.raises(UnsafeInput) as caught:
        check_stranger({"1": w.node(class_type, **{field: value})}, uploads)
    assert caught.value.details["field"] == f"workflow.1.inputs.{field}"
    assert caught.value.details["reason"] == "not_yours"


@pytest.mark.parametrize(
    ("class_type", "field", "value"),
    [
        ("LoadImage", "image", f"{JOB_ID}/hw/a_00001_.png [output]"),
        ("LoadImage", "image", "example.png"),
        ("LoadImage", "image", "example.png [input]"),
        ("LoadImage", "image", f"pyworker/{DIGEST}.png"),
        ("LoadImage", "image", "https://files.example/pyworker"),
        ("CLIPTextEncode", "text", "a cat [output]"),
        ("CLIPTextEncode", "text", "line.\nline [temp]"),
        ("SaveImage", "filename_prefix", "pyworker"),
        ("SaveImage", "images", ["5", 0]),
        ("KSampler", "seed", 5),
    ],
)
def test_what_a_stranger_needs_passes(class_type: str, field: str, value: Any) -> None:
    """An output of a job whose id one knows, the operator's shared inputs, and texts."""
    check_stranger({"1": w.node(class_type, **{field: value})}, uploads)


async def test_a_strangers_files_lie_where_nobody_guesses(world: World) -> None:
    """In a folder of the job's id; the caller's names are the same as ever."""
    job = job_of("order-1", stranger=True, run=2)
    (output,) = (await world.run(w.picture("hw/w1"), job=job)).outputs
    assert Path(output.local_path) == world.output / job.job_id / "hw" / "w1_00001_.png"
    assert (output.filename, output.subfolder) == ("w1_00001_.png", "hw")


@pytest.mark.parametrize("name", ["order-2/hw/w1_00001_.png", "other_00001_.png"])
async def test_a_preview_node_shows_a_stranger_no_file_of_another_job(world: World, name: str) -> None:
    """``Preview3D`` reports whatever path it is given; the operator's own jobs may go on with it."""
    job = job_of("order-2")
    (made,) = (await world.run(w.picture("hw/w1"), job=job)).outputs
    path = world.output / name
    if path != Path(made.local_path):
        path.write_bytes(Path(made.local_path).read_bytes())
        os.utime(path, (1e9, 1e9))
    theirs = await world.run(w.preview_3d(name), job=job_of(stranger=True))
    assert theirs.outputs == ()
    ours = await world.run(w.preview_3d(name), job=job_of())
    assert [output.local_path for output in ours.outputs] == [str(path)]


async def test_a_preview_node_shows_a_stranger_what_the_job_itself_made(world: World) -> None:
    """Its own folder is known by the job's id."""
    job = job_of(stranger=True)
    graph = w.picture("hw/w1") | {"9": w.node("Preview3D", model_file=f"{job.job_id}/hw/w1_00001_.png")}
    outputs = (await world.run(graph, job=job)).outputs
    assert sorted(output.node_id for output in outputs) == ["2", "9"]
