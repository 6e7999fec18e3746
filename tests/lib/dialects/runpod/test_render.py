"""From jobs to RunPod's JSON."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.dialects.runpod.answers import RunPodJob
from lib.dialects.runpod.render import brief, error_text, failure, output, progress, shown, told
from lib.errors import (
    EngineDied,
    EngineUnreachable,
    ExecutionFailed,
    InputFetchFailed,
    InvalidRequest,
    InvalidWorkflow,
    JobCancelled,
    JobTimeout,
    OutOfMemory,
    ServiceError,
)
from lib.jobs.model import Job, JobSpec, JobStatus, Output, OutputKind, Progress, Timings
from lib.protocol.runpod import Shown
from tests.fakes.clock import START

from .conftest import IMAGE

SPEC = JobSpec(request_id="r-u1", dialect="runpod", workflow=b"{}")
NODE = {"node_id": "3", "node_type": "KSampler", "exception_type": "ValueError", "exception_message": "bad steps"}
DATA = replace(IMAGE, data_base64="aGk=")


def job(status: JobStatus = JobStatus.COMPLETED, **changes: Any) -> Job:
    """A job of one second in the queue and two at work."""
    started = None if status is JobStatus.QUEUED else START + timedelta(seconds=1)
    end = START + timedelta(seconds=3) if status.terminal else None
    timings = Timings(accepted_at=START, execution_started_at=started, finished_at=end)
    changes.setdefault("timings", timings)
    return Job(job_id="j", spec=SPEC, sequence=1, cost=1.0, status=status, **changes)


def failed(error: ServiceError, **changes: Any) -> Job:
    """A job that failed of it."""
    return job(JobStatus.FAILED, error=error, message=error.message, **changes)


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (job(JobStatus.QUEUED), "IN_QUEUE"),
        (job(JobStatus.RUNNING), "IN_PROGRESS"),
        (job(JobStatus.QUEUED, stopping=True), "CANCELLED"),
        (job(JobStatus.RUNNING, stopping=True), "CANCELLED"),
        (job(), "COMPLETED"),
        (job(stopping=True), "COMPLETED"),
        (job(JobStatus.CANCELLED, error=JobCancelled("x")), "CANCELLED"),
        (failed(ServiceError("x")), "FAILED"),
        (failed(JobTimeout("x")), "TIMED_OUT"),
    ],
)
def test_states(found: Job, word: str) -> None:
    """RunPod's words, and which of them are final."""
    assert shown(found) == word
    assert shown(found).final == (word not in ("IN_QUEUE", "IN_PROGRESS"))


def test_the_object_of_each_state() -> None:
    """Times from the moment on when they are known; ``retries`` where there were any."""
    now = START + timedelta(milliseconds=1500)
    waiting = brief(job(JobStatus.QUEUED), worker_id="w", now=now)
    assert waiting == {"id": "r-u1", "status": "IN_QUEUE"}
    running = brief(job(JobStatus.RUNNING), worker_id="w", now=now)
    assert running == {
        "id": "r-u1",
        "status": "IN_PROGRESS",
        "delayTime": 1000,
        "executionTime": 500,
        "workerId": "w",
    }
    done = brief(job(run=3), worker_id="w", now=now)
    assert (done["delayTime"], done["executionTime"], done["retries"]) == (1000, 2000, 2)


def test_a_job_that_never_ran_has_times_too() -> None:
    """A client that adds them up finds them."""
    end = START + timedelta(seconds=3)
    found = failed(InvalidRequest("x"), timings=Timings(accepted_at=START, finished_at=end))
    assert brief(found, worker_id="w", now=end)["delayTime"] == 3000
    assert brief(found, worker_id="w", now=end)["executionTime"] == 0


def test_progress() -> None:
    """The shape that upstream's users asked for; nothing while there is nothing."""
    assert progress(job(JobStatus.RUNNING)) is None
    assert progress(job(JobStatus.QUEUED, progress=Progress(percent=5.0))) is None
    steps = Progress(percent=37.5, node_id="3", value=3.0, maximum=8.0)
    assert progress(job(JobStatus.RUNNING, progress=steps)) == {
        "type": "progress",
        "value": 3,
        "max": 8,
        "percent": 37.5,
        "node": "3",
    }
    assert progress(job(JobStatus.RUNNING, progress=Progress(percent=12.0))) == {
        "type": "progress",
        "value": 12,
        "max": 100,
        "percent": 12,
    }


def test_pictures() -> None:
    """Base64 where it came inside, else the URL."""
    link = replace(IMAGE, filename="b.png", url="https://example.com/b.png")
    assert output(job(outputs=(DATA, link)), legacy=False) == {
        "images": [
            {"filename": "a.png", "type": "base64", "data": "aGk="},
            {"filename": "b.png", "type": "s3_url", "data": "https://example.com/b.png"},
        ]
    }


def test_other_kinds_stand_beside_the_pictures() -> None:
    """A video that ComfyUI lists under ``images`` stays there; a picture under another key is one."""
    video = replace(DATA, kind=OutputKind.VIDEO, source_key="gifs", filename="v.mp4", mime_type="video/mp4")
    audio = replace(DATA, kind=OutputKind.AUDIO, source_key="audio", filename="s.flac", mime_type="audio/flac")
    model = replace(DATA, kind=OutputKind.MODEL_3D, source_key="3d", filename="m.glb", mime_type="model/gltf-binary")
    text = Output(node_id="7", kind=OutputKind.TEXT, source_key="text", text="hello")
    listed = replace(video, source_key="images", filename="w.mp4")
    gif = replace(DATA, source_key="gifs", filename="x.gif", mime_type="image/gif")
    found = output(job(outputs=(video, audio, model, text, listed, gif)), legacy=False)
    assert [entry["filename"] for entry in found["images"]] == ["w.mp4", "x.gif"]
    assert found["videos"] == [
        {"filename": "v.mp4", "type": "base64", "data": "aGk=", "mime_type": "video/mp4", "node_id": "2"}
    ]
    assert [entry["filename"] for entry in found["audio"]] == ["s.flac"]
    assert [entry["filename"] for entry in found["files"]] == ["m.glb"]
    assert found["text"] == [{"node_id": "7", "text": "hello"}]
    assert "errors" not in found
    assert "status" not in found


def test_no_pictures() -> None:
    """worker-comfyui's word for it, with whatever else there is."""
    assert output(job(), legacy=False) == {"status": "success_no_images", "images": []}
    text = Output(node_id="7", kind=OutputKind.TEXT, source_key="text", text="hello")
    found = output(job(outputs=(text,)), legacy=False)
    assert found == {"status": "success_no_images", "images": [], "text": [{"node_id": "7", "text": "hello"}]}


def test_problems_are_errors_and_notes_are_not() -> None:
    """A client that takes ``errors`` for trouble is right."""
    partial = "Workflow execution error: Node Type: A, Node ID: 5, Message: no"
    found = output(job(outputs=(DATA,), warnings=("a path was rewritten", partial), problems=(partial,)), legacy=False)
    assert found["errors"] == [partial]
    assert found["warnings"] == ["a path was rewritten"]


def test_an_upload_that_failed_is_told_without_our_paths() -> None:
    """The file came inside instead."""
    rescued = replace(DATA, upload_error="disk /srv/out/a.png is gone", local_path="/srv/out/a.png", url="https://w/a")
    found = output(job(outputs=(rescued,)), legacy=False)
    assert found["images"] == [{"filename": "a.png", "type": "base64", "data": "aGk="}]
    assert found["errors"] == ["a.png: disk a.png is gone"]


def test_a_file_by_url_because_of_its_size_is_no_error() -> None:
    """It is there."""
    large = replace(IMAGE, url="https://w/a", local_path="/o/a.png", error="exceeds OUTPUT_BASE64_MAX_BYTES")
    found = output(job(outputs=(large,)), legacy=False)
    assert found == {"images": [{"filename": "a.png", "type": "s3_url", "data": "https://w/a"}]}


def test_files_that_are_all_gone_are_a_failure() -> None:
    """As upstream: files were listed and none could be fetched."""
    lost = job(outputs=(replace(IMAGE, error="ComfyUI reported this file, and it does not exist"),))
    assert shown(lost) is Shown.FAILED
    answer = told(lost, legacy=False)
    assert answer["error"] == "Job processing failed: a.png: ComfyUI reported this file, and it does not exist"
    assert answer["output"]["details"] == ["a.png: ComfyUI reported this file, and it does not exist"]
    half = output(replace_outputs(lost, (*lost.outputs, replace(DATA, filename="b.png"))), legacy=False)
    assert [entry["filename"] for entry in half["images"]] == ["b.png"]
    assert len(half["errors"]) == 1


def replace_outputs(found: Job, outputs: tuple[Output, ...]) -> Job:
    """The same job with other outputs."""
    return found.with_(outputs=outputs)


def test_the_form_before_5_0() -> None:
    """The last picture, as upstream's loop left it."""
    two = job(outputs=(replace(DATA, data_base64="first"), DATA))
    assert output(two, legacy=True) == {"status": "success", "message": "aGk="}
    assert output(job(), legacy=True)["status"] == "error"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            ExecutionFailed("Node 3 (KSampler) failed: ValueError: bad steps", details=NODE),
            "Job processing failed: Workflow execution error: Node Type: KSampler, Node ID: 3, Message: bad steps",
        ),
        (
            OutOfMemory("Node 3 (KSampler) ran out of memory: bad steps", details=NODE),
            "Job processing failed: Workflow execution error: Node Type: KSampler, Node ID: 3, Message: bad steps",
        ),
        (ExecutionFailed("ComfyUI did not run output node 9"), "Job processing failed: ComfyUI did not run output"),
        (EngineDied("ComfyUI ended with code -9", started=True), "Job processing failed: ComfyUI ended with code -9"),
        (EngineUnreachable("refused"), "ComfyUI server not reachable after multiple retries: refused"),
        (JobTimeout("The job ran longer than 5 s"), "The job ran longer than 5 s"),
        (InvalidRequest("Missing 'workflow' parameter"), "Missing 'workflow' parameter"),
        (InvalidWorkflow("node 4 (A), input x: no"), "node 4 (A), input x: no"),
        (ServiceError("The worker failed"), "The worker failed"),
    ],
)
def test_errors_say_why(error: ServiceError, text: str) -> None:
    """worker-comfyui's words first, node and message among them."""
    assert error_text(failed(error)).startswith(text)


def test_images_that_could_not_be_brought_in() -> None:
    """Each of them is named in ``details``."""
    listed = ["images[0].image ('a.png'): no base64", "images[1].image ('b.png'): 404"]
    error = InputFetchFailed("; ".join(listed), details={"field": "images[0].image", "errors": listed})
    assert error_text(failed(error)).startswith("Failed to upload one or more input images: images[0]")
    assert failure(failed(error))["details"] == listed


def test_what_stands_beside_an_error() -> None:
    """Texts in ``details``, and what programs want; nothing named ``error`` or ``errors``, which means something else
    there."""
    nodes = {"4": {"class_type": "A", "errors": []}}
    error = InvalidWorkflow("no", details={"error": {"type": "x"}, "node_errors": nodes, "errors": [{"loc": []}]})
    assert failure(failed(error)) == {
        "details": ["no"],
        "code": "invalid_workflow",
        "retryable": False,
        "comfyui_error": {"type": "x"},
        "node_errors": nodes,
    }


def test_a_cancelled_job_has_neither() -> None:
    """Nobody asked for more."""
    assert told(job(JobStatus.CANCELLED, error=JobCancelled("x")), legacy=False) == {}


OUTPUTS = st.builds(
    replace,
    st.just(IMAGE),
    kind=st.sampled_from(OutputKind),
    source_key=st.sampled_from(["images", "gifs", "audio", "text"]),
    filename=st.sampled_from(["", "a.png"]),
    text=st.none() | st.just("t"),
    data_base64=st.none() | st.just("aGk="),
    url=st.none() | st.just("https://w/a"),
    error=st.none() | st.just("gone"),
    upload_error=st.none() | st.just("denied"),
    local_path=st.sampled_from(["", "/o/a.png"]),
)
PROGRESS = st.builds(
    Progress,
    percent=st.floats(0, 100),
    node_id=st.none() | st.just("3"),
    value=st.none() | st.floats(0, 1e6),
    maximum=st.none() | st.floats(0, 1e6),
)


@settings(max_examples=200, deadline=None)
@given(
    status=st.sampled_from(JobStatus),
    outputs=st.lists(OUTPUTS, max_size=4),
    news=PROGRESS,
    error=st.sampled_from([ServiceError("x"), JobTimeout("x"), ExecutionFailed("x", details=NODE)]),
    run=st.integers(1, 3),
    started=st.none() | st.integers(-10_000_000, 10_000_000),
    legacy=st.booleans(),
)
def test_every_job_fits_the_clients(
    status: JobStatus,
    outputs: list[Output],
    news: Progress,
    error: ServiceError,
    run: int,
    started: int | None,
    legacy: bool,
) -> None:
    """Integers, a text for an error, no null anywhere, whatever the clock did."""
    began = None if started is None else START + timedelta(microseconds=started)
    timings = Timings(accepted_at=START, execution_started_at=began, finished_at=START if status.terminal else None)
    found = job(
        status,
        timings=timings,
        outputs=tuple(outputs),
        progress=news,
        run=run,
        error=error if status is JobStatus.FAILED else None,
    )
    whole = brief(found, worker_id="w", now=START + timedelta(seconds=2)) | told(found, legacy=legacy)
    body = orjson.loads(orjson.dumps(whole))
    RunPodJob.model_validate(body)
    for name in ("delayTime", "executionTime", "retries"):
        assert type(body.get(name, 0)) is int
        assert body.get(name, 0) >= 0
    assert type(body.get("error", "")) is str
    assert not _holds_null(body)
    assert ("error" in body) == (body["status"] in ("FAILED", "TIMED_OUT"))


def _holds_null(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_null, value.values()))
    return any(map(_holds_null, value)) if isinstance(value, list) else value is None
