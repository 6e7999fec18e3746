"""Watching jobs: the newest view for everybody, nothing queued, nobody held up by the slow ones."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest

from lib.errors import JobNotFound
from lib.jobs.ahead import Ahead
from lib.jobs.events import Watchers
from lib.jobs.live import LiveJob, first_version
from lib.jobs.model import Estimate, Job, JobStatus, JobView, OnDisconnect, Preview, Progress, Stage, Timings
from lib.jobs.queue import SlotQueue
from lib.jobs.speed import SpeedGauge
from tests.fakes.clock import START, FakeClock, settle
from tests.fakes.engine import FakeEngine
from tests.fakes.jobs import JobWorld, build_jobs, finish_all, finished, spec

KEPT = OnDisconnect.KEEP


@pytest.fixture
async def world() -> AsyncIterator[JobWorld]:
    """Places in the line are told as soon as they change."""
    made = build_jobs()
    yield made
    await made.tasks.cancel()
    assert made.service.watcher_count == 0


class Reader:
    """Reads views as they come, while ``ready`` is set."""

    def __init__(self, views: AsyncGenerator[JobView, None]) -> None:
        self.seen: list[JobView] = []
        self.ready = asyncio.Event()
        self.ready.set()
        self.task = asyncio.ensure_future(self._read(views))

    async def _read(self, views: AsyncGenerator[JobView, None]) -> None:
        async with aclosing(views):
            async for view in views:
                self.seen.append(view)
                await self.ready.wait()

    @property
    def last(self) -> JobView:
        return self.seen[-1]

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.wait((self.task,))


async def test_a_job_is_seen_from_its_acceptance_to_its_end(world: JobWorld) -> None:
    """The newest view comes first, then each change, versions grow, the terminal view is the last."""
    job = await world.service.submit(spec())
    reader = Reader(world.service.watch(job.job_id))
    await settle()
    observer = world.engine.posted[0].observer
    for percent in (25.0, 50.0, 75.0):
        observer.progressed(Progress(percent=percent, node_id="3"))
        await settle()
    world.engine.finish()
    await reader.task
    percents = [view.job.progress.percent for view in reader.seen]
    assert percents == sorted(percents) and {0.0, 25.0, 50.0, 75.0} <= set(percents)
    versions = [view.version for view in reader.seen]
    assert versions == sorted(set(versions))
    assert [view.job.status for view in reader.seen if view.job.status.terminal] == [JobStatus.COMPLETED]
    assert reader.last.job.status is JobStatus.COMPLETED


async def test_a_slow_reader_gets_the_newest_and_holds_up_nobody(world: JobWorld) -> None:
    """Of a thousand changes while it was busy it sees the last one; the other reader saw them all."""
    job = await world.service.submit(spec())
    await settle()
    slow, quick = Reader(world.service.watch(job.job_id)), Reader(world.service.watch(job.job_id))
    await settle()
    slow.ready.clear()
    observer = world.engine.posted[0].observer
    for number in range(1000):
        observer.progressed(Progress(percent=number / 10))
        await settle(3)
    assert len(quick.seen) > 1000
    assert len(slow.seen) == 2, "the view it is busy with, and the one before"
    slow.ready.set()
    await settle()
    assert slow.last.job.progress.percent == 99.9
    assert len(slow.seen) == 3
    world.engine.finish()
    await asyncio.gather(slow.task, quick.task)
    assert slow.last.job.status is JobStatus.COMPLETED


async def test_a_job_that_is_over_is_seen_once(world: JobWorld) -> None:
    """Also from the store, with a version that is not below those that were seen while it lived."""
    job = await world.service.submit(spec())
    reader = Reader(world.service.watch(job.job_id))
    await settle()
    world.engine.finish()
    await reader.task
    views = [view async for view in world.service.watch(job.job_id)]
    assert [view.job.status for view in views] == [JobStatus.COMPLETED]
    assert views[0].version == reader.last.version
    with pytest.raises(JobNotFound):
        await anext(world.service.watch("nobody"))


async def test_places_in_the_line(world: JobWorld) -> None:
    """Each watcher of a waiting job learns its place and its wait, as the line moves; a running one has no place."""
    world.speed.served(Estimate(units=100, shape=""), 10.0)
    world.engine.execute_s = 10.0
    jobs = [await world.service.submit(spec(f"r{number}")) for number in range(4)]
    await settle()
    readers = [Reader(world.service.watch(job.job_id)) for job in jobs]
    await settle()
    places = [(reader.last.position, reader.last.waiting_count, reader.last.expected_wait_s) for reader in readers]
    assert places == [(0, 0, None), (1, 3, 10.0), (2, 3, 20.0), (3, 3, 30.0)]
    await world.clock.advance(4)
    await world.service.cancel(jobs[2].job_id, reason="enough")
    await settle()
    last = readers[3].last
    assert (last.position, last.waiting_count, last.expected_wait_s) == (2, 2, pytest.approx(16.0))
    world.engine.finish()
    await settle()
    assert [readers[number].last.position for number in (1, 3)] == [0, 1]
    assert readers[1].last.job.status is JobStatus.RUNNING
    await finish_all(world, lambda: world.service.in_flight_count == 0)
    await asyncio.gather(*(reader.task for reader in readers))


async def test_previews_go_to_those_who_asked(world: JobWorld) -> None:
    """Each one once, the newest one only; nobody asked: none is kept."""
    job = await world.service.submit(spec())
    await settle()
    observer = world.engine.posted[0].observer
    observer.previewed(_preview(b"unseen"))
    plain, asked = Reader(world.service.watch(job.job_id)), Reader(world.service.watch(job.job_id, previews=True))
    await settle()
    count = len(plain.seen)
    observer.previewed(_preview(b"1"))
    await settle()
    asked.ready.clear()
    for data in (b"2", b"3", b"4"):
        observer.previewed(_preview(data))
        await settle()
    asked.ready.set()
    await settle()
    observer.progressed(Progress(percent=50))
    await settle()
    assert [view.preview.data for view in asked.seen if view.preview is not None] == [b"1", b"2", b"4"]
    assert asked.last.preview is None, "a picture is not sent again with the next percent"
    assert all(view.preview is None for view in plain.seen)
    assert len(plain.seen) == count + 1, "no news but the percent"
    world.engine.finish()
    await asyncio.gather(plain.task, asked.task)


async def test_a_watcher_that_leaves_is_forgotten(world: JobWorld) -> None:
    """Its mailbox goes; the job does not mind, however it is meant."""
    job = await world.service.submit(spec())
    await settle()
    reader = Reader(world.service.watch(job.job_id, previews=True))
    await settle()
    assert world.service.watcher_count == 1
    await reader.leave()
    assert world.service.watcher_count == 0
    assert (await world.service.get(job.job_id)).status is JobStatus.RUNNING
    world.engine.finish()
    await finished(world, job)


async def test_a_long_poll(world: JobWorld) -> None:
    """Returns the end, or after its time the newest snapshot; who leaves it cancels nothing."""
    job = await world.service.submit(spec())
    await settle()
    assert (await world.service.wait_for(job.job_id, 0.001)).status is JobStatus.RUNNING
    polls = [asyncio.ensure_future(world.service.wait_for(job.job_id, 60)) for _ in range(2)]
    await settle()
    polls[0].cancel()
    await settle()
    world.engine.finish()
    assert (await polls[1]).status is JobStatus.COMPLETED
    assert (await world.service.wait_for(job.job_id, 60)).status is JobStatus.COMPLETED


async def test_a_job_that_is_kept_after_all(world: JobWorld) -> None:
    """The cap of a synchronous request is over: it goes on without its caller, and is recorded so."""
    job = await world.service.submit(spec())
    waiter = asyncio.ensure_future(world.service.wait(job.job_id))
    await settle()
    kept = await world.service.keep(job.job_id)
    assert kept.spec.on_disconnect is KEPT
    waiter.cancel()
    await settle()
    assert (await world.store.get(job.job_id)).spec.on_disconnect is KEPT
    world.engine.finish()
    assert (await finished(world, job)).status is JobStatus.COMPLETED
    assert (await world.service.keep(job.job_id)).status is JobStatus.COMPLETED


async def test_who_waits_for_a_limited_time_leaves_a_job_that_is_kept(world: JobWorld) -> None:
    """The end, if it comes in time; else the job as it is, recorded as kept before its caller is gone."""
    job = await world.service.submit(spec())
    await settle()
    going = await world.service.wait(job.job_id, at_most_s=0)
    assert (going.status, going.spec.on_disconnect) == (JobStatus.RUNNING, KEPT)
    assert (await world.store.get(job.job_id)).spec.on_disconnect is KEPT
    waiter = asyncio.ensure_future(world.service.wait(job.job_id, at_most_s=60))
    await settle()
    world.engine.finish()
    assert (await waiter).status is JobStatus.COMPLETED
    assert (await world.service.wait(job.job_id, at_most_s=0)).status is JobStatus.COMPLETED


async def test_who_leaves_before_his_time_is_over_cancels(world: JobWorld) -> None:
    """As one who waits without a limit."""
    job = await world.service.submit(spec())
    waiter = asyncio.ensure_future(world.service.wait(job.job_id, at_most_s=60))
    await settle()
    waiter.cancel()
    await settle()
    assert (await world.service.get(job.job_id)).status is JobStatus.CANCELLED


async def test_a_job_in_its_grace_can_be_kept(world: JobWorld) -> None:
    """No cancellation is left behind that would come later."""
    job = await world.service.submit(spec(disconnect_grace_s=3600))
    waiter = asyncio.ensure_future(world.service.wait(job.job_id))
    await settle()
    waiter.cancel()
    await settle()
    assert len(timers()) == 1
    await world.service.keep(job.job_id)
    assert timers() == []
    world.engine.finish()
    assert (await finished(world, job)).status is JobStatus.COMPLETED


async def test_a_listener_that_fails_harms_nobody(world: JobWorld, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged; the other listeners hear everything, who waits gets the result."""
    heard: list[JobStatus] = []

    def broken(job: Job) -> None:
        raise RuntimeError("a defect")

    world.service.listen(broken)
    world.service.listen(lambda job: heard.append(job.status))
    job = await world.service.submit(spec())
    await settle()
    world.engine.finish()
    assert (await finished(world, job)).status is JobStatus.COMPLETED
    assert heard[-1] is JobStatus.COMPLETED
    assert "a listener failed" in caplog.text


async def test_what_waits_where(world: JobWorld) -> None:
    """Counts by stage: what waits for it, and what is being worked on."""
    world.delivery.gate.clear()
    names = ["up1", "up2", "up3", "running", "pending", "behind"]
    for name in names:
        await world.service.submit(spec(name, on_disconnect=KEPT))
    await settle()
    for _ in range(3):
        world.engine.finish()
        await settle()
    counts = world.service.queue_counts()
    assert (counts.deliver_waiting, counts.delivering) == (1, 2)
    assert (counts.execute_waiting, counts.running) == (2, 1)
    assert (counts.prepare_waiting, counts.preparing) == (0, 0)
    world.delivery.gate.set()
    await finish_all(world, lambda: world.service.in_flight_count == 0)


async def test_a_cancel_while_the_outputs_are_uploaded(world: JobWorld) -> None:
    """It counts: the job ends as cancelled, and its upload is not waited for."""
    world.delivery.gate.clear()
    job = await world.service.submit(spec())
    await settle()
    world.engine.finish()
    await settle()
    assert (await world.service.get(job.job_id)).stage is Stage.DELIVER
    assert (await world.service.cancel(job.job_id, reason="enough")).status is JobStatus.CANCELLED
    assert world.delivery.delivered == []


async def test_the_line_is_walked_once_for_all_watchers() -> None:
    """Two thousand watchers and a line that moves all the time: one walk an interval."""
    walks = 0
    jobs: list[LiveJob] = []

    def line() -> list[LiveJob]:
        nonlocal walks
        walks += 1
        return jobs

    queue = SlotQueue([FakeEngine()], clock=FakeClock())
    watchers = Watchers(line=line, ahead=Ahead(queue=queue, speed=SpeedGauge()), interval_s=60.0)
    for number in range(2000):
        timings = Timings(accepted_at=START)
        job = Job(job_id=str(number), spec=spec(str(number)), sequence=number, cost=1.0, timings=timings)
        jobs.append(LiveJob(job, lambda live: None, size=Estimate(units=1, shape=""), version=first_version(START)))
    readers = [Reader(watchers.watch(live, previews=False)) for live in jobs]
    await settle()
    for _ in range(100):
        watchers.moved()
    assert (walks, watchers.count) == (1, 2000)
    assert [reader.last.position for reader in readers] == list(range(1, 2001))
    for reader in readers:
        reader.task.cancel()
    await asyncio.wait([reader.task for reader in readers])
    assert watchers.count == 0


def timers() -> list[asyncio.TimerHandle]:
    """What the loop is to do later."""
    scheduled = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    return [timer for timer in scheduled if not timer.cancelled()]


def _preview(data: bytes) -> Preview:
    return Preview(node_id="3", mime_type="image/jpeg", data=data)
