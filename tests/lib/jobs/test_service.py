"""JobService with pipeline and queue, on engines under the test's control."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import pytest

from lib.errors import (
    Draining,
    EngineUnreachable,
    ExecutionFailed,
    InputFetchFailed,
    JobAlreadyFinished,
    JobConflict,
    JobNotFound,
    NotReady,
    OutOfMemory,
    Overloaded,
)
from lib.jobs.model import DeliverySpec, Job, JobFilter, JobSpec, JobStatus, OnDisconnect, S3Target
from tests.fakes.clock import settle
from tests.fakes.engine import FakeEngine
from tests.fakes.jobs import JobWorld, build_jobs, finish_all, finished, spec


@pytest.fixture
async def world() -> AsyncIterator[JobWorld]:
    made = build_jobs()
    yield made
    await made.tasks.cancel()
    assert made.service.in_flight_count == 0
    assert made.queue.posted_count == 0


async def test_a_job_runs_and_ends_completed(world: JobWorld) -> None:
    """Accepted, run, collected, delivered, completed; the ledger saw it come and go."""
    job = await world.service.submit(spec())
    await settle()
    assert (await world.service.get(job.job_id)).status is JobStatus.RUNNING
    world.engines[0].finish()
    done = await finished(world, job)
    assert done.status is JobStatus.COMPLETED
    assert [o.filename for o in done.outputs] == ["a.png"]
    assert done.attempts == 1
    assert world.ledger.received_jobs == ["r"]
    assert world.ledger.finished_jobs == [("r", JobStatus.COMPLETED)]


async def test_one_prompt_is_pending_behind_the_running_one(world: JobWorld) -> None:
    """An engine never holds more than two prompts, and gets them in the order of acceptance."""
    world.engines[0].automatic = False
    jobs = [await world.service.submit(spec(f"r{i}")) for i in range(5)]
    await settle()
    assert len(world.engines[0].posted) == 2
    for _ in jobs:
        world.engines[0].finish()
        await settle()
    for job in jobs:
        assert (await finished(world, job)).status is JobStatus.COMPLETED
    assert world.engines[0].ran == [f"r{i}" for i in range(5)]
    assert world.engines[0].most_posted == 2


async def test_a_job_that_still_fetches_does_not_hold_the_engine(world: JobWorld) -> None:
    """Of the prepared jobs the earliest goes next; one that fetches is passed."""
    world.preparer.held["slow"] = asyncio.Event()
    slow = await world.service.submit(spec("slow"))
    quick = await world.service.submit(spec("quick"))
    await settle()
    assert world.engines[0].ran == ["quick"]
    world.preparer.held["slow"].set()
    world.engines[0].finish()
    await finished(world, quick)
    await settle()
    world.engines[0].finish()
    assert (await finished(world, slow)).status is JobStatus.COMPLETED


async def test_a_slow_upload_does_not_hold_the_next_job(world: JobWorld) -> None:
    """Delivery runs beside the engine: the next prompt starts while the first still uploads."""
    world.delivery.gate.clear()
    first = await world.service.submit(spec("first"))
    second = await world.service.submit(spec("second"))
    await settle()
    world.engines[0].finish()
    await settle()
    assert world.engines[0].ran == ["first", "second"]
    world.engines[0].finish()
    world.delivery.gate.set()
    assert (await finished(world, first)).status is JobStatus.COMPLETED
    assert (await finished(world, second)).status is JobStatus.COMPLETED


async def test_uploads_to_a_callers_place_that_hangs_hold_up_nobody_else(world: JobWorld) -> None:
    """More of them than there are seats for delivery: a job without such an upload is delivered all the same."""
    world.engines[0].automatic = True
    hanging = S3Target(bucket_name="b", access_key_id="k", secret_access_key="s", endpoint_url="https://nowhere")
    world.delivery.gate.clear()
    stuck = [await world.service.submit(spec(f"s{n}", delivery=DeliverySpec(s3=hanging))) for n in range(3)]
    await settle()
    world.delivery.ungated.add("quick")
    quick = await world.service.submit(spec("quick"))
    assert (await finished(world, quick)).status is JobStatus.COMPLETED
    world.delivery.gate.set()
    for job in stuck:
        assert (await finished(world, job)).status is JobStatus.COMPLETED


async def test_a_running_job_is_resubmitted_once_when_the_engine_dies(world: JobWorld) -> None:
    """Running when ComfyUI died: once more. The second time: failed with the cause."""
    job = await world.service.submit(spec())
    await settle()
    world.engines[0].die()
    await settle()
    assert (await world.service.get(job.job_id)).status is JobStatus.QUEUED
    world.engines[0].healthy = True
    world.queue.dispatch()
    await settle()
    assert (await world.service.get(job.job_id)).attempts == 2
    world.engines[0].die()
    done = await finished(world, job)
    assert done.status is JobStatus.FAILED
    assert done.error is not None
    assert done.error.code == "engine_died"
    world.engines[0].healthy = True


async def test_a_pending_prompt_keeps_its_resubmission(world: JobWorld) -> None:
    """Only pending when ComfyUI died: no attempt is counted, and one loss is still allowed."""
    first = await world.service.submit(spec("first"))
    second = await world.service.submit(spec("second"))
    await settle()
    for _ in range(2):
        world.engines[0].die()
        await settle()
        world.engines[0].healthy = True
        world.queue.dispatch()
        await settle()
    assert (await finished(world, first)).status is JobStatus.FAILED
    world.engines[0].finish()
    done = await finished(world, second)
    assert done.status is JobStatus.COMPLETED
    assert done.attempts == 1


async def test_out_of_memory_is_tried_once_more(world: JobWorld) -> None:
    """The engine frees what it can; the second run is said in a warning, a second shortage is the end."""
    lucky = await world.service.submit(spec("lucky"))
    await settle()
    world.engine.finish(OutOfMemory("CUDA out of memory"))
    await settle()
    assert world.engine.ran == ["lucky", "lucky"]
    world.engine.finish()
    done = await finished(world, lucky)
    assert (done.status, done.attempts, done.posts) == (JobStatus.COMPLETED, 2, 2)
    assert done.warnings == ("resubmitted: CUDA out of memory",)
    hungry = await world.service.submit(spec("hungry"))
    for _ in range(2):
        await settle()
        world.engine.finish(OutOfMemory("CUDA out of memory"))
    failed = await finished(world, hungry)
    assert (failed.status, type(failed.error), failed.attempts) == (JobStatus.FAILED, OutOfMemory, 2)


async def test_an_engine_that_dies_before_its_history_is_read(world: JobWorld) -> None:
    """The prompt had ended, its history is gone with the process: the job runs once more."""
    world.engines[0].collect_errors.append(EngineUnreachable("refused"))
    job = await world.service.submit(spec())
    await settle()
    world.engines[0].finish()
    await settle()
    world.engines[0].finish()
    done = await finished(world, job)
    assert (done.status, done.attempts) == (JobStatus.COMPLETED, 2)


async def test_a_pending_prompt_moves_to_an_engine_that_falls_idle() -> None:
    """Two engines, three jobs: the pending one is withdrawn and runs where the GPU is free."""
    world = build_jobs([FakeEngine("gpu0"), FakeEngine("gpu1")])
    jobs = [await world.service.submit(spec(f"r{i}")) for i in range(3)]
    await settle()
    assert len(world.engines[0].posted) == 2
    world.engines[1].finish()
    await settle()
    assert world.engines[1].ran == ["r1", "r2"]
    world.engines[0].finish()
    world.engines[1].finish()
    for job in jobs:
        assert (await finished(world, job)).status is JobStatus.COMPLETED


async def test_the_last_waiter_that_leaves_cancels_a_synchronous_job(world: JobWorld) -> None:
    """A lost connection cancels down to the engine; a second waiter keeps the job alive."""
    job = await world.service.submit(spec())
    await settle()
    waiters = [asyncio.ensure_future(world.service.wait(job.job_id)) for _ in range(2)]
    await settle()
    waiters[0].cancel()
    await settle()
    assert (await world.service.get(job.job_id)).status is JobStatus.RUNNING
    waiters[1].cancel()
    await settle()
    assert (await world.service.get(job.job_id)).status is JobStatus.CANCELLED
    assert world.engines[0].cancelled == ["r"]


async def test_a_kept_job_survives_its_connection(world: JobWorld) -> None:
    """on_disconnect = keep: nobody waits, the job still completes."""
    job = await world.service.submit(spec(on_disconnect=OnDisconnect.KEEP))
    waiter = asyncio.ensure_future(world.service.wait(job.job_id))
    await settle()
    waiter.cancel()
    await settle()
    world.engines[0].finish()
    assert (await finished(world, job)).status is JobStatus.COMPLETED


async def test_a_retry_attaches_within_the_grace_period(world: JobWorld) -> None:
    """Same tag and body: the retry gets the job that is running, and the finished one for some minutes."""
    first = spec("a", tag=7, disconnect_grace_s=30)
    job = await world.service.submit(first)
    await settle()
    waiter = asyncio.ensure_future(world.service.wait(job.job_id))
    await settle()
    waiter.cancel()
    await settle()
    again = await world.service.submit(spec("b", tag=7, disconnect_grace_s=30))
    assert again.job_id == job.job_id
    world.engines[0].finish()
    assert (await finished(world, again)).status is JobStatus.COMPLETED
    assert (await world.service.submit(spec("c", tag=7))).job_id == job.job_id
    other = await world.service.submit(spec("d", tag=7, body_hash="other"))
    assert other.job_id != job.job_id
    await settle()
    world.engines[0].finish()
    await finished(world, other)


async def test_a_retry_does_not_attach_to_a_job_that_is_being_cancelled(world: JobWorld) -> None:
    """The caller left, the removal takes its time, the caller comes back: the job runs anew, once for all who came."""
    first = await world.service.submit(spec())
    await settle()
    removed = world.engines[0].removal = asyncio.Event()
    waiter = asyncio.ensure_future(world.service.wait(first.job_id))
    await settle()
    waiter.cancel()
    await settle()
    retries = [asyncio.ensure_future(world.service.submit(spec())) for _ in range(2)]
    await settle()
    assert not any(retry.done() for retry in retries)
    removed.set()
    await settle()
    again, same = [await retry for retry in retries]
    assert first.job_id != again.job_id == same.job_id
    world.engines[0].finish()
    assert (await finished(world, again)).status is JobStatus.COMPLETED


async def test_a_finished_job_is_not_kept_whole_for_a_retry(world: JobWorld) -> None:
    """While a router's number is remembered, the request's bytes and inlined files are not."""
    whole = b'{"prompt": "%s"}' % (b"x" * 5000)
    job = await world.service.submit(spec(tag=9, workflow=whole))
    await settle()
    world.engines[0].finish()
    await finished(world, job)
    await settle()
    del job
    gc.collect()
    assert not [found for found in gc.get_objects() if isinstance(found, JobSpec) and found.workflow == whole]


async def test_a_repeated_request_id(world: JobWorld) -> None:
    """Live with the same body: attach; with another body: conflict; finished: run anew, counted."""
    job = await world.service.submit(spec())
    assert (await world.service.submit(spec())).job_id == job.job_id
    with pytest.raises(JobConflict):
        await world.service.submit(spec(body_hash="other"))
    await settle()
    world.engines[0].finish()
    await finished(world, job)
    second = await world.service.submit(spec())
    assert second.run == 2
    assert (await world.service.find("r", owner=None)).job_id == second.job_id
    await settle()
    world.engines[0].finish()
    await finished(world, second)


async def test_cancel_before_the_first_step_is_recorded(world: JobWorld) -> None:
    """A job cancelled before its task ran ends as cancelled; nobody waits for ever."""
    job = await world.service.submit(spec(internal=True))  # those are not recorded: no step in between
    cancelled = await world.service.cancel(job.job_id, reason="enough")
    assert cancelled.status is JobStatus.CANCELLED
    assert cancelled.message == "enough"
    assert world.preparer.begun == world.engine.ran == []


async def test_a_terminal_state_is_sticky(world: JobWorld) -> None:
    """A second cancel is refused and changes nothing."""
    job = await world.service.submit(spec())
    await world.service.cancel(job.job_id, reason="enough")
    with pytest.raises(JobAlreadyFinished):
        await world.service.cancel(job.job_id, reason="again")
    assert (await world.service.get(job.job_id)).message == "enough"


async def test_a_cancel_need_not_wait_for_the_engine(world: JobWorld) -> None:
    """It answers at once that the job is stopping; watchers see it, the store has it, a second one changes nothing."""
    job = await world.service.submit(spec(on_disconnect=OnDisconnect.KEEP))
    await settle()
    removed = world.engine.removal = asyncio.Event()
    views = world.service.watch(job.job_id)
    assert not (await anext(views)).job.stopping
    for reason in ("enough", "again"):
        stopping = await world.service.cancel(job.job_id, reason=reason, wait=False)
        assert (stopping.status, stopping.stopping, stopping.message) == (JobStatus.RUNNING, True, "enough")
    assert (await anext(views)).job == await world.service.get(job.job_id) == stopping
    assert [found.stopping for found in await world.service.listed(JobFilter())] == [True]
    assert [found.stopping for found in await world.store.unfinished()] == [True]
    assert (world.service.load, world.service.queue_counts().running) == (job.cost, 1)
    removed.set()
    last = [view async for view in views][-1].job
    assert (last.status, last.stopping, last.message) == (JobStatus.CANCELLED, False, "enough")
    assert not (await world.service.get(job.job_id)).stopping
    with pytest.raises(JobAlreadyFinished):
        await world.service.cancel(job.job_id, reason="once more", wait=False)
    assert world.ledger.finished_jobs == [("r", JobStatus.CANCELLED)]


async def test_news_of_the_engine_do_not_hide_that_a_job_is_stopping(world: JobWorld) -> None:
    """A prompt that starts in the very moment: its job says on why it ends."""
    await world.service.submit(spec("first"))
    job = await world.service.submit(spec("second"))
    await settle()
    world.engine.removal = asyncio.Event()
    await world.service.cancel(job.job_id, reason="enough", wait=False)
    await settle()
    world.engine.posted[1].observer.started()
    now = await world.service.get(job.job_id)
    assert (now.status, now.stopping, now.message) == (JobStatus.RUNNING, True, "enough")
    (recorded,) = [found for found in await world.store.unfinished() if found.job_id == job.job_id]
    assert (recorded.stopping, recorded.message) == (True, "enough")
    world.engine.removal.set()
    await settle()
    world.engine.finish()
    await finish_all(world, lambda: world.service.in_flight_count == 0)


async def test_a_job_that_is_stopping_waits_for_nothing(world: JobWorld) -> None:
    """It has no place in the line, and those behind it move up before it is off the engine."""
    jobs = [await world.service.submit(spec(f"r{number}")) for number in range(3)]
    await settle()
    world.engine.removal = asyncio.Event()
    async with aclosing(world.service.watch(jobs[2].job_id)) as views:
        assert (await anext(views)).position == 2
        stopping = await world.service.cancel(jobs[1].job_id, reason="enough", wait=False)
        assert stopping.status is JobStatus.QUEUED
        async with aclosing(world.service.watch(jobs[1].job_id)) as others:
            assert (await anext(others)).position == 0
        assert (await anext(views)).position == 1
    world.engine.removal.set()
    await finish_all(world, lambda: world.service.in_flight_count == 0)


async def test_a_cancel_that_does_not_wait_of_a_job_that_ends(world: JobWorld) -> None:
    """Its outcome is known: too late, as ever. Drained by us: it fails, and is not shown as given up by its caller."""
    world.delivery.gate.clear()
    job = await world.service.submit(spec())
    await settle()
    world.engine.removal = asyncio.Event()
    draining = asyncio.ensure_future(world.service.drain(0))
    await settle()
    assert not (await world.service.cancel(job.job_id, reason="enough", wait=False)).stopping
    world.engine.removal.set()
    await draining
    assert (await world.service.get(job.job_id)).status is JobStatus.FAILED


async def test_failures_become_outcomes(world: JobWorld) -> None:
    """What a stage raises is the job's error; the service goes on."""
    world.preparer.error = InputFetchFailed("no", details={"field": "1.image"})
    job = await finished(world, await world.service.submit(spec("bad")))
    assert (job.status, job.error) == (JobStatus.FAILED, world.preparer.error)
    world.preparer.error = None
    job = await world.service.submit(spec("worse"))
    await settle()
    world.engines[0].finish(ExecutionFailed("boom"))
    assert (await finished(world, job)).message == "boom"


async def test_no_engine_for_too_long_fails_who_waits(world: JobWorld) -> None:
    """engines_lost tells every waiting job; it does not wait for ever."""
    world.engines[0].healthy = False
    job = await world.service.submit(spec())
    await settle()
    world.service.engines_lost("exit code 1")
    await settle()
    world.service.engines_lost("exit code 1")
    await settle()
    world.service.engines_lost("exit code 1")
    done = await finished(world, job)
    assert isinstance(done.error, EngineUnreachable)


async def test_admission(world: JobWorld) -> None:
    """Not ready, full, too slow and draining are refused, each with a moment to come back."""
    world.blocked.append("no model")
    with pytest.raises(NotReady, match="no model"):
        await world.service.submit(spec())
    internal = await world.service.submit(spec("boot", internal=True))
    world.blocked.clear()
    world.engine.execute_s = 10
    await settle()
    world.engines[0].finish()
    await finished(world, internal)
    assert world.ledger.received_jobs == []
    jobs = [await world.service.submit(spec(f"r{i}", max_wait_s=15)) for i in range(2)]
    await settle()
    assert world.service.predicted_wait_s() == pytest.approx(20)
    with pytest.raises(Overloaded) as caught:
        await world.service.submit(spec("late", max_wait_s=15))
    assert caught.value.retry_after_s == pytest.approx(5)
    await world.clock.advance(8)
    assert world.service.predicted_wait_s() == pytest.approx(12)
    draining = asyncio.ensure_future(world.service.drain(5))
    await settle()
    with pytest.raises(Draining):
        await world.service.submit(spec("too late"))
    for job in jobs:
        world.engines[0].finish()
        assert (await finished(world, job)).status is JobStatus.COMPLETED
    await draining


async def test_an_engine_that_is_down_promises_nothing() -> None:
    """The predicted wait, and how many jobs are always taken, go by the engines that serve."""
    world = build_jobs([FakeEngine("gpu0"), FakeEngine("gpu1")])
    world.speed.benchmarked(20, engine_count=2)  # 10 s a job on each
    for number in range(4):
        await world.service.submit(spec(f"r{number}", max_wait_s=15))
    assert world.service.predicted_wait_s() == 20
    world.engines[1].healthy = False
    assert world.service.predicted_wait_s() == 40
    with pytest.raises(Overloaded):
        await world.service.submit(spec("late", max_wait_s=30))
    await settle()
    await world.tasks.cancel()


async def test_a_burst_is_counted_as_it_comes(world: JobWorld) -> None:
    """Requests that arrive together find each other in the queue, although none of them has made a step."""
    world.speed.benchmarked(10, engine_count=1)  # 10 s a job
    answers = await asyncio.gather(
        *(world.service.submit(spec(f"r{number}", max_wait_s=30)) for number in range(8)), return_exceptions=True
    )
    assert [isinstance(answer, Overloaded) for answer in answers] == [False] * 4 + [True] * 4
    early = answers[3]
    assert isinstance(early, Job)
    await world.service.cancel(early.job_id, reason="changed my mind")
    assert world.service.predicted_wait_s() == 30


async def test_what_a_drain_ends_may_be_sent_elsewhere(world: JobWorld) -> None:
    """A caller did not cancel it: it failed, for a reason that another worker does not have."""
    running = await world.service.submit(spec("running"))
    left = await world.service.submit(spec("left"))
    world.engines[0].removal = asyncio.Event()
    await settle()
    waiters = [asyncio.ensure_future(world.service.wait(job.job_id)) for job in (running, left)]
    leaving = asyncio.ensure_future(world.service.cancel(left.job_id, reason="changed my mind"))
    await settle()
    draining = asyncio.ensure_future(world.service.drain(0))
    await settle()
    world.engines[0].removal.set()
    ended, changed = await asyncio.gather(*waiters)
    assert ended.status is JobStatus.FAILED
    assert isinstance(ended.error, Draining)
    assert changed.status is JobStatus.CANCELLED
    await asyncio.gather(leaving, draining)


async def test_full() -> None:
    """Over MAX_QUEUE_SIZE jobs in flight: refused with the number."""
    world = build_jobs([FakeEngine()], in_flight=3)
    for i in range(3):
        await world.service.submit(spec(f"r{i}"))
    with pytest.raises(Overloaded, match="3 in flight"):
        await world.service.submit(spec("r4"))
    await world.service.drain(0)
    assert world.service.in_flight_count == 0


async def test_the_store_forgets_inlined_files_and_replays_them(world: JobWorld) -> None:
    """A finished job is remembered without its workflow; a later wait delivers inline data again."""
    job = await world.service.submit(spec(delivery=DeliverySpec(inline_base64=True)))
    await settle()
    world.engines[0].finish()
    await finished(world, job)
    kept = await world.service.get(job.job_id)
    assert kept.spec.workflow == b""
    await finished(world, job)
    assert world.delivery.delivered == ["r", "r"]
    await world.service.whole(kept)
    assert world.delivery.delivered == ["r", "r", "r"]
    told = kept.with_(outputs=tuple(replace(output, data_base64="QUJD") for output in kept.outputs))
    assert await world.service.whole(told) is told
    with pytest.raises(JobNotFound):
        await world.service.get("nobody")
