"""News handed to readers as they come."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from lib.jobs.mailboxes import BATCH, Handing
from lib.jobs.model import Job, JobStatus, JobView, Preview, Progress
from tests.fakes.clock import settle
from tests.fakes.jobs import JobWorld, build_jobs, spec


@pytest.fixture
async def world() -> AsyncIterator[JobWorld]:
    made = build_jobs()
    yield made
    await made.tasks.cancel()
    assert made.service.watcher_count == 0


class Reader:
    """Takes views while ``ready`` is set; what comes the other way is in ``yielded``."""

    def __init__(self, world: JobWorld, job: Job, *, previews: bool = False) -> None:
        self.taken: list[JobView] = []
        self.yielded: list[JobView] = []
        self.ready = asyncio.Event()
        self.ready.set()
        self.asked = 0
        self.task = asyncio.ensure_future(self._read(world, job, previews))

    def take(self, view: JobView) -> bool:
        self.asked += 1
        if self.ready.is_set():
            self.taken.append(view)
        return self.ready.is_set()

    async def turn(self) -> None:
        await self.ready.wait()

    async def _read(self, world: JobWorld, job: Job, previews: bool) -> None:
        async with aclosing(world.service.watch(job.job_id, previews=previews, reader=self)) as views:
            async for view in views:
                self.yielded.append(view)


async def _running(world: JobWorld) -> Job:
    job = await world.service.submit(spec())
    await settle()
    return job


def _percents(views: list[JobView]) -> list[float]:
    return [view.job.progress.percent for view in views]


async def test_a_reader_is_handed_what_comes_between_the_first_and_the_last_view(world: JobWorld) -> None:
    """Those two are yielded."""
    job = await _running(world)
    reader = Reader(world, job)
    await settle()
    for percent in (10, 20):
        world.engine.posted[0].observer.progressed(Progress(percent=percent))
        await settle()
    world.engine.finish()
    await reader.task
    assert _percents(reader.taken)[:2] == [10, 20]
    assert [view.job.status for view in reader.yielded] == [JobStatus.RUNNING, JobStatus.COMPLETED]
    assert not any(view.job.status.terminal for view in reader.taken)


async def test_who_can_not_take_it_now_gets_the_newest_view_later(world: JobWorld) -> None:
    """Nothing is queued for it, and it is not asked again meanwhile."""
    job = await _running(world)
    slow, quick = Reader(world, job), Reader(world, job)
    await settle()
    slow.ready.clear()
    for percent in (10, 20, 30):
        world.engine.posted[0].observer.progressed(Progress(percent=percent))
        await settle()
    assert (slow.asked, slow.taken, _percents(quick.taken)) == (1, [], [10, 20, 30])
    slow.ready.set()
    await settle()
    assert _percents(slow.yielded) == [0, 30]
    world.engine.posted[0].observer.progressed(Progress(percent=40))
    await settle()
    assert _percents(slow.taken) == [40]
    world.engine.finish()
    await asyncio.gather(slow.task, quick.task)


async def test_several_changes_of_one_moment_are_handed_over_once(world: JobWorld) -> None:
    """As they are now."""
    job = await _running(world)
    reader = Reader(world, job)
    await settle()
    for percent in (10, 20, 30):
        world.engine.posted[0].observer.progressed(Progress(percent=percent))
    await settle()
    assert _percents(reader.taken) == [30]
    world.engine.finish()
    await reader.task


async def test_previews_are_not_handed_over(world: JobWorld) -> None:
    """They differ from reader to reader."""
    job = await _running(world)
    reader = Reader(world, job, previews=True)
    await settle()
    world.engine.posted[0].observer.previewed(Preview(node_id="1", mime_type="image/png", data=b"x"))
    await settle()
    assert [view.preview is not None for view in reader.yielded] == [False, True]
    assert reader.taken == []
    world.engine.finish()
    await reader.task


async def test_a_reader_that_left_is_not_handed_anything(world: JobWorld) -> None:
    """Also when its news were on their way."""
    job = await _running(world)
    reader = Reader(world, job)
    await settle()
    world.engine.posted[0].observer.progressed(Progress(percent=10))
    reader.task.cancel()
    await asyncio.wait((reader.task,))
    await settle()
    assert reader.taken == [] or _percents(reader.taken) == [10]
    asked = reader.asked
    world.engine.posted[0].observer.progressed(Progress(percent=20))
    await settle()
    assert reader.asked == asked
    world.engine.finish()
    await settle()


async def test_thousands_of_readers_hold_up_nobody_else(world: JobWorld) -> None:
    """They are handed their news in batches, between which others get their turn."""
    job = await _running(world)
    readers = [Reader(world, job) for _ in range(3 * BATCH)]
    await settle()
    world.engine.posted[0].observer.progressed(Progress(percent=10))
    turns = []
    while not turns or turns[-1] < len(readers):
        await asyncio.sleep(0)
        turns.append(sum(bool(reader.taken) for reader in readers))
    assert {BATCH, 2 * BATCH, 3 * BATCH} <= set(turns)
    world.engine.finish()
    await asyncio.gather(*(reader.task for reader in readers))


async def test_a_reader_that_fails_keeps_no_news_from_others() -> None:
    """It is our defect, told by the event loop; the line goes on."""
    handing, told, heard = Handing(), list[object](), list[int]()

    class Box:
        def __init__(self, number: int) -> None:
            self.number = number

        def hand_over(self) -> None:
            if self.number == 0:
                raise ZeroDivisionError
            heard.append(self.number)

    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    for number in range(3):
        handing.add(Box(number))  # type: ignore[arg-type]
    await settle()
    assert heard == [1, 2]
    assert [type(error) for error in told] == [ZeroDivisionError]
