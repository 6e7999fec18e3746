"""Jobs become the wrapper's results; ``tests/upstream`` has their timings and HTTP statuses."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import errors
from lib.dialects.wrapper.answers import Accepted, Result
from lib.dialects.wrapper.render import render, render_accepted, render_refusal, render_webhook
from lib.jobs.model import (
    DeliverySpec,
    Job,
    JobSpec,
    JobStatus,
    Output,
    OutputKind,
    Progress,
    Stage,
    Timings,
    WebhookTarget,
)

ACCEPTED = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = JobSpec(request_id="abc", dialect="wrapper", workflow=b"{}")
JOB = Job(job_id="j", spec=SPEC, sequence=1, cost=100.0, timings=Timings(accepted_at=ACCEPTED))
PICTURE_OUTPUT = Output(
    node_id="9",
    kind=OutputKind.IMAGE,
    source_key="images",
    filename="a_00001_.png",
    subfolder="hw",
    local_path="/out/abc/a_00001_.png",
    mime_type="image/png",
)


@pytest.mark.parametrize(
    ("status", "stage", "shown"),
    [
        (JobStatus.QUEUED, Stage.PREPARE, "pending"),
        (JobStatus.QUEUED, Stage.EXECUTE, "processing"),
        (JobStatus.RUNNING, Stage.EXECUTE, "generating"),
        (JobStatus.RUNNING, Stage.COLLECT, "generating"),
        (JobStatus.RUNNING, Stage.DELIVER, "generated"),
        (JobStatus.QUEUED, Stage.DELIVER, "generated"),
        (JobStatus.COMPLETED, Stage.DELIVER, "completed"),
        (JobStatus.FAILED, Stage.EXECUTE, "failed"),
        (JobStatus.CANCELLED, Stage.EXECUTE, "cancelled"),
    ],
)
def test_states_have_the_wrappers_names(status: JobStatus, stage: Stage, shown: str) -> None:
    """Status and stage together."""
    assert render(JOB.with_(status=status, stage=stage), include_response=True)["status"] == shown


def test_a_completed_job_has_exactly_the_documented_keys() -> None:
    """Nothing more in the usual case, so that strict clients go on working."""
    timings = replace(JOB.timings, finished_at=ACCEPTED + timedelta(seconds=3))
    job = JOB.with_(
        status=JobStatus.COMPLETED,
        stage=Stage.DELIVER,
        message="Processing complete.",
        outputs=(PICTURE_OUTPUT,),
        response={"p": {"outputs": {}}},
        timings=timings,
    )
    assert render(job, include_response=True) == {
        "id": "abc",
        "message": "Processing complete.",
        "status": "completed",
        "comfyui_response": {"p": {"outputs": {}}},
        "output": [
            {
                "filename": "a_00001_.png",
                "local_path": "/out/abc/a_00001_.png",
                "type": "output",
                "subfolder": "hw",
                "node_id": "9",
                "output_type": "images",
                "mimetype": "image/png",
                "kind": "image",
                "size_bytes": 0,
            }
        ],
        "timings": {
            "queued_at_ms": 1767225600000,
            "postprocess_ms": 0,
            "completed_at_ms": 1767225603000,
            "total_ms": 3000,
        },
    }
    assert render(job, include_response=False)["comfyui_response"] == {}


def test_a_clock_that_was_set_back_makes_no_negative_time() -> None:
    """Stamps are told as they are, the time between them is never below zero."""
    timings = Timings(accepted_at=ACCEPTED, finished_at=ACCEPTED - timedelta(days=1))
    job = JOB.with_(status=JobStatus.COMPLETED, timings=timings)
    assert render(job, include_response=False)["timings"]["total_ms"] == 0


def test_what_delivery_did_is_in_the_entry() -> None:
    """URL, upload error, content with its type, and why there is none; they may come together."""
    outputs = (
        replace(PICTURE_OUTPUT, url="https://b/k", data_base64="QUJD"),
        replace(PICTURE_OUTPUT, upload_error="access denied", error="file size 9 exceeds 1"),
    )
    first, second = render(JOB.with_(outputs=outputs), include_response=False)["output"]
    assert (first["url"], first["data"], first["mimetype"]) == ("https://b/k", "QUJD", "image/png")
    assert "error" not in first
    assert (second["upload_error"], second["error"]) == ("access denied", "file size 9 exceeds 1")
    assert not {"url", "data"} & set(second)


def test_upstreams_keys_come_first() -> None:
    """Ours after them, and only those that say something."""
    output = replace(
        PICTURE_OUTPUT,
        width=8,
        height=4,
        size_bytes=9,
        url="https://b/k",
        url_expires_at=ACCEPTED,
        thumbnail_url="https://b/t",
        thumbnail_base64="QQ==",
        warnings=("still",),
    )
    (entry,) = render(JOB.with_(outputs=(output,)), include_response=False)["output"]
    assert list(entry) == [
        *("filename", "local_path", "type", "subfolder", "node_id", "output_type", "url", "mimetype"),
        *("kind", "size_bytes", "width", "height", "url_expires_at", "thumbnail_url", "thumbnail", "warnings"),
    ]
    assert entry["url_expires_at"] == "2026-01-01T00:00:00Z"


def test_an_accepted_job_says_where_to_ask() -> None:
    """Links with the token where there is one; predictions where they are known."""
    result = render_accepted(JOB.with_(expected_s=2.0), base_url="http://h:1", job_token="t&t")
    assert list(result)[:6] == ["id", "message", "status", "comfyui_response", "output", "timings"]
    assert result["job_id"] == "j"
    assert result["status_url"] == "http://h:1/result/j?job_token=t%26t"
    assert result["stream_url"] == "http://h:1/generate/stream/j?job_token=t%26t"
    assert result["cancel_url"] == "http://h:1/cancel/j?job_token=t%26t"
    assert (result["expected_s"], "expected_wait_s" in result) == (2.0, False)
    assert render_accepted(JOB, base_url="http://h")["status_url"] == "http://h/result/j"
    Accepted.model_validate(result)


def test_texts_stand_beside_the_files() -> None:
    """Old clients read a path or URL from every entry of ``output``; a text has none."""
    text = Output(node_id="2", kind=OutputKind.TEXT, source_key="text", text="hello")
    file = replace(PICTURE_OUTPUT, kind=OutputKind.TEXT, filename="a.txt")
    result = render(JOB.with_(outputs=(text, file)), include_response=False)
    assert [entry["filename"] for entry in result["output"]] == ["a.txt"]
    assert result["text_output"] == [{"node_id": "2", "output_type": "text", "text": "hello"}]


def test_warnings_are_shown_when_there_are_any() -> None:
    """A job that was resubmitted says so."""
    assert render(JOB.with_(warnings=("resubmitted",)), include_response=False)["warnings"] == ["resubmitted"]


def test_a_failed_job_names_stage_and_cause() -> None:
    """Message as the wrapper's, code and details for programs."""
    error = errors.ExecutionFailed("KSampler failed", details={"node_id": "3"})
    job = JOB.with_(status=JobStatus.FAILED, stage=Stage.EXECUTE, message=error.message, error=error)
    result = render(job, include_response=False)
    assert result["message"] == "Generation failed: KSampler failed"
    assert (result["error"], result["retryable"], result["details"]) == ("execution_failed", False, {"node_id": "3"})
    prepared = render(job.with_(stage=Stage.PREPARE), include_response=False)
    assert prepared["message"].startswith("Preprocessing failed: ")


def test_progress_is_in_the_message() -> None:
    """The message is the only carrier of progress."""
    job = JOB.with_(status=JobStatus.RUNNING, stage=Stage.EXECUTE)
    with_steps = job.with_(progress=Progress(percent=50.0, value=2, maximum=4))
    assert render(with_steps, include_response=False)["message"] == "Progress: 50.0% (2/4)"
    assert render(job.with_(progress=Progress(percent=12.34)), include_response=False)["message"] == "Progress: 12.3%"


def test_refusals_are_failed_results() -> None:
    """Clients that read status and message of a result can."""
    body = render_refusal(errors.Overloaded("Worker at capacity (3 in flight); retry shortly"), "abc")
    assert (body["id"], body["status"], body["output"]) == ("abc", "failed", [])
    assert body["message"].startswith("Worker at capacity")
    assert (body["error"], body["retryable"]) == ("overloaded", True)


# -- webhooks -----------------------------------------------------------------------------------------------------


def test_a_webhook_has_exactly_the_documented_keys() -> None:
    """The extra parameters under their own key, never the history."""
    hook = WebhookTarget(url="https://h", extra_params={"user": 7})
    spec = replace(SPEC, delivery=DeliverySpec(webhooks=(hook,)))
    job = JOB.with_(spec=spec, status=JobStatus.COMPLETED, outputs=(PICTURE_OUTPUT,), response={"p": {}})
    body = orjson.loads(render_webhook(job, hook))
    assert list(body) == ["id", "status", "message", "output", "timings", "extra"]
    assert (body["id"], body["status"], body["extra"]) == ("abc", "completed", {"user": 7})
    assert body["output"][0]["filename"] == "a_00001_.png"


def test_without_extra_parameters_there_is_no_extra() -> None:
    """Only when not empty; a cancelled job says cancelled."""
    body = orjson.loads(render_webhook(JOB.with_(status=JobStatus.CANCELLED), WebhookTarget(url="https://h")))
    assert "extra" not in body
    assert body["status"] == "cancelled"


# -- round trip ---------------------------------------------------------------------------------------------------

text = st.text(max_size=8)
maybe: Callable[[st.SearchStrategy[Any]], st.SearchStrategy[Any]] = lambda inner: st.none() | inner  # noqa: E731
seconds = maybe(st.floats(0, 1e6))
outputs = st.builds(
    Output,
    node_id=text,
    kind=st.sampled_from(OutputKind),
    source_key=text,
    filename=text,
    subfolder=text,
    local_path=text,
    text=maybe(text),
    url=maybe(text),
    upload_error=maybe(text),
    data_base64=maybe(text),
    error=maybe(text),
)
jobs = st.builds(
    Job,
    job_id=text,
    spec=st.just(SPEC),
    sequence=st.integers(),
    cost=st.just(1.0),
    status=st.sampled_from(JobStatus),
    stage=st.sampled_from(Stage),
    message=text,
    outputs=st.lists(outputs, max_size=3).map(tuple),
    warnings=st.lists(text, max_size=2).map(tuple),
    error=maybe(st.builds(errors.InvalidWorkflow, text)),
    timings=st.builds(
        Timings,
        accepted_at=st.just(ACCEPTED),
        finished_at=maybe(st.just(ACCEPTED + timedelta(seconds=2))),
        prepare_s=seconds,
        execute_s=seconds,
        collect_s=seconds,
        deliver_s=seconds,
    ),
)


@given(jobs)
def test_every_state_of_a_job_renders_to_the_described_result(job: Job) -> None:
    """What the docs page describes is what is sent; every file is there once."""
    result = render(job, include_response=True)
    assert Result.model_validate(result).model_dump(exclude_unset=True) == result
    files = [output for output in job.outputs if output.kind is not OutputKind.TEXT or output.filename]
    assert len(result["output"]) == len(files)
    orjson.loads(render_webhook(job, WebhookTarget(url="https://h")))
