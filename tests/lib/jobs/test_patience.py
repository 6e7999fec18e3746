"""Jobs that are accepted while the worker starts: recorded, queued, and run when it is ready."""

import asyncio
from typing import Any, Literal

import pytest

from lib.errors import Draining, EngineUnreachable, NotReady, Overloaded
from lib.jobs.model import JobStatus, OnDisconnect
from lib.jobs.patience import READY, WAITING
from tests.fakes.clock import settle
from tests.fakes.engine import FakeEngine
from tests.fakes.jobs import JobWorld, build_jobs, finish_all, finished, restart, spec

PATIENT: dict[str, Any] = {"patient": True, "on_disconnect": OnDisconnect.KEEP}


def starting(**options: Any) -> tuple[JobWorld, asyncio.Event]:
    """A service whose worker comes up when the event is set."""
    ready = asyncio.Event()
    return build_jobs([FakeEngine()], ready=ready, **options), ready


async def test_a_patient_job_waits_until_the_worker_is_ready() -> None:
    """It is recorded and says what it waits for, nothing is prepared; then all run in their order."""
    world, ready = starting()
    jobs = [await world.service.submit(spec(f"r{number}", **PATIENT)) for number in range(3)]
    await settle()
    assert [(job.status, job.message) for job in await world.store.unfinished()] == [(JobStatus.QUEUED, WAITING)] * 3
    assert world.preparer.begun == world.engine.ran == []
    assert world.service.queue_counts().prepare_waiting == 3
    ready.set()
    await finish_all(world, lambda: world.service.in_flight_count == 0)
    assert world.engine.ran == ["r0", "r1", "r2"]
    assert [(await world.service.get(job.job_id)).status for job in jobs] == [JobStatus.COMPLETED] * 3
    await world.tasks.cancel()


async def test_the_message_changes_when_the_worker_is_ready() -> None:
    """Not only when the job has its turn."""
    world, ready = starting()
    world.preparer.held["r"] = asyncio.Event()
    job = await world.service.submit(spec(**PATIENT))
    ready.set()
    await settle()
    assert (await world.service.get(job.job_id)).message == READY
    world.preparer.held["r"].set()
    await finish_all(world, lambda: world.service.in_flight_count == 0)
    await world.tasks.cancel()


async def test_others_are_refused_and_our_own_run() -> None:
    """Patience is asked for; the benchmark, which makes the worker ready, waits for nobody, whatever it asks."""
    world, ready = starting()
    with pytest.raises(NotReady, match="starting"):
        await world.service.submit(spec())
    await world.service.submit(spec("patient", **PATIENT))
    measured = await world.service.submit(spec("benchmark", internal=True, patient=True, engine="gpu0"))
    await settle()
    world.engine.finish()
    assert (await finished(world, measured)).status is JobStatus.COMPLETED
    assert world.engine.ran == ["benchmark"]
    ready.set()
    await finish_all(world, lambda: world.service.in_flight_count == 0)
    await world.tasks.cancel()


async def test_patience_passes_no_other_bound() -> None:
    """A full queue, a worker that ends, and one that is in trouble take no job."""
    world, ready = starting(in_flight=1)
    job = await world.service.submit(spec("first", **PATIENT))
    with pytest.raises(Overloaded):
        await world.service.submit(spec("second", **PATIENT))
    await world.service.cancel(job.job_id, reason="enough")
    ready.set()
    world.blocked.append("ComfyUI is down")
    with pytest.raises(NotReady, match="is down"):
        await world.service.submit(spec("third", **PATIENT))
    ready.clear()
    await world.service.drain(0)
    with pytest.raises(Draining):
        await world.service.submit(spec("fourth", **PATIENT))
    await world.tasks.cancel()


async def test_a_patient_job_can_be_cancelled() -> None:
    """While it waits, at once."""
    world, _ = starting()
    job = await world.service.submit(spec(**PATIENT))
    assert (await world.service.cancel(job.job_id, reason="enough")).status is JobStatus.CANCELLED
    assert world.service.predicted_wait_s() is None
    assert world.service.in_flight_count == 0
    await world.tasks.cancel()


async def test_a_drain_leaves_patient_jobs_to_the_next_life() -> None:
    """Where they wait for nothing but their turn: they are taken up when engines answer."""
    world, _ = starting()
    job = await world.service.submit(spec(**PATIENT))
    await settle()
    await world.service.drain(0)
    again = restart(world)
    await again.service.recover()
    await finish_all(again, lambda: again.service.in_flight_count == 0)
    assert (await again.service.get(job.job_id)).status is JobStatus.COMPLETED
    for each in (world, again):
        await each.tasks.cancel()


async def test_a_patient_job_of_an_earlier_life_does_not_wait_again() -> None:
    """It may be with an engine already; the queue is closed while the worker starts."""
    world = build_jobs([FakeEngine()])
    job = await world.service.submit(spec(**PATIENT))
    await settle()
    world.engine.sever()
    again = build_jobs(world.engines, clock=world.clock, store=world.store, ready=asyncio.Event())
    await again.service.recover()
    await settle()
    assert again.engine.attached == [job.job_id]
    again.engine.finish()
    assert (await finished(again, job)).status is JobStatus.COMPLETED
    for each in (world, again):
        await each.tasks.cancel()


async def test_no_engine_for_too_long_fails_patient_jobs() -> None:
    """They don't wait for a ComfyUI that never comes; later ones wait anew."""
    world, ready = starting()
    job = await world.service.submit(spec(**PATIENT))
    await settle()
    world.service.engines_lost("exit code 1")
    assert isinstance((await finished(world, job)).error, EngineUnreachable)
    later = await world.service.submit(spec("later", **PATIENT))
    ready.set()
    await finish_all(world, lambda: world.service.in_flight_count == 0)
    assert (await world.service.get(later.job_id)).status is JobStatus.COMPLETED
    await world.tasks.cancel()


class Broken(asyncio.Event):
    """A start that fails."""

    async def wait(self) -> Literal[True]:
        raise NotReady("No workflow ran.")


async def test_a_start_that_fails_fails_patient_jobs() -> None:
    """With its reason."""
    world = build_jobs([FakeEngine()], ready=Broken())
    job = await world.service.submit(spec(**PATIENT))
    assert (await finished(world, job)).message == "No workflow ran."
    await world.tasks.cancel()
