"""What webhooks are told: rendered once a target, thin where the scheme wants it."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest

from lib.delivery.announcements import BODY_BYTES, Announcements
from lib.delivery.outbox import WebhookSender
from lib.delivery.posting import Posts
from lib.delivery.schedules import schedules
from lib.errors import ExecutionFailed
from lib.jobs.model import Job, JobEvent, JobStatus, Output, OutputKind, WebhookScheme, WebhookTarget
from lib.jobs.retention import Retention
from lib.jobs.store import MemoryJobStore
from lib.lifecycle import Tasks
from lib.settings import DeliverySettings
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from tests.fakes.clock import START, FakeClock
from tests.fakes.http_hosts import WebHost

Make = Callable[..., Job]
URL = "https://hooks.example/x"
EVERYTHING = frozenset(JobEvent)


@pytest.fixture
def announcements() -> Announcements:
    def body(job: Job, target: WebhookTarget) -> bytes:
        return orjson.dumps({"id": job.spec.request_id, "extra": dict(target.extra_params)})

    return Announcements(
        renders={"wrapper": body},
        send=lambda items: None,
        clock=FakeClock(),
        result_url=lambda job: f"http://127.0.0.1:18288/result/{job.spec.request_id}",
    )


def target(**changes: Any) -> WebhookTarget:
    return WebhookTarget(url=URL, **changes)


def picture(number: int = 0, **changes: Any) -> Output:
    return Output(
        node_id="9",
        kind=OutputKind.IMAGE,
        source_key="images",
        filename=f"a{number}.png",
        mime_type="image/png",
        size_bytes=1000,
        width=512,
        height=512,
        **changes,
    )


def standard(announcements: Announcements, job: Job, event: JobEvent = JobEvent.COMPLETED) -> dict[str, Any]:
    (item,) = announcements.messages(job, event)
    assert len(item.body) <= BODY_BYTES
    body: dict[str, Any] = orjson.loads(item.body)
    return body


def test_each_target_gets_its_message(announcements: Announcements, job: Make) -> None:
    """Rendered by the job's dialect, due now, under an id of its own."""
    one, two = target(extra_params={"n": 1}), target(extra_params={"n": 2})
    items = announcements.messages(job(webhooks=(one, two)), JobEvent.FAILED)
    assert [orjson.loads(item.body)["extra"] for item in items] == [{"n": 1}, {"n": 2}]
    assert [item.target for item in items] == [one, two]
    assert len({item.message_id for item in items}) == 2
    assert all(item.message_id.startswith("msg_") for item in items)
    assert {(item.job_id, item.event, item.next_at, item.attempts) for item in items} == {
        ("job-1", JobEvent.FAILED, START, 0)
    }


def test_a_scheme_without_a_body_of_its_own(announcements: Announcements, job: Make) -> None:
    """RunPod's, and the wrapper's, carry what the job's dialect makes of it."""
    asked = tuple(target(scheme=scheme) for scheme in (WebhookScheme.RUNPOD, WebhookScheme.WRAPPER))
    items = announcements.messages(job(webhooks=asked), JobEvent.COMPLETED)
    assert [orjson.loads(item.body) for item in items] == [{"id": "req-1", "extra": {}}] * 2


def test_a_message_for_each_output(job: Make) -> None:
    """A dialect may tell in pieces: each one is a message with an id of its own."""
    announcements = Announcements(
        renders={"wrapper": lambda job, target: [b"one", b"two"]}, send=lambda items: None, clock=FakeClock()
    )
    items = announcements.messages(job(webhooks=(target(scheme=WebhookScheme.SALAD),)), JobEvent.COMPLETED)
    assert [item.body for item in items] == [b"one", b"two"]
    assert len({item.message_id for item in items}) == 2


@pytest.mark.parametrize("event", list(JobEvent))
def test_only_what_a_target_wants(announcements: Announcements, job: Make, event: JobEvent) -> None:
    """Outcomes by default; everything, or one thing, where asked for."""
    asked = (target(), target(events=EVERYTHING), target(events=frozenset({JobEvent.STARTED})))
    items = announcements.messages(job(webhooks=asked), event)
    assert len(items) == 2


def test_our_own_benchmark_tells_nobody(announcements: Announcements, job: Make) -> None:
    """Nor does a job without a webhook."""
    assert announcements.messages(job(internal=True, webhooks=(target(),)), JobEvent.COMPLETED) == ()
    assert announcements.messages(job(), JobEvent.COMPLETED) == ()


def test_a_thin_message_links(announcements: Announcements, job: Make) -> None:
    """Standard Webhooks: type, timestamp and data with links, and no file's data."""
    outputs = (
        picture(
            url="https://store.example/a0.png?sig=1", url_expires_at=START + timedelta(days=1), data_base64="A" * 9
        ),
        picture(1, upload_error="refused"),
    )
    asked = target(scheme=WebhookScheme.STANDARD, extra_params={"order": 7})
    done = job(webhooks=(asked,)).with_(outputs=outputs, message="Processing complete.", warnings=("w",))
    body = standard(announcements, done)
    assert (body["type"], body["timestamp"]) == ("job.completed", "2026-01-01T00:00:00.000Z")
    assert body["data"] == {
        "id": "req-1",
        "job_id": "job-1",
        "status": "completed",
        "message": "Processing complete.",
        "output_count": 2,
        "timings": {"accepted_at": "2026-01-01T00:00:00.000Z"},
        "result_url": "http://127.0.0.1:18288/result/req-1",
        "extra": {"order": 7},
        "warnings": ["w"],
        "outputs": [
            {
                "node_id": "9",
                "kind": "image",
                "filename": "a0.png",
                "mime_type": "image/png",
                "size_bytes": 1000,
                "width": 512,
                "height": 512,
                "url": "https://store.example/a0.png?sig=1",
                "url_expires_at": "2026-01-02T00:00:00.000Z",
            },
            {
                "node_id": "9",
                "kind": "image",
                "filename": "a1.png",
                "mime_type": "image/png",
                "size_bytes": 1000,
                "width": 512,
                "height": 512,
                "error": "refused",
            },
        ],
    }


def test_a_failure_says_why(announcements: Announcements, job: Make) -> None:
    """With the stable code, and whether another try may help."""
    error = ExecutionFailed("node 3 failed " + "x" * 5000)
    failed = job(status=JobStatus.FAILED, webhooks=(target(scheme=WebhookScheme.STANDARD),)).with_(error=error)
    body = standard(announcements, failed, JobEvent.FAILED)
    assert body["type"] == "job.failed"
    assert body["data"]["error"] == {
        "code": "execution_failed",
        "message": error.message[:512],
        "retryable": False,
    }


@pytest.mark.parametrize(
    ("outputs", "extra", "warnings"),
    [
        (tuple(picture(number, url="https://s.example/?" + "s" * 900) for number in range(200)), {"order": 7}, ()),
        ((picture(text="ä" * 100_000),) * 50, {"order": 7}, ("w" * 10_000,) * 100),
        ((picture(),), {"blob": "x" * 50_000}, ("w",)),
    ],
)
def test_a_thin_message_stays_thin(
    announcements: Announcements,
    job: Make,
    outputs: tuple[Output, ...],
    extra: dict[str, Any],
    warnings: tuple[str, ...],
) -> None:
    """Under 20 KB whatever the job brought: what does not fit is left out, and the count tells so."""
    asked = target(scheme=WebhookScheme.STANDARD, extra_params=extra)
    body = standard(announcements, job(webhooks=(asked,)).with_(outputs=outputs, warnings=warnings))
    assert body["data"]["output_count"] == len(outputs)
    assert 0 < len(body["data"]["outputs"]) <= len(outputs)
    assert ("extra" in body["data"]) is (len(orjson.dumps(extra)) < BODY_BYTES)


def test_text_that_is_no_unicode_is_told_all_the_same(announcements: Announcements, job: Make) -> None:
    """A node's text may hold half a surrogate pair; the job's record must not be lost for it."""
    text = Output(node_id="1", kind=OutputKind.TEXT, source_key="text", text="half \ud83d")
    asked = target(scheme=WebhookScheme.STANDARD, extra_params={"half": "\ud83d"})
    told = job(webhooks=(asked,)).with_(outputs=(text,), warnings=("\ud83d",), message="\ud83d")
    (item,) = announcements.messages(told, JobEvent.COMPLETED)
    data = json.loads(item.body)["data"]
    assert (data["message"], data["outputs"][0]["text"]) == ("\ud83d", "half \ud83d")
    assert (data["extra"], data["warnings"]) == ({"half": "\ud83d"}, ["\ud83d"])


async def test_stored_messages_are_sent(job: Make) -> None:
    """From a job's end to its target: rendered, recorded, sent, forgotten."""
    clock = FakeClock()
    store = MemoryJobStore(clock=clock, retention=Retention(ttl_s=60, max_results=10))
    when = schedules(DeliverySettings())
    async with WebHost() as host, GuardedHttp(AddressGuard(allow=["127.0.0.1"])) as http, Tasks() as tasks:
        posts = Posts(http=http, schedules=when, clock=clock)
        sender = WebhookSender(outbox=store, posts=posts, schedules=when, tasks=tasks, clock=clock)
        announcements = Announcements(renders={"wrapper": lambda job, target: b"{}"}, send=sender.send, clock=clock)
        async with sender:
            done = job(webhooks=(replace(target(), url=host.url("/hook")),))
            items = announcements.messages(done, JobEvent.COMPLETED)
            await store.finish(done, items)
            announcements.stored(items)
        assert [seen.body for seen in host.seen] == [b"{}"]
        assert (await store.state()).pending_count == 0
