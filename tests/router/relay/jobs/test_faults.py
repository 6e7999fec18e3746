"""Faults of the router's own, met while it does a job: each costs an attempt, and none is met for ever."""

import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from lib.clock import SystemClock
from router.cases import Ending
from router.ports import JobState, JobStore, RelayJob
from router.registry import Worker
from router.relay.jobs.doing import Doing, Limits
from router.relay.jobs.holding import Holding
from router.relay.jobs.releases import Releases
from router.relay.jobs.remote import Remote
from router.relay.ports import Call, Upstream
from tests.router.relay.jobs.conftest import Start
from tests.router.relay.jobs.test_takeover import stored

SECRET = "s3-secret-of-a-caller"


class Faulty:
    """Calls workers, and breaks on each call of this method."""

    def __init__(self, upstream: Upstream, method: str) -> None:
        self._upstream = upstream
        self._method = method

    def call(self, worker: Worker, call: Call) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        if call.method == self._method:
            raise KeyError(SECRET)
        return self._upstream.call(worker, call)


class Unreleased(Releases):
    """Breaks when a worker is done."""

    async def settled(self, job: RelayJob, ending: Ending, *, run_s: float | None = None) -> None:
        raise RuntimeError(SECRET)


class Idle:
    """A store that has nothing to do for the router itself."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jobs, name)

    async def lease(self, holder: str, **how: Any) -> Sequence[RelayJob]:
        return []


def faults(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_fault_at_each_worker_ends_as_a_dead_letter(
    start: Start, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    """After three attempts, whether a job is given or followed; the fault's own words stay in the log."""
    world = await start(upstream=lambda upstream: Faulty(upstream, method))
    for number in (1, 2, 3):
        await world.join(number)
    job = await world.submit("a")
    status, shown = await world.result(job)
    assert (status, shown["status"]) == (502, "failed")
    why = "the router has a fault, see its log (KeyError)"
    assert shown["message"] == f"Generation failed: {why}"
    assert [one["ended"] for one in shown["details"]["attempts"]] == [why] * 3
    assert SECRET not in str(shown)
    _, letters = await world.get("/relay/dead")
    assert [one["job_id"] for one in letters["dead"]] == [job["job_id"]] and SECRET not in str(letters)
    kept = await world.ground.jobs.get(job["job_id"])
    assert kept is not None and {one.worker for one in kept.attempts} == {"ep/1", "ep/2", "ep/3"}
    assert faults(caplog) == ["a job met a fault of the router"] * 3 + ["a job is a dead letter"]


async def test_a_fault_before_there_is_a_worker(start: Start) -> None:
    """It costs an attempt too: here the record holds what no router of this version writes."""
    world = await start(patience_s=0.0)
    await world.join()
    await world.ground.jobs.add(stored(cost="much"))
    await world.submit("b")  # which wakes the router
    status, shown = await world.get("/result/n?wait=20")
    assert (status, shown["status"]) == (502, "failed")
    assert len(shown["details"]["attempts"]) == 3
    kept = await world.ground.jobs.get("j")
    assert kept is not None and (kept.state, {one.worker for one in kept.attempts}) == (JobState.DEAD, {""})


async def test_a_fault_after_the_end_is_recorded_changes_nothing(start: Start) -> None:
    """Neither the record nor who hears of it."""
    calls: list[Upstream] = []
    world = await start(jobs=Idle, upstream=lambda upstream: calls.append(upstream) or upstream)
    await world.join()
    ground, clock = world.ground, SystemClock()
    doing = Doing(
        dispatcher=ground.dispatcher,
        remote=Remote(calls[0], max_result_bytes=2**20),
        releases=Unreleased(ground.dispatcher, link=ground.core.link, replica="me"),
        new_number=ground.core.direct.new_number,
        begun=lambda job: None,
        clock=clock,
        limits=Limits(patience_s=0.0, counted_s=60.0),
    )
    until = clock.now().timestamp() + 3600
    await ground.jobs.add(stored())
    (job,) = await ground.jobs.lease("me", limit=1, until=until, now=0.0)
    held = Holding(job, jobs=ground.jobs, clock=clock, lease_s=3600.0)
    over = await doing.run(held)
    assert (over.state, over.reason, len(over.attempts)) == (JobState.DONE, "completed", 1)
    assert await ground.jobs.get("j") == replace(over, body=stored().body)
