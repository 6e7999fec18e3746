"""Jobs that live for a limited time: cancelled if need be, then as if they had never been, over a restart too."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from lib.errors import JobNotFound, NotReady, StorageFailed
from lib.jobs.lifetimes import OUTLIVED
from lib.jobs.model import DeliverySpec, Idempotency, Job, JobEvent, JobFilter, JobStatus, OnDisconnect, WebhookTarget
from tests.fakes.clock import FakeClock, settle
from tests.fakes.engine import FakeEngine
from tests.fakes.jobs import JobWorld, SlowStore, build_jobs, finished, restart, spec

SHORT_S = 0.5
"""Real time: whoever is to hear of the end begins to wait within it."""
KEPT: dict[str, Any] = {"on_disconnect": OnDisconnect.KEEP}
TOLD = DeliverySpec(webhooks=(WebhookTarget(url="https://hooks.example/1"),))


@pytest.fixture
async def world(any_store: Any, clock: FakeClock) -> AsyncIterator[JobWorld]:
    made = build_jobs(clock=clock, store=any_store)
    yield made
    await made.tasks.cancel()
    assert made.service.in_flight_count == 0
    assert made.queue.posted_count == 0


async def is_forgotten(world: JobWorld, job: Job) -> bool:
    """Whether no name leads to it; some that do and some that don't are a defect."""
    service, found = world.service, []
    looks = (
        service.get(job.job_id),
        service.find(job.job_id, owner=None),
        service.find(job.spec.request_id, owner=""),
        service.find(job.spec.request_id, owner=None),
        service.wait_for(job.job_id, 0),
        anext(service.watch(job.job_id)),
    )
    for answer in await asyncio.gather(*looks, return_exceptions=True):
        assert not isinstance(answer, BaseException) or isinstance(answer, JobNotFound)
        found.append(not isinstance(answer, JobNotFound))
    found.append(job.job_id in [each.job_id for each in await service.listed(JobFilter())])
    assert len(set(found)) == 1, found
    return not found[0]


async def test_a_job_that_outlives_its_time_is_cancelled_and_forgotten(world: JobWorld, clock: FakeClock) -> None:
    """Who waits is told why, so is its webhook, it is off the GPU; then nobody finds it."""
    accepted = await world.service.submit(spec(ttl_s=SHORT_S, delivery=TOLD, **KEPT))
    assert accepted.expires_at == accepted.timings.accepted_at + timedelta(seconds=SHORT_S)
    ended = await finished(world, accepted)
    assert (ended.status, ended.message, ended.stopping) == (JobStatus.CANCELLED, OUTLIVED, False)
    assert world.engine.posted == []
    assert world.announcer.told == [("r", JobEvent.CANCELLED)]
    assert world.ledger.finished_jobs == [("r", JobStatus.CANCELLED)]
    await clock.advance(SHORT_S)
    assert await is_forgotten(world, accepted)
    await world.store.expire()
    assert await world.store.unfinished() == []


async def test_a_job_is_forgotten_before_it_is_off_the_engine(world: JobWorld) -> None:
    """Its removal takes its time: it is load until then, and a new request of its name waits for that."""
    removal = world.engine.removal = asyncio.Event()
    accepted = await world.service.submit(spec(**KEPT))
    waiting = asyncio.ensure_future(world.service.wait(accepted.job_id))
    views = world.service.watch(accepted.job_id)
    await anext(views)
    await world.service.shorten(accepted.job_id, 0)
    await anext(view async for view in views if view.job.stopping)
    await views.aclose()
    with pytest.raises(JobNotFound):
        await world.service.get(accepted.job_id)
    with pytest.raises(JobNotFound):
        await world.service.cancel(accepted.job_id, reason="enough")
    assert world.service.load == accepted.cost
    again = asyncio.ensure_future(world.service.submit(spec(**KEPT)))
    await settle()
    assert not waiting.done() and not again.done()
    removal.set()
    assert (await waiting).status is JobStatus.CANCELLED
    assert (await again).run == 2
    await world.service.cancel((await again).job_id, reason="enough")


async def test_a_result_is_forgotten_too(world: JobWorld, clock: FakeClock) -> None:
    """From its acceptance on, however early it was over; its idempotency key is free again."""
    world.engine.automatic = True
    key = Idempotency(scope="s", key="k")
    accepted = await world.service.submit(spec(ttl_s=60, idempotency=key, **KEPT))
    await finished(world, accepted)
    await clock.advance(59)
    assert not await is_forgotten(world, accepted)
    assert (await world.service.submit(spec(idempotency=key, **KEPT))).job_id == accepted.job_id
    await clock.advance(1)
    assert await is_forgotten(world, accepted)
    again = await world.service.submit(spec(idempotency=key, **KEPT))
    assert again.job_id != accepted.job_id
    await finished(world, again)


async def test_a_live_job_is_shortened(world: JobWorld, clock: FakeClock) -> None:
    """It is cancelled at the new time; a longer one changes nothing; that is recorded."""
    accepted = await world.service.submit(spec(**KEPT))
    assert accepted.expires_at is None
    shortened = await world.service.shorten(accepted.job_id, 60)
    assert shortened.expires_at == clock.now() + timedelta(seconds=60)
    for _ in range(2):
        assert (await world.service.get(accepted.job_id)).expires_at == shortened.expires_at
        (recorded,) = await world.store.unfinished()
        assert recorded.expires_at == shortened.expires_at
        await world.service.shorten(accepted.job_id, 3600)
    waiting = asyncio.ensure_future(world.service.wait(accepted.job_id))
    await asyncio.sleep(0)
    await world.service.shorten(accepted.job_id, 0)
    assert (await waiting).message == OUTLIVED
    assert await is_forgotten(world, accepted)


async def test_a_result_is_shortened(world: JobWorld, clock: FakeClock) -> None:
    """And gone when that time is over; whoever asks for what is not there is told so."""
    world.engine.automatic = True
    accepted = await world.service.submit(spec())
    await finished(world, accepted)
    shortened = await world.service.shorten(accepted.job_id, 60)
    assert shortened.status is JobStatus.COMPLETED
    await clock.advance(59)
    assert not await is_forgotten(world, accepted)
    await clock.advance(1)
    assert await is_forgotten(world, accepted)
    for job_id in (accepted.job_id, "nobody"):
        with pytest.raises(JobNotFound):
            await world.service.shorten(job_id, 60)


async def test_a_job_whose_end_is_being_recorded_is_shortened_when_it_is(clock: FakeClock) -> None:
    """The answer is the terminal state, and the limit holds."""
    store = SlowStore(clock=clock)
    world = build_jobs([FakeEngine(automatic=True)], clock=clock, store=store)
    accepted = await world.service.submit(spec())
    store.gate.clear()
    await settle()
    shortening = asyncio.ensure_future(world.service.shorten(accepted.job_id, 10))
    await settle()
    assert not shortening.done()
    store.gate.set()
    assert (await shortening).status is JobStatus.COMPLETED
    await clock.advance(10)
    assert await is_forgotten(world, accepted)
    await world.tasks.cancel()


async def test_what_a_worker_outlived_while_it_was_away_is_not_run(world: JobWorld) -> None:
    """Its prompt is removed, its end recorded and told; before that and after nobody finds it."""
    accepted = await world.service.submit(spec(delivery=TOLD, **KEPT))
    views = world.service.watch(accepted.job_id)
    await anext(view async for view in views if view.job.status is JobStatus.RUNNING)
    await views.aclose()
    again = restart(world)
    await again.store.shorten(accepted.job_id, 0)
    assert await is_forgotten(again, accepted)
    assert await again.service.recover() == 1
    with pytest.raises(JobNotFound):
        await again.service.get(accepted.job_id)
    await again.service.drain(5)
    assert await is_forgotten(again, accepted)
    assert again.ledger.finished_jobs == [("r", JobStatus.CANCELLED)]
    assert again.announcer.told == [("r", JobEvent.CANCELLED)]
    assert again.engine.posted == []
    assert again.engine.ran == ["r"]
    await again.tasks.cancel()


async def test_a_restart_counts_from_the_acceptance(world: JobWorld, clock: FakeClock) -> None:
    """What is left of its time is what a job still may live."""
    accepted = await world.service.submit(spec(ttl_s=60, **KEPT))
    await clock.advance(60 - SHORT_S)
    again = restart(world)
    await again.service.recover()
    ended = await finished(again, accepted)
    assert (ended.status, ended.message) == (JobStatus.CANCELLED, OUTLIVED)
    await again.tasks.cancel()


async def test_the_timer_goes_with_the_job(clock: FakeClock) -> None:
    """Over, refused or parked: nothing of it stays in the loop."""
    store = SlowStore(clock=clock)
    world = build_jobs([FakeEngine(automatic=True)], clock=clock, store=store)
    await finished(world, await world.service.submit(spec("done", ttl_s=3600)))
    store.error = StorageFailed("no space left on the device")
    with pytest.raises(NotReady):
        await world.service.submit(spec("refused", ttl_s=3600))
    store.error, world.engine.automatic = None, False
    await world.service.submit(spec("parked", ttl_s=3600, **KEPT))
    await settle()
    await world.service.drain(0)
    assert world.service.in_flight_count == 0
    timers = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    assert [timer for timer in timers if not timer.cancelled()] == []
    await world.tasks.cancel()
