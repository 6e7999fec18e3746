"""What becomes of jobs whose router is gone, at each place where it may have been stopped."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lib.clock import SystemClock
from lib.serving.payloads import dumps
from router.ports import Attempt, JobState, RelayJob
from router.store import open_stores
from tests.fakes.job_worker import workflow
from tests.router.relay.jobs.conftest import JobsWorld, Start


def stored(**changes: Any) -> RelayJob:
    """A job as the router that is gone wrote it; its lease is over."""
    body = dumps({"input": {"request_id": "n", "workflow_json": workflow("a")}})
    fields: dict[str, Any] = {
        "job_id": "j", "request_id": "n", "tenant": "ep/", "endpoint": "ep", "dialect": "wrapper", "path": "/generate",
        "body": body, "created_at": 1.0, "number": 77,
    }  # fmt: skip
    return RelayJob(**fields | changes)


async def left(folder: Path, **changes: Any) -> RelayJob:
    """Put it into a store, leased by somebody who is gone."""
    async with open_stores("sqlite://", state_dir=folder, clock=SystemClock()) as stores:
        await stores.jobs.add(stored())
        (job,) = await stores.jobs.lease("gone", limit=1, until=2.0, now=1.0)
        job = replace(job, **changes)
        await stores.jobs.save(job)
        return job


async def over(world: JobsWorld) -> RelayJob:
    status, _ = await world.get("/result/n?wait=60")
    assert status == 200
    job = await world.ground.jobs.get("j")
    assert job is not None and job.state is JobState.DONE
    return job


async def test_a_job_that_runs_is_followed(start: Start, tmp_path: Path) -> None:
    """It is not run again."""
    first = await start("other")
    book = await first.join()
    book.hold()
    job = await first.submit("a", name="n")
    while not book.jobs:
        await book.changed.wait()
    (running,) = book.jobs.values()
    attempt = Attempt(number=1, worker="ep/1", begun_at=3.0)
    await left(tmp_path / "state", attempts=(attempt,), worker="ep/1", remote_id=running.job_id)
    heir = await start("state")
    book.worker.trust(heir.ground.signing.public_pem)
    await heir.report(book)
    book.let.set()
    done = await over(heir)
    assert ([one.worker for one in done.attempts], book.done) == (["ep/1"], ["a"])
    book.worker.trust(first.ground.signing.public_pem)
    assert (await first.result(job))[0] == 200


async def test_a_job_that_may_have_been_given_is_given_again_to_the_same(start: Start, tmp_path: Path) -> None:
    """The worker knows its key: it is run once."""
    attempt = Attempt(number=1, worker="ep/1", begun_at=3.0)
    await left(tmp_path / "state", attempts=(attempt,), worker="ep/1")
    heir = await start("state")
    book = await heir.join()
    done = await over(heir)
    assert ([one.worker for one in done.attempts], book.done) == (["ep/1"], ["a"])
    (submitted, *_) = book.worker.heard
    assert submitted.headers["Idempotency-Key"] == "relay-j-1-1"
    assert submitted.ticket is not None and submitted.ticket.request_idx == 77


async def test_a_worker_that_is_gone_costs_the_attempt(start: Start, tmp_path: Path) -> None:
    """The job goes to another one."""
    attempt = Attempt(number=1, worker="ep/9", begun_at=3.0)
    await left(tmp_path / "state", attempts=(attempt,), worker="ep/9", remote_id="r")
    heir = await start("state", patience_s=0.2)
    await heir.join()
    done = await over(heir)
    assert [(one.worker, one.ended) for one in done.attempts] == [("ep/9", "it is gone"), ("ep/1", "completed")]


async def test_a_wish_to_cancel_is_inherited(start: Start, tmp_path: Path) -> None:
    """Also by who never heard it."""
    await left(tmp_path / "state", cancel_wanted=True)
    heir = await start("state")
    await heir.join()
    status, shown = await heir.get("/result/n?wait=60")
    assert (status, shown["status"]) == (499, "cancelled")


@pytest.mark.parametrize("begun", [False, True])
async def test_a_job_whose_time_is_over_is_dropped(start: Start, tmp_path: Path, begun: bool) -> None:
    """While it waits for a worker, which never gets it then, and while one does it, which is told to stop."""
    heir = await start("state")
    book, life_s = await heir.join() if begun else None, 1.0
    if book is not None:
        asked_at = time.monotonic()
        await heir.result(await heir.submit("c"))
        life_s += 10 * (time.monotonic() - asked_at)
        book.hold()
    body = dumps({"input": {"workflow": workflow("a")}})
    forget_at = SystemClock().now().timestamp() + life_s
    waiting = stored(dialect="runpod", path="/run", body=body, forget_at=forget_at)
    await heir.ground.jobs.add(waiting)
    await heir.submit("b")  # which wakes the router
    while (job := await heir.ground.jobs.get("j")) is None or not job.state.over:
        await asyncio.sleep(0)
    assert (job.state, bool(job.attempts)) == (JobState.CANCELLED, begun)
    if book is not None:
        assert len(book.cancelled) == 1
    else:
        late = await heir.join()
        while late.done != ["b"]:
            await late.changed.wait()
            late.changed.clear()
