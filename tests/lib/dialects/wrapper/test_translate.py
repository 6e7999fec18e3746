"""The wrapper's words and ours."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import errors
from lib.dialects.wrapper.schema import Result
from lib.dialects.wrapper.translate import http_status, render, render_refusal, render_webhook
from lib.errors import InvalidRequest, ServiceError
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
from lib.serving.errors import status_of
from lib.workflow.decoding import check

from .conftest import PICTURE, make_payload

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


def request(**changes: Any) -> dict[str, Any]:
    """A good request with other fields."""
    return {"input": {"workflow_json": PICTURE, **changes}}


def problems(payload: Any) -> list[dict[str, Any]]:
    """The ``detail`` list that a request gets."""
    with pytest.raises(InvalidRequest) as caught:
        make_payload().parse(payload, {})
    body: dict[str, Any] = render_refusal(caught.value, "")
    assert (body["error"], body["message"]) == ("invalid_request", caught.value.message)
    detail: list[dict[str, Any]] = body["detail"]
    return detail


# -- requests ---------------------------------------------------------------------------------------------------


def test_a_workflow_becomes_a_spec() -> None:
    """The graph as bytes, an id of ours, nothing delivered anywhere."""
    spec = make_payload().parse(request(), {})
    assert orjson.loads(spec.workflow) == PICTURE
    assert len(spec.request_id) == 36
    assert spec.delivery == DeliverySpec()
    assert spec.dialect == "wrapper"


def test_the_callers_id_is_kept() -> None:
    """It names the job, the folder and the key."""
    assert make_payload().parse(request(request_id="my-id_1.x"), {}).request_id == "my-id_1.x"


@pytest.mark.parametrize(
    "request_id", ["../../x", "/abs", "a/b", ".hidden", "-x", "a b", "x" * 129, "a\n", "ü", 7, None]
)
def test_ids_that_are_no_names_are_refused(request_id: object) -> None:
    """An id becomes part of paths."""
    (problem,) = problems(request(request_id=request_id))
    assert problem["loc"] == ["body", "input", "request_id"]


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (
            {"input": {"workflow_json": PICTURE, "modifier": "Text2Image"}},
            "Value error, Cannot provide both workflow_json and modifier - they are mutually exclusive",
        ),
        ({"input": {}}, "Value error, Must provide either workflow_json OR modifier"),
        (
            {"input": {"workflow_json": {}, "modifier": ""}},
            "Value error, Must provide either workflow_json OR modifier",
        ),
        (
            {"input": {"workflow_json": PICTURE, "modifications": {"a": 1}}},
            "Value error, modifications can only be provided when modifier is specified",
        ),
    ],
)
def test_the_source_must_be_one(payload: dict[str, Any], text: str) -> None:
    """The texts are the wrapper's."""
    (problem,) = problems(payload)
    assert problem == {"type": "value_error", "loc": ["body", "input"], "msg": text}


@pytest.mark.parametrize(
    ("payload", "loc"),
    [
        ([], ["body"]),
        ("x", ["body"]),
        (None, ["body"]),
        ({}, ["body", "input"]),
        ({"input": []}, ["body", "input"]),
        (request(workflow_json=[]), ["body", "input", "workflow_json"]),
        (request(modifier=3), ["body", "input", "modifier"]),
        (request(s3="x"), ["body", "input", "s3"]),
        (request(s3={"connect_timeout": "soon"}), ["body", "input", "s3", "connect_timeout"]),
        (request(webhook={"extra_params": []}), ["body", "input", "webhook", "extra_params"]),
        (request(return_outputs_as_base64="maybe"), ["body", "input", "return_outputs_as_base64"]),
        (request(timeout_s=0), ["body", "input", "timeout_s"]),
        (request(timeout_s="inf"), ["body", "input", "timeout_s"]),
    ],
)
def test_wrong_types_are_named(payload: Any, loc: list[str]) -> None:
    """Each mistake has its place."""
    assert problems(payload)[0]["loc"] == loc


def test_no_value_is_echoed() -> None:
    """A 422 must not carry the caller's keys back, nor into logs."""
    block = {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "topsecret", "connect_attempts": "many"}
    detail = problems(request(s3=block))
    assert "topsecret" not in json.dumps(detail)
    assert set(detail[0]) == {"type", "loc", "msg"}


def test_unknown_keys_are_ignored() -> None:
    """At the top, in the input and in the blocks."""
    payload = {**request(surprise=1, s3={"surprise": 1}), "other": True}
    assert make_payload().parse(payload, {}).delivery.s3 is None


def test_blocks_of_empty_strings_mean_nothing() -> None:
    """The published examples send them."""
    empty_s3 = {
        "access_key_id": "",
        "secret_access_key": "",
        "endpoint_url": "",
        "bucket_name": "",
        "region": "",
        "connect_timeout": 60,
        "connect_attempts": 3,
    }
    spec = make_payload().parse(request(s3=empty_s3, webhook={"url": "", "extra_params": {}}), {})
    assert spec.delivery == DeliverySpec()
    assert make_payload().parse(request(s3=None, webhook=None), {}).delivery == DeliverySpec()


def test_blocks_reach_the_planners() -> None:
    """Bucket, keys and webhook as sent."""
    s3 = {"access_key_id": "a", "secret_access_key": "b", "bucket_name": "c", "connect_attempts": 5}
    hook = {"url": "https://example.com/h", "extra_params": {"user": 7}, "secret": "s", "timeout": 9}
    delivery = make_payload().parse(request(s3=s3, webhook=hook), {}).delivery
    assert delivery.s3 is not None
    assert (delivery.s3.bucket_name, delivery.s3.connect_attempts) == ("c", 5)
    assert delivery.webhooks[0] == WebhookTarget(
        url="https://example.com/h", extra_params={"user": 7}, timeout_s=9.0, secret="s"
    )


def test_half_a_bucket_is_refused_with_its_field() -> None:
    """Never the operator's keys for a caller's bucket."""
    (problem,) = problems(request(s3={"bucket_name": "mine"}))
    assert problem["loc"] == ["body", "input", "s3", "bucket_name"]


@pytest.mark.parametrize(
    ("value", "expected"), [("1", True), ("TRUE", True), ("yes", True), ("On", True), ("0", False), ("", False)]
)
def test_the_header_can_ask_for_base64(value: str, expected: bool) -> None:
    """It sets the flag, it can't clear it."""
    headers = {"X-Return-Outputs-As-Base64": value}
    assert make_payload().parse(request(), headers).delivery.inline_base64 is expected
    assert make_payload().parse(request(return_outputs_as_base64=True), headers).delivery.inline_base64


def test_the_header_decides_about_the_response_either_way() -> None:
    """Without it the operator's setting does, which is on by default."""
    name = "X-Include-ComfyUI-Response"
    on, off = make_payload(), make_payload(include_response=False)
    assert [on.wants_response({}), off.wants_response({})] == [True, False]
    assert [on.wants_response({name: "false"}), off.wants_response({name: "true"})] == [False, True]
    assert off.parse(request(), {name: "1"}).keep_response


def test_equal_requests_have_equal_hashes() -> None:
    """Whatever the order of keys; anything else that differs makes another request."""
    parse = make_payload().parse
    one = parse({"input": {"request_id": "a", "workflow_json": PICTURE}}, {}).body_hash
    assert parse({"input": {"workflow_json": PICTURE, "request_id": "a"}}, {}).body_hash == one
    assert parse({"input": {"workflow_json": PICTURE, "request_id": "b"}}, {}).body_hash != one
    assert parse(request(request_id="a"), {"X-Return-Outputs-As-Base64": "1"}).body_hash != one


def test_a_modifier_is_bound() -> None:
    """The template with the caller's values, the seed still a placeholder so that each run draws its own."""
    spec = make_payload().parse({"input": {"modifier": "Text2Image", "modifications": {"prompt": "a cat"}}}, {})
    graph = orjson.loads(spec.workflow)
    assert graph["6"]["inputs"]["text"] == "a cat"
    assert graph["3"]["inputs"]["seed"] == "__RANDOM_INT__"


@pytest.mark.parametrize("name", ["text2image", "os", "../x"])
def test_an_unknown_modifier_is_refused_with_the_known_ones(name: str) -> None:
    """Names are exact."""
    (problem,) = problems({"input": {"modifier": name}})
    assert problem["loc"] == ["body", "input", "modifier"]
    assert "Unknown modifier" in problem["msg"]
    assert "Text2Image" in problem["msg"]


def test_bad_modifications_are_named() -> None:
    """Where in the request, what was expected."""
    (problem,) = problems({"input": {"modifier": "Text2Image", "modifications": {"steps": "many"}}})
    assert problem["loc"] == ["body", "input", "modifications", "steps"]


def test_a_bad_graph_is_refused_before_it_is_accepted() -> None:
    """The checks of the workflow package apply."""
    with pytest.raises(errors.InvalidWorkflow):
        make_payload().parse(request(workflow_json={"1": {"class_type": "A"}}), {})
    with pytest.raises(errors.UnsafeInput):
        graph = {"1": {"class_type": "LoadImage", "inputs": {"image": "/etc/passwd"}}}
        make_payload().parse(request(workflow_json=graph), {})


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("a1/ü"),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(["1", "class_type", "inputs", "url"]), children)
    ),
    max_leaves=8,
)
fields = st.sampled_from(
    list(request(request_id="", s3=0, webhook=0, modifier=0, modifications=0, timeout_s=0)["input"])
)


@given(st.dictionaries(fields | st.text(max_size=3), values | st.just(PICTURE) | st.just("Text2Image")))
def test_any_request_is_translated_or_refused_with_4xx(fields: dict[str, Any]) -> None:
    """Bad input never is an error of ours, and the refusal is JSON."""
    try:
        make_payload().parse(check(json.dumps({"input": fields}).encode()), {})
    except ServiceError as error:
        assert 400 <= status_of(error) < 500
        json.dumps(render_refusal(error, "x"))


# -- results ----------------------------------------------------------------------------------------------------


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
    assert not {"url", "data", "mimetype"} & set(second)


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


# -- timings: what upstream's own tests ask ----------------------------------------------------------------------


def shown(job: Job) -> dict[str, int]:
    """The timings of a result; all are integers."""
    timings: dict[str, int] = render(job, include_response=False)["timings"]
    assert all(type(value) is int for value in timings.values())
    return timings


def test_at_first_only_the_moment_of_acceptance_is_known() -> None:
    """Nothing is shown as zero that has not happened."""
    assert shown(JOB) == {"queued_at_ms": 1767225600000}


def test_finished_jobs_have_their_stages() -> None:
    """Execution and collection together are the generation; the queue is what remains of the total."""
    timings = Timings(
        accepted_at=ACCEPTED,
        finished_at=ACCEPTED + timedelta(seconds=10),
        prepare_s=1.0,
        wait_s=2.5,
        execute_s=4.0,
        collect_s=0.5,
        deliver_s=2.0,
    )
    assert shown(JOB.with_(status=JobStatus.COMPLETED, timings=timings)) == {
        "queued_at_ms": 1767225600000,
        "preprocess_ms": 1000,
        "generation_ms": 4500,
        "postprocess_ms": 2000,
        "completed_at_ms": 1767225610000,
        "total_ms": 10000,
    }


def test_failed_jobs_are_timed_too() -> None:
    """Total and post-processing are always there at the end; stages that did not succeed are not."""
    timings = Timings(accepted_at=ACCEPTED, finished_at=ACCEPTED + timedelta(seconds=1), prepare_s=0.5)
    found = shown(JOB.with_(status=JobStatus.FAILED, timings=timings))
    assert found["total_ms"] == found["completed_at_ms"] - found["queued_at_ms"] == 1000
    assert found["postprocess_ms"] == 0
    assert "generation_ms" not in found


# -- HTTP status: what upstream's own tests ask ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (JobStatus.COMPLETED, None, 200),
        (JobStatus.QUEUED, None, 200),
        (JobStatus.CANCELLED, errors.JobCancelled("x"), 499),
        (JobStatus.CANCELLED, None, 499),
        (JobStatus.FAILED, None, 500),
        (JobStatus.FAILED, ServiceError("x"), 500),
        (JobStatus.FAILED, errors.ExecutionFailed("connection refused"), 500),
        (JobStatus.FAILED, errors.OutOfMemory("x"), 500),
        (JobStatus.FAILED, errors.JobTimeout("timed out"), 500),
        (JobStatus.FAILED, errors.EngineDied("x", started=True), 500),
        (JobStatus.FAILED, errors.StorageFailed("x"), 500),
        (JobStatus.FAILED, errors.EngineUnreachable("x"), 502),
        (JobStatus.FAILED, errors.InvalidWorkflow("x"), 400),
        (JobStatus.FAILED, errors.UnsafeInput("x"), 400),
        (JobStatus.FAILED, errors.InputFetchFailed("x"), 422),
    ],
)
def test_statuses_follow_the_class_never_the_text(status: JobStatus, error: ServiceError | None, expected: int) -> None:
    """A failed job is never a success; a caller's mistake is 4xx even when it was found late."""
    assert http_status(JOB.with_(status=status, error=error)) == expected


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
