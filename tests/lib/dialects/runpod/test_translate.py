"""RunPod's request to a job spec, and the webhook's body."""

import json
from datetime import timedelta
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from lib.errors import InvalidRequest, InvalidWorkflow, UnsafeInput
from lib.jobs.model import Job, JobStatus, OnDisconnect, Timings, WebhookScheme
from lib.settings import DeliverySettings
from tests.fakes.clock import START

from .conftest import IMAGE, PICTURE, REQUEST, make_payload

ID = "0f1b6c0e-7d5c-4c57-9d0b-1f6f7b1f8a11-u1"
OWN_BUCKET = {
    "accessId": "AK",
    "accessSecret": "secret",
    "bucketName": "mine",
    "endpointUrl": "https://s3.example.com",
    "objectPath": "a/b",
}


def read(body: Any, **settings: Any) -> Any:
    """The spec of what must be accepted."""
    asked = make_payload(**settings).read(body, request_id=ID)
    assert asked.refused is None, asked.refused
    return asked.spec


def test_a_plain_request() -> None:
    """Files come inside the answer; it waits for a worker that starts, keeps what it made, and can be tried again."""
    spec = read(REQUEST)
    assert orjson.loads(spec.workflow) == PICTURE
    assert (spec.request_id, spec.dialect, spec.on_disconnect) == (ID, "runpod", OnDisconnect.KEEP)
    assert (spec.patient, spec.keep_partial, spec.repeatable, spec.low_priority) == (True, True, True, False)
    assert (spec.ttl_s, spec.timeout_s) == (None, None)
    assert spec.delivery.inline_base64
    assert spec.delivery.s3 is None
    assert spec.estimate is not None


@pytest.mark.parametrize(
    ("policy", "timeout_s", "ttl_s"),
    [
        ({"executionTimeout": 60_000, "ttl": 3_600_000}, 60.0, 3600.0),
        ({"executionTimeout": 60_000.0, "ttl": 60_500.5}, 60.0, 60.5005),
        ({"executionTimeout": 1, "ttl": 1}, 5.0, 10.0),
        ({"executionTimeout": 10**12, "ttl": 10**12}, 604800.0, 604800.0),
        ({"executionTimeout": None, "ttl": None, "lowPriority": None}, None, None),
        ({}, None, None),
        (None, None, None),
    ],
)
def test_limits_are_taken_into_their_range(policy: Any, timeout_s: float | None, ttl_s: float | None) -> None:
    """Milliseconds there, seconds here."""
    spec = read({**REQUEST, "policy": policy})
    assert (spec.timeout_s, spec.ttl_s, spec.low_priority) == (timeout_s, ttl_s, False)


def test_low_priority() -> None:
    """As asked."""
    assert read({**REQUEST, "policy": {"lowPriority": True}}).low_priority


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ([], "body: must be an object"),
        ("text", "body: must be an object"),
        ({}, "Please provide input"),
        ({"policy": {}}, "Please provide input"),
        ({**REQUEST, "policy": "soon"}, "policy: must be an object"),
        ({**REQUEST, "policy": {"ttl": "soon"}}, "policy.ttl"),
        ({**REQUEST, "policy": {"executionTimeout": "60000"}}, "policy.executionTimeout"),
        ({**REQUEST, "policy": {"lowPriority": 1}}, "policy.lowPriority"),
        ({**REQUEST, "webhook": 5}, "webhook"),
        ({**REQUEST, "webhook": "ftp://example.com"}, "webhook must be an http or https URL"),
        ({**REQUEST, "s3Config": "bucket"}, "s3Config"),
        ({**REQUEST, "s3Config": {**OWN_BUCKET, "accessSecret": ""}}, "s3Config.accessSecret is needed"),
        ({**REQUEST, "s3Config": {**OWN_BUCKET, "objectPath": "../x"}}, "s3Config.objectPath"),
    ],
)
def test_what_the_platform_refuses(body: Any, part: str) -> None:
    """Named as RunPod names it, without the values."""
    with pytest.raises((InvalidRequest, UnsafeInput)) as caught:
        make_payload().read(body, request_id=ID)
    assert part in caught.value.message
    assert "AK" not in caught.value.message


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (None, InvalidRequest),
        ({"workflow": "text"}, InvalidWorkflow),
        ({"workflow": {"1": {"class_type": "A"}}}, InvalidWorkflow),
        ({"workflow": {}}, InvalidWorkflow),
        ({"workflow": {"nodes": [], "links": []}}, InvalidWorkflow),
        ({"workflow": PICTURE, "images": [{"name": "../a", "image": "x"}]}, UnsafeInput),
    ],
)
def test_what_the_handler_would_fail(given: Any, kind: type[Exception]) -> None:
    """A job that failed, with its webhook; there is nothing to run in it."""
    asked = make_payload().read({"input": given, "webhook": "https://example.com/hook"}, request_id=ID)
    assert isinstance(asked.refused, kind)
    assert (asked.spec.workflow, asked.spec.files, asked.spec.repeatable) == (b"", (), True)
    assert len(asked.spec.delivery.webhooks) == 1


def test_files_and_keys() -> None:
    """The key is a credential, no part of the workflow."""
    images = [{"name": "a.png", "image": "aGVsbG8="}]
    spec = read({"input": {"workflow": PICTURE, "images": images, "comfy_org_api_key": "sk-1"}})
    assert [(file.name, file.value) for file in spec.files] == [("a.png", "aGVsbG8=")]
    assert [(item.kind, item.values) for item in spec.credentials] == [("comfy_org", {"api_key": "sk-1"})]
    assert "sk-1" not in repr(spec)


def test_a_bucket_of_the_callers_own() -> None:
    """Then nothing comes inside the answer, and the result gets there although nobody waits."""
    asked = make_payload().read({**REQUEST, "s3Config": OWN_BUCKET}, request_id=ID)
    target = asked.spec.delivery.s3
    assert target is not None
    assert (target.bucket_name, target.endpoint_url, target.folder) == ("mine", "https://s3.example.com", "a/b/")
    assert not asked.spec.delivery.inline_base64
    assert asked.told_elsewhere


def test_the_operators_bucket() -> None:
    """By ``BUCKET_*``; a caller who leaves does not learn where his files are."""
    bucket = {
        "bucket_endpoint_url": "https://shop.s3.eu-west-1.amazonaws.com",
        "bucket_access_key_id": SecretStr("AK"),
        "bucket_secret_access_key": SecretStr("secret"),
    }
    asked = make_payload(**bucket).read(REQUEST, request_id=ID)
    assert asked.spec.delivery.s3 is not None
    assert asked.spec.delivery.s3.bucket_name == "shop"
    assert not asked.told_elsewhere


@pytest.mark.parametrize("name", ["webhook", "webhookV2"])
def test_webhooks(name: str) -> None:
    """Both names mean the same; the scheme is RunPod's."""
    asked = make_payload().read({**REQUEST, name: "https://example.com/hook"}, request_id=ID)
    (target,) = asked.spec.delivery.webhooks
    assert (target.url, target.scheme) == ("https://example.com/hook", WebhookScheme.RUNPOD)
    assert target.extra_params == {}
    assert asked.told_elsewhere


def test_the_operators_webhook_is_no_reason_to_go_on() -> None:
    """It tells the operator, not the caller."""
    delivery = DeliverySettings(webhook_url="https://example.com/own")
    asked = make_payload(delivery=delivery).read(REQUEST, request_id=ID)
    assert len(asked.spec.delivery.webhooks) == 1
    assert not asked.told_elsewhere


def finished(spec: Any) -> Job:
    """The completed job of a spec."""
    timings = Timings(accepted_at=START, execution_started_at=START, finished_at=START + timedelta(seconds=1))
    return Job(
        job_id="j", spec=spec, sequence=1, cost=1.0, timings=timings, status=JobStatus.COMPLETED, outputs=(IMAGE,)
    )


def test_the_webhooks_body() -> None:
    """The job object with ``webhook``."""
    payload = make_payload()
    spec = payload.read({**REQUEST, "webhook": "https://example.com/hook"}, request_id=ID).spec
    body = json.loads(payload.render_webhook(finished(spec), spec.delivery.webhooks[0]))
    assert set(body) == {"id", "status", "delayTime", "executionTime", "workerId", "output", "webhook"}
    assert (body["id"], body["status"], body["webhook"]) == (ID, "COMPLETED", "https://example.com/hook")


def test_the_webhooks_body_with_the_input() -> None:
    """Where the operator wants it: without pictures and keys, wherever they are."""
    payload = make_payload(webhook_input=True)
    graph = {**PICTURE, "9": {"class_type": "A", "inputs": {"image": "data:image/png;base64,aGk=", "x": "y" * 70_000}}}
    given = {"workflow": graph, "images": [{"name": "a", "image": "x"}], "comfy_org_api_key": "sk-1", "more": [1]}
    spec = payload.read({"input": given, "webhook": "https://example.com/hook"}, request_id=ID).spec
    body = json.loads(payload.render_webhook(finished(spec), spec.delivery.webhooks[0]))
    assert set(body["input"]) == {"workflow", "more"}
    assert body["input"]["workflow"]["1"] == PICTURE["1"]
    assert body["input"]["workflow"]["9"]["inputs"] == {"image": "(left out)", "x": "(left out)"}


def test_the_operators_target_learns_no_url() -> None:
    """Of his own he knows it, and a receiver of many need not."""
    payload = make_payload(delivery=DeliverySettings(webhook_url="https://example.com/own?key=1"))
    spec = payload.read(REQUEST, request_id=ID).spec
    assert b"example.com" not in payload.render_webhook(finished(spec), spec.delivery.webhooks[0])
