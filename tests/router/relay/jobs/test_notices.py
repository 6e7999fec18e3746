"""Who is told of jobs that no worker tells of."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from standardwebhooks import Webhook

from lib.clock import SystemClock
from lib.lifecycle import Tasks
from lib.serving.payloads import dumps
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from router.ports import JobState
from router.relay.jobs.notices import Notices
from router.store import open_stores
from tests.fakes.clock import FakeClock
from tests.fakes.job_worker import workflow
from tests.router.relay.jobs.conftest import JobsWorld, Start
from tests.router.relay.jobs.test_takeover import stored

SECRET = "whsec_" + base64.b64encode(b"k" * 24).decode()


@dataclass
class Receiver:
    """Answers with these statuses, the last one for ever."""

    url: str = ""
    statuses: list[int] = field(default_factory=lambda: [200])
    heard: "asyncio.Queue[tuple[dict[str, str], bytes]]" = field(default_factory=asyncio.Queue)

    async def receive(self, request: web.Request) -> web.Response:
        self.heard.put_nowait((dict(request.headers), await request.read()))
        return web.Response(status=self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0])


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/hook", made.receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield made
    await runner.cleanup()


async def dead(world: JobsWorld, **more: Any) -> dict[str, Any]:
    """A job that three workers forgot."""
    books = [await world.join(number) for number in (1, 2, 3)]
    for book in books:
        book.hold()
    job = await world.submit("a", more=more)
    for _ in books:
        while (book := next((one for one in books if one.jobs), None)) is None:
            await asyncio.sleep(0)
        (one,) = book.jobs.values()
        book.forget()
        one.over.set()
    status, shown = await world.result(job)
    assert (status, shown["status"], len(shown["details"]["attempts"])) == (502, "failed", 3)
    return job


async def cancelled(world: JobsWorld, **more: Any) -> dict[str, Any]:
    """A job that no worker had."""
    job = await world.submit("a", more=more)
    await world.call(f"/cancel/{job['job_id']}")
    return job


async def test_the_wrappers_webhook_is_signed_and_tried_again(world: JobsWorld, receiver: Receiver) -> None:
    """With the caller's own secret and parameters."""
    receiver.statuses = [500, 200]
    hook = {"url": receiver.url, "secret": "s", "extra_params": {"k": 1}}
    job = await cancelled(world, webhook=hook)
    for _ in range(2):
        headers, body = await receiver.heard.get()
        told = json.loads(body)
        assert (told["id"], told["status"], told["extra"]) == (job["id"], "cancelled", {"k": 1})
        assert set(told) == {"id", "status", "message", "output", "timings", "extra"}
        signature = hmac.new(b"s", body, hashlib.sha256).hexdigest()
        assert headers["X-Webhook-Signature"] == f"sha256={signature}"


async def test_standard_webhooks_verify(world: JobsWorld, receiver: Receiver) -> None:
    """Where the request asks for that scheme; the id stays the same."""
    hook = {"url": receiver.url, "secret": SECRET, "scheme": "standard"}
    await cancelled(world, webhook=hook, webhooks=[{"url": receiver.url, "events": ["completed"]}])
    headers, body = await receiver.heard.get()
    lower = {name.lower(): value for name, value in headers.items()}
    assert Webhook(SECRET).verify(body, lower)["status"] == "cancelled"
    assert receiver.heard.empty()


@pytest.mark.parametrize("field", ["webhook_v2", "webhook"])
async def test_salads_newer_webhook_is_signed_with_the_operators_secret(
    start: Start, receiver: Receiver, field: str
) -> None:
    """As workers do it; the older one has no signature."""
    world = await start(salad_webhook_secret=SECRET)
    status, accepted = await world.call("/prompt", {"prompt": workflow("a"), field: receiver.url})
    assert status == 202
    await world.call(f"/cancel/{accepted['id']}")
    headers, body = await receiver.heard.get()
    lower = {name.lower(): value for name, value in headers.items()}
    assert json.loads(body)["id"] == accepted["id"]
    if field == "webhook":
        assert "webhook-signature" not in lower
    else:
        assert Webhook(SECRET).verify(body, lower)["type"] == "prompt.failed"


async def test_private_addresses_are_not_told(start: Start, receiver: Receiver) -> None:
    """Unless the operator lists them; the job is what it is all the same."""
    world = await start(webhook_allow_hosts="")
    job = await cancelled(world, webhook={"url": receiver.url})
    while (kept := await world.ground.jobs.get(job["job_id"])) is None or not kept.notices:
        await asyncio.sleep(0)
    assert kept.notice_at == 0.0 and receiver.heard.empty()


async def test_a_dead_letter_is_told(world: JobsWorld, receiver: Receiver) -> None:
    """As failed, once; a worker that tells of a failure has told it, whatever another one could do."""
    job = await dead(world, webhook={"url": receiver.url})
    _, body = await receiver.heard.get()
    told = json.loads(body)
    assert (told["id"], told["status"]) == (job["id"], "failed")
    assert "does not know the job" in told["message"]
    for book in [await world.join(4, max_perf=10_000.0)]:
        hook = {"webhook": {"url": receiver.url}}
        failed = await world.submit("b", inputs={"fails": True, "again": True}, more=hook)
        assert (await world.result(failed))[0] == 500
        assert book.done == ["b"] and receiver.heard.empty()


class Faulty:
    """Breaks on each request."""

    async def post(self, url: str, **more: Any) -> int:
        raise RuntimeError("a fault")


async def test_a_fault_of_the_routers_own_is_a_try_that_failed(tmp_path: Path) -> None:
    """So that it is not met with each look, for ever."""
    body = dumps({"input": {"request_id": "n", "workflow_json": {}, "webhook": {"url": "https://example.com"}}})
    clock = FakeClock()
    async with open_stores("sqlite://", state_dir=tmp_path, clock=clock) as stores, Tasks() as tasks:
        jobs, notices = stores.jobs, Notices(stores.jobs, http=Faulty(), tasks=tasks, clock=clock)
        await jobs.add(stored(body=body))
        (job,) = await jobs.lease("gone", limit=1, until=2.0, now=1.0)
        await jobs.save(dead := replace(job, state=JobState.DEAD, notice_at=clock.now().timestamp()))
        notices.add(dead)
        while len(notices):
            await clock.advance(1.0)
        kept = await jobs.get("j")
        assert kept is not None and (kept.notices, kept.notice_at) == (4, 0.0)


async def test_what_another_router_left_is_taken_up(receiver: Receiver, tmp_path: Path) -> None:
    """However many jobs ended since; a try that is far off is nobody's until it is due."""
    receiver.statuses = [500]
    block = {"url": receiver.url, "secret": SECRET, "scheme": "standard"}
    body = dumps({"input": {"request_id": "n", "workflow_json": {}, "webhook": block}})
    clock, guard = SystemClock(), AddressGuard(allow=("127.0.0.1",))
    async with (
        open_stores("sqlite://", state_dir=tmp_path, clock=clock) as stores,
        Tasks() as tasks,
        GuardedHttp(guard) as http,
    ):
        jobs, notices = stores.jobs, Notices(stores.jobs, http=http, tasks=tasks, clock=clock)
        for name in ("left", *map(str, range(600))):
            await jobs.add(stored(job_id=name, request_id=name, body=body))
        for job in await jobs.lease("gone", limit=601, until=2.0, now=1.0):
            told = {"notice_at": 1.0, "notices": 1} if job.job_id == "left" else {}
            await jobs.save(replace(job, state=JobState.DEAD, **told))
        await notices.look()
        headers, _ = await receiver.heard.get()
        assert headers["webhook-id"] == "msg_left_1"
        while len(notices):
            await asyncio.sleep(0)
        kept = await jobs.get("left")
        assert kept is not None and kept.notices == 2
        assert kept.notice_at > clock.now().timestamp() + 200
        await notices.look()
        assert receiver.heard.empty()
