"""lib.jobs.pipeline: jobs of low priority keep nobody from getting ready, nor from a turn."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from lib.errors import Overloaded
from lib.jobs.model import Job, JobStatus
from tests.fakes.clock import settle
from tests.fakes.engine import FakeEngine
from tests.fakes.jobs import JobWorld, build_jobs, finish_all, finished, spec


@pytest.fixture
async def world() -> AsyncIterator[JobWorld]:
    made = build_jobs(prepare_workers=2, prepared_bytes=1000)
    yield made
    await made.tasks.cancel()
    assert made.service.in_flight_count == 0
    assert made.queue.posted_count == 0


async def low(world: JobWorld, count: int, *, size: int = 2) -> list[Job]:
    workflow = b'"%s"' % (b"x" * (size - 2))
    jobs = [
        await world.service.submit(spec(f"low{number}", low_priority=True, workflow=workflow))
        for number in range(count)
    ]
    await settle()
    return jobs


@pytest.mark.parametrize("size", [2, 700])
async def test_a_normal_job_passes_all_that_have_no_turn_yet(world: JobWorld, size: int) -> None:
    """Many of low priority fill their seats, by count or by bytes; others are prepared and run at once."""
    await low(world, 20, size=size)
    waiting = set(world.preparer.begun) - set(world.engine.ran)
    assert waiting, "some are prepared, and wait"
    assert len(world.preparer.begun) < 20, "not all of them at the same time"
    posted = [entry.job.spec.request_id for entry in world.engine.posted]
    for name in ("a", "b", "c"):
        await world.service.submit(spec(name, workflow=b'"%s"' % (b"x" * 698)))
    await finish_all(world, lambda: "c" in world.engine.ran)
    assert world.engine.ran == [*posted, "a", "b", "c"]
    await finish_all(world, lambda: world.service.in_flight_count == 0, turns=500)
    assert world.engine.ran[-1] == "low19"
    assert sorted(world.engine.ran) == sorted([*(f"low{number}" for number in range(20)), "a", "b", "c"])


async def test_low_priority_alone_keeps_every_engine_busy() -> None:
    """One running and one pending on each, in their order."""
    world = build_jobs([FakeEngine("gpu0"), FakeEngine("gpu1")], prepare_workers=1)
    await low(world, 6)
    assert [len(engine.posted) for engine in world.engines] == [2, 2]
    await finish_all(world, lambda: world.service.in_flight_count == 0)
    assert sorted(world.engines[0].ran + world.engines[1].ran) == [f"low{number}" for number in range(6)]
    await world.tasks.cancel()


async def test_a_job_that_waits_for_a_model_keeps_nobody_from_being_prepared(world: JobWorld) -> None:
    """However many wait so; when theirs is there they go on, and are first again."""
    world.preparer.steps_aside = True
    slow = [f"slow{number}" for number in range(10)]
    world.preparer.held = {name: asyncio.Event() for name in slow}
    for name in (*slow, "a", "b", "c"):
        await world.service.submit(spec(name))
    await finish_all(world, lambda: world.engine.ran == ["a", "b", "c"])
    assert world.preparer.begun == [*slow, "a", "b", "c"]
    for event in world.preparer.held.values():
        event.set()
    await finish_all(world, lambda: world.service.in_flight_count == 0, turns=500)
    assert world.engine.ran == ["a", "b", "c", *slow]


async def test_low_priority_is_not_in_the_way_of_a_prediction(world: JobWorld) -> None:
    """A normal job waits for those that have a turn; one of low priority for all. Admission goes by the same."""
    world.speed.benchmarked(10, engine_count=1)  # 10 s a job
    await low(world, 5)
    assert world.service.predicted_wait_s() == 20
    with pytest.raises(Overloaded):
        await world.service.submit(spec("late", low_priority=True, max_wait_s=30))
    normal = await world.service.submit(spec("normal", max_wait_s=30))
    assert normal.expected_wait_s == 20
    last = await world.service.submit(spec("last", low_priority=True))
    assert last.expected_wait_s == 60
    await world.service.cancel(last.job_id, reason="enough")
    await finish_all(world, lambda: world.service.in_flight_count == 0)
    assert world.service.predicted_wait_s() == 0
    await low(world, 1)
    assert world.service.predicted_wait_s() is not None
    await finish_all(world, lambda: world.service.in_flight_count == 0)


async def test_the_line_shows_who_goes_first(world: JobWorld) -> None:
    """A normal job stands before those of low priority, whenever it came."""
    jobs = await low(world, 4)
    normal = await world.service.submit(spec("normal"))
    async with aclosing(world.service.watch(normal.job_id)) as views:
        assert (await anext(views)).position == 1
        async with aclosing(world.service.watch(jobs[3].job_id)) as others:
            assert (await anext(others)).position == 4
    await finish_all(world, lambda: world.service.in_flight_count == 0)


async def test_a_low_priority_job_of_an_earlier_life_is_removed_or_run(world: JobWorld) -> None:
    """Its place among the seats is the same; nothing of it stays in the books."""
    jobs = await low(world, 3)
    for engine in world.engines:
        engine.sever()
    again = build_jobs(world.engines, clock=world.clock, store=world.store)
    await again.service.recover()
    await finish_all(again, lambda: again.service.in_flight_count == 0)
    assert [(await again.service.get(job.job_id)).status for job in jobs] == [JobStatus.CANCELLED] * 3
    again.engine.automatic = True
    done = await finished(again, await again.service.submit(spec("r", low_priority=True)))
    assert done.status is JobStatus.COMPLETED
    assert again.service.predicted_wait_s() == 0
    await again.tasks.cancel()
