"""A job whose record is gone must not stop the worker: the next one is processed.

Upstream's workers look the request up in a store at each stage, and one of them ends when it finds nothing. Here a live
job is in memory whatever becomes of its record.
"""

import asyncio

import pytest

from lib.errors import JobNotFound, StorageFailed
from lib.jobs.model import Job, JobStatus, OutboxItem
from lib.jobs.store import MemoryJobStore
from tests.fakes.clock import FakeClock
from tests.fakes.engine import FakeEngine
from tests.fakes.jobs import RETENTION, build_jobs, finish_all, finished, spec


class Forgetful(MemoryJobStore):
    """Loses what it recorded of the request ``lost``, before its end."""

    async def get(self, job_id: str) -> Job | None:
        job = await super().get(job_id)
        return None if job is not None and job.spec.request_id == "lost" else job

    async def finish(self, job: Job, outbox: tuple[OutboxItem, ...] = ()) -> None:
        if job.spec.request_id == "lost":
            raise StorageFailed("there is no such row")
        await super().finish(job, outbox)


async def test_a_job_without_a_record_ends_and_the_next_one_runs() -> None:
    """Both callers have their results; only the lost one can't be asked for later."""
    clock = FakeClock()
    world = build_jobs([FakeEngine()], clock=clock, store=Forgetful(clock=clock, retention=RETENTION))
    accepted = [await world.service.submit(spec(name)) for name in ("lost", "next")]
    async with asyncio.TaskGroup() as group:
        waits = [group.create_task(world.service.wait(job.job_id)) for job in accepted]
        await finish_all(world, lambda: all(wait.done() for wait in waits))
    assert [wait.result().status for wait in waits] == [JobStatus.COMPLETED] * 2
    assert (await world.service.get(accepted[1].job_id)).status is JobStatus.COMPLETED
    with pytest.raises(JobNotFound):
        await world.service.get(accepted[0].job_id)
    assert world.service.in_flight_count == 0


async def test_outputs_that_cannot_be_collected_fail_their_job_only() -> None:
    """Whatever goes wrong after ComfyUI is done with it."""
    engine = FakeEngine(automatic=True)
    engine.collect_errors = [StorageFailed("the disk is full")]
    world = build_jobs([engine])
    broken = await finished(world, await world.service.submit(spec("broken")))
    after = await finished(world, await world.service.submit(spec("next")))
    assert (broken.status, after.status) == (JobStatus.FAILED, JobStatus.COMPLETED)
