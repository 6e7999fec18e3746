"""What is told of a job: times, files, nothing of this host."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.dialects.salad import render
from lib.dialects.salad.failures import failure, location, reason
from lib.errors import InputFetchFailed, InvalidRequest, InvalidWorkflow, JobNotFound, StorageFailed, UnsafeInput
from lib.jobs.model import DeliverySpec, Job, JobStatus, Output, S3Target, Timings
from tests.fakes.clock import START
from tests.fakes.jobs import spec

from .conftest import IMAGE

BUCKET = S3Target(bucket_name="b", access_key_id="a", secret_access_key="s", plain=True)


def job(*outputs: Output, delivery: DeliverySpec | None = None, **changes: Any) -> Job:
    """A job that is completed."""
    times = Timings(
        accepted_at=START,
        execution_started_at=START + timedelta(milliseconds=30),
        finished_at=START + timedelta(milliseconds=200),
        prepare_s=0.0104,
        wait_s=0.01,
        execute_s=0.1,
        collect_s=0.02,
        deliver_s=0.03,
        node_starts_s={"1": 0.001, "3": 0.05},
    )
    made = {"timings": times, "status": JobStatus.COMPLETED, "outputs": outputs} | changes
    own = spec("abc", workflow=b'{"1":{}}', delivery=delivery or DeliverySpec(inline_base64=True))
    return Job(job_id="j", spec=own, sequence=0, cost=1.0, **made)


def test_stats() -> None:
    """Milliseconds; start and end since the epoch; nodes as they began."""
    start = int(START.timestamp() * 1000) + 30
    span = {"start": start, "end": start + 100, "duration": 100}
    assert render.stats(job()) == {
        "comfy_execution": {**span, "nodes": {"1": {"start": start + 1}, "3": {"start": start + 50}}, "total": span},
        "preprocess_time": 10.4,
        "comfy_round_trip_time": 130.0,
        "postprocess_time": 30.0,
        "upload_time": 0,
        "total_time": 200.0,
    }


def test_stats_of_an_upload() -> None:
    """What follows ComfyUI is the upload then; before the end nobody knows of it."""
    uploaded = job(delivery=DeliverySpec(s3=BUCKET))
    assert (render.stats(uploaded)["upload_time"], render.stats(uploaded)["postprocess_time"]) == (30.0, 0)
    assert render.stats(uploaded, to_the_end=False).keys() == render.stats(uploaded).keys() - {
        "upload_time",
        "total_time",
    }


def test_stats_without_an_execution() -> None:
    """Everything was cached, or an earlier life of the worker knew."""
    told = render.stats(job(timings=Timings(accepted_at=START)))
    assert told["comfy_execution"] == {"start": None, "end": None, "duration": None, "nodes": {}, "total": None}
    assert told["total_time"] == 0


@given(st.lists(st.sampled_from(["file", "nested", "lost", "text"]), max_size=8))
def test_images_and_filenames_belong_together(kinds: list[str]) -> None:
    """Every file that is there, in the job's order."""
    made = [
        {
            "file": replace(IMAGE, filename=f"{n}.png", data_base64=str(n)),
            "nested": replace(IMAGE, filename=f"{n}.png", subfolder="a/b", data_base64=str(n)),
            "lost": replace(IMAGE, filename=f"{n}.png", error="gone"),
            "text": replace(IMAGE, filename="", text="hi"),
        }[kind]
        for n, kind in enumerate(kinds)
    ]
    told = render.result(job(*made))
    there = [n for n, kind in enumerate(kinds) if kind in ("file", "nested")]
    assert told["images"] == [str(n) for n in there]
    assert told["filenames"] == [f"a/b/{n}.png" if kinds[n] == "nested" else f"{n}.png" for n in there]
    assert len(told["outputs"]) == len(kinds) - kinds.count("text")
    assert len(told.get("text", [])) == kinds.count("text")


def test_a_file_that_is_too_large_is_linked() -> None:
    """And it is said why."""
    large = replace(
        IMAGE, local_path="/host/secret/x.png", url="https://w/x", error="local file /host/secret/x.png: no"
    )
    told = render.result(job(large))
    assert told["images"] == ["https://w/x"]
    assert told["warnings"] == ["x_ComfyUI_00001_.png: local file x_ComfyUI_00001_.png: no"]
    assert b"/host" not in orjson.dumps(told)


def test_warnings_are_told_once() -> None:
    """Those of the job and of its files."""
    one = replace(IMAGE, data_base64="a", warnings=("option x has no effect",))
    told = render.result(job(one, one, warnings=("note", "note")))
    assert told["warnings"] == ["note", "option x has no effect"]


def test_a_job_whose_files_are_all_lost_failed() -> None:
    """One that has a single file left, or never made one, did not."""
    lost = replace(IMAGE, error="gone")
    assert isinstance(render.error_of(job(lost, lost)), StorageFailed)
    assert render.error_of(job(lost, replace(IMAGE, data_base64="a"))) is None
    assert render.error_of(job()) is None


def test_encoding_keeps_the_order_and_survives_every_text() -> None:
    """Also what the fast encoder refuses; a graph goes through as it is."""
    body = {"prompt": orjson.Fragment(b'{"b": 1,"a":2}'), "id": "\ud800", "n": 2**70}
    assert render.encoded(body) == b'{"prompt":{"b": 1,"a":2},"id":"\\ud800","n":%d}' % 2**70


@pytest.mark.parametrize(
    ("error", "text", "place"),
    [
        (InvalidRequest("x", details={"errors": [{"loc": ["body", "s3", "bucket"], "msg": "m"}]}), "x", "s3.bucket"),
        (InvalidRequest("x", details={"errors": [{"loc": ["input", "a", 0], "msg": "m"}]}), "x", "input.a.0"),
        (InvalidRequest("x", details={"errors": [{"loc": [7], "msg": "m", "type": "json_invalid"}]}), "x", None),
        (
            InvalidRequest(
                "input: why", details={"errors": [{"loc": ["input"], "msg": "why", "type": "generate_workflow"}]}
            ),
            "why",
            "input",
        ),
        (InvalidWorkflow("x"), "x", "prompt"),
        (InvalidWorkflow("x", details={"node_id": "3", "field": "class_type"}), "x", "prompt.3.class_type"),
        (UnsafeInput("x", details={"node_id": "3", "field": "image"}), "x", "prompt.3.inputs.image"),
        (UnsafeInput("webhook: x", details={"field": "webhook"}), "webhook: x", "webhook"),
        (
            UnsafeInput(
                "workflow.a.b.inputs.file: no", details={"field": "workflow.a.b.inputs.file", "node_id": "a.b"}
            ),
            "Failed to download video for node a.b: no",
            "prompt.a.b.inputs.file",
        ),
        (
            InputFetchFailed("workflow.4.inputs.lora_name: no", details={"field": "workflow.4.inputs.lora_name"}),
            "Failed to process model for node 4: lora_name: no",
            "prompt.4.inputs",
        ),
        (JobNotFound("No such job"), "No such job", None),
    ],
)
def test_reasons_and_places(error: Any, text: str, place: str | None) -> None:
    """Dotted, from the request's top."""
    assert (reason(error), location(error)) == (text, place)
    status, body = failure(error)
    assert body["message"] == text
    assert body["error"] == (text if status == 400 else "Not Found")
    assert body.get("location") == place
