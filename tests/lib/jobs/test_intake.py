"""How jobs come in: recorded before they are acknowledged, once for all who ask, within their owner's own names."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from lib.errors import (
    Draining,
    IdempotencyMismatch,
    InvalidWorkflow,
    JobConflict,
    JobNotFound,
    NotReady,
    Overloaded,
    StorageFailed,
)
from lib.fleet.ledger import Ledger
from lib.jobs.model import (
    DeliverySpec,
    Estimate,
    Idempotency,
    Job,
    JobEvent,
    JobFilter,
    JobSpec,
    JobStatus,
    NamedInput,
    OnDisconnect,
    WebhookTarget,
)
from tests.fakes.clock import FakeClock, settle
from tests.fakes.engine import FakeEngine
from tests.fakes.jobs import JobWorld, SlowStore, build_jobs, finish_all, finished, spec

KEPT = OnDisconnect.KEEP


@pytest.fixture
async def world() -> AsyncIterator[JobWorld]:
    """A service whose store writes when the test says so."""
    clock = FakeClock()
    made = build_jobs(clock=clock, store=SlowStore(clock=clock))
    yield made
    made.store.gate.set()
    await made.tasks.cancel()
    assert made.service.in_flight_count == 0
    assert made.queue.posted_count == 0
    assert made.service.load == 0


def submitting(world: JobWorld, asked: JobSpec) -> asyncio.Task[Job]:
    return asyncio.ensure_future(world.service.submit(asked))


async def run(world: JobWorld, asked: JobSpec) -> Job:
    """Submit a job and see it through."""
    job = await world.service.submit(asked)
    await settle()
    world.engine.finish()
    return await finished(world, job)


# -- recording -------------------------------------------------------------------------------------------------------


async def test_nothing_is_posted_and_nothing_acknowledged_before_it_is_recorded(world: JobWorld) -> None:
    """Preparing goes on meanwhile; everybody who asks for the same job waits too."""
    world.store.gate.clear()
    asking = [submitting(world, spec()), submitting(world, spec())]
    await settle()
    assert world.preparer.begun == ["r"]
    assert not world.engine.posted
    assert not any(task.done() for task in asking)
    assert world.ledger.received_jobs == []
    world.store.gate.set()
    first, second = await asyncio.gather(*asking)
    assert first.job_id == second.job_id
    await settle()
    assert world.engine.ran == world.ledger.received_jobs == ["r"]


async def test_a_store_that_fails_refuses_the_job_without_a_trace(world: JobWorld) -> None:
    """The disk is full: all who asked are told that the worker can't take it, when to come back, and why; no task, load
    or name stays, and the next one is welcome."""
    world.store.gate.clear()
    world.store.error = StorageFailed("no space left on the device")
    asking = [submitting(world, spec()), submitting(world, spec())]
    await settle()
    world.store.gate.set()
    for task in asking:
        with pytest.raises(NotReady, match="no space") as refused:
            await task
        assert refused.value.retry_after_s
    await settle()
    assert (world.service.in_flight_count, world.service.load) == (0, 0)
    assert world.ledger.received_jobs == world.ledger.finished_jobs == world.engine.ran == []
    world.store.error = None
    assert (await run(world, spec())).status is JobStatus.COMPLETED


async def test_an_outcome_that_cannot_be_recorded_is_told_all_the_same(world: JobWorld) -> None:
    """Who waits gets the result; the webhook's message was not stored, so nobody says it was."""
    job = await world.service.submit(spec())
    await settle()
    world.store.error = StorageFailed("no space left on the device")
    world.engine.finish()
    assert (await finished(world, job)).status is JobStatus.COMPLETED
    assert world.service.in_flight_count == 0


async def test_a_caller_who_leaves_while_the_job_is_recorded(world: JobWorld) -> None:
    """A synchronous job ends as cancelled, recorded; a kept one goes on; neither is left half done."""
    world.store.gate.clear()
    asking = [submitting(world, spec("sync")), submitting(world, spec("kept", on_disconnect=KEPT))]
    await settle()
    for task in asking:
        task.cancel()
    await settle()
    world.store.gate.set()
    await settle()
    assert (await world.service.find("sync", owner="")).status is JobStatus.CANCELLED
    assert (await world.service.find("kept", owner="")).status is JobStatus.RUNNING
    world.engine.finish()
    await settle()
    assert (await world.service.find("kept", owner="")).status is JobStatus.COMPLETED


async def test_one_of_two_who_ask_for_a_job_may_leave(world: JobWorld) -> None:
    """The other one still gets it."""
    world.store.gate.clear()
    asking = [submitting(world, spec()), submitting(world, spec())]
    await settle()
    asking[0].cancel()
    await settle()
    world.store.gate.set()
    job = await asking[1]
    await settle()
    world.engine.finish()
    assert (await finished(world, job)).status is JobStatus.COMPLETED


async def test_a_job_that_ends_at_once_is_recorded_first(world: JobWorld) -> None:
    """Cancelled while the store still writes it: first accepted, then over."""
    world.store.gate.clear()
    asking = submitting(world, spec())
    await settle()
    job_id = world.service.live_jobs[0].job_id
    cancelling = asyncio.ensure_future(world.service.cancel(job_id, reason="enough"))
    await settle()
    assert not cancelling.done()
    world.store.gate.set()
    assert (await cancelling).status is JobStatus.CANCELLED
    await asking
    assert world.ledger.finished_jobs == [("r", JobStatus.CANCELLED)]


async def test_a_cancel_that_does_not_wait_waits_for_the_record(world: JobWorld) -> None:
    """What is not recorded can't survive a restart; a job that can't be recorded never was."""
    world.store.gate.clear()
    asking = submitting(world, spec())
    await settle()
    job_id = world.service.live_jobs[0].job_id
    cancelling = asyncio.ensure_future(world.service.cancel(job_id, reason="enough", wait=False))
    await settle()
    assert not cancelling.done()
    world.store.error = StorageFailed("no space left on the device")
    world.store.gate.set()
    for task in (cancelling, asking):
        with pytest.raises(NotReady, match="no space"):
            await task


async def test_a_cancel_that_does_not_wait_is_recorded_when_it_answers(world: JobWorld) -> None:
    """Else a worker that is killed right after would run the job again."""
    job = await world.service.submit(spec(on_disconnect=KEPT))
    await settle()
    world.engine.removal = asyncio.Event()
    world.store.gate.clear()
    cancelling = asyncio.ensure_future(world.service.cancel(job.job_id, reason="enough", wait=False))
    await settle()
    assert not cancelling.done()
    world.store.gate.set()
    assert (await cancelling).stopping
    world.engine.removal.set()
    await finish_all(world, lambda: world.service.in_flight_count == 0)


async def test_what_is_recorded_while_a_job_runs(world: JobWorld) -> None:
    """The post before it happens, the start, and the outputs before they are delivered."""
    await run(world, spec())
    seen = [(job.posts, job.prompt_id == job.job_id, job.attempts, str(job.stage)) for job in world.store.updates]
    assert seen == [(1, True, 0, "execute"), (1, True, 1, "execute"), (1, True, 1, "deliver")]
    assert [output.filename for output in world.store.updates[-1].outputs] == ["a.png"]


# -- refused ---------------------------------------------------------------------------------------------------------

BAD = InvalidWorkflow("Node 3 has no input.", details={"node_errors": {"3": {}}})
TOLD = DeliverySpec(webhooks=(WebhookTarget(url="https://hooks.example/1"),))


async def test_a_refused_job_is_a_failed_one(world: JobWorld) -> None:
    """Recorded, found by all its names, told to its webhook and to those who listen; near no engine, and no load."""
    heard: list[Job] = []
    world.service.listen(heard.append)
    key = Idempotency(scope="s", key="k")
    job = await world.service.refuse(spec(delivery=TOLD, on_disconnect=KEPT, idempotency=key), BAD)
    assert (job.status, job.error, job.message, job.run) == (JobStatus.FAILED, BAD, BAD.message, 1)
    assert job.timings.finished_at == job.timings.accepted_at
    assert heard == [job]
    assert world.announcer.told == [("r", JobEvent.FAILED)]
    for found in (
        await world.service.get(job.job_id),
        await world.service.find("r", owner=""),
        await world.service.wait(job.job_id),
        *await world.service.listed(JobFilter()),
        [view async for view in world.service.watch(job.job_id)][-1].job,
        await world.service.submit(spec(idempotency=key)),
        await world.service.refuse(spec(idempotency=key), BAD),
    ):
        assert (found.job_id, found.status) == (job.job_id, JobStatus.FAILED)
    assert world.preparer.begun == world.engine.ran == []
    assert world.ledger.received_jobs == world.ledger.finished_jobs == []
    assert (world.service.in_flight_count, world.service.load) == (0, 0)


async def test_runs_count_over_refused_ones(world: JobWorld) -> None:
    """And orders go on: the newest run is the one that is found."""
    first = await world.service.refuse(spec(), BAD)
    second = await run(world, spec())
    third = await world.service.refuse(spec(), BAD)
    assert [job.run for job in (first, second, third)] == [1, 2, 3]
    assert [job.sequence for job in (first, second, third)] == [1, 2, 3]
    assert (await world.service.find("r", owner="")).job_id == third.job_id


async def test_what_is_refused_while_it_lives_attaches_to_it(world: JobWorld) -> None:
    """The same request, looked at otherwise; with another body it is a conflict."""
    job = await world.service.submit(spec())
    assert (await world.service.refuse(spec(), BAD)).job_id == job.job_id
    with pytest.raises(JobConflict):
        await world.service.refuse(spec(body_hash="other"), BAD)
    await settle()
    world.engine.finish()
    await finished(world, job)


async def test_the_books_balance_over_refused_jobs() -> None:
    """Received is served and failed and cancelled and load: it is none of that. Its router's number is free."""
    clock = FakeClock()
    ledger = Ledger(clock=clock)
    world = build_jobs([FakeEngine(automatic=True)], clock=clock, ledger=ledger)
    await world.service.refuse(spec("bad", tag=7), BAD)
    await finished(world, await world.service.submit(spec("good", tag=8)))
    assert (ledger.totals.received, ledger.totals.served, ledger.totals.failed, ledger.open_cost) == (100, 100, 0, 0)
    assert [(item.request_idx, item.success) for item in ledger.deleted(10)] == [(7, False), (8, True)]
    await world.tasks.cancel()


async def test_who_would_not_come_in_is_not_refused_either(world: JobWorld) -> None:
    """Not ready, full, ending, a store that fails: the answer is that of a good request."""
    world.blocked.append("no model")
    with pytest.raises(NotReady, match="no model"):
        await world.service.refuse(spec(), BAD)
    world.blocked.clear()
    world.store.error = StorageFailed("no space left on the device")
    with pytest.raises(NotReady, match="no space"):
        await world.service.refuse(spec(), BAD)
    with pytest.raises(JobNotFound):
        await world.service.find("r", owner="")
    world.store.error = None
    await world.service.drain(0)
    with pytest.raises(Draining):
        await world.service.refuse(spec(), BAD)


async def test_a_caller_who_leaves_a_refusal(world: JobWorld) -> None:
    """It is recorded all the same, as failed."""
    world.store.gate.clear()
    refusing = asyncio.ensure_future(world.service.refuse(spec(), BAD))
    await settle()
    refusing.cancel()
    await settle()
    world.store.gate.set()
    await settle()
    assert (await world.service.find("r", owner="")).status is JobStatus.FAILED


# -- who asks again --------------------------------------------------------------------------------------------------


async def test_requests_that_come_together_make_one_job() -> None:
    """The store suspends between the look and the job: still each id lives once, each number is given once."""
    clock = FakeClock()
    world = build_jobs([FakeEngine(automatic=True)], clock=clock, store=SlowStore(clock=clock))
    asked = [spec(f"r{number % 5}", idempotency=None) for number in range(25)]
    jobs = await asyncio.gather(*(world.service.submit(item) for item in asked))
    assert len({job.job_id for job in jobs}) == 5
    assert sorted({job.sequence for job in jobs}) == [1, 2, 3, 4, 5]
    await asyncio.gather(*(finished(world, job) for job in jobs))
    assert sorted(world.engine.ran) == [f"r{number}" for number in range(5)]
    await world.tasks.cancel()


async def test_an_idempotency_key_runs_a_job_once(world: JobWorld) -> None:
    """Over: the same job again. Not over: a conflict that names it. Another body: a mismatch. Other scope: new."""
    key = Idempotency(scope="tenant POST /generate", key="k")
    asked = spec(on_disconnect=KEPT, idempotency=key)
    job = await world.service.submit(asked)
    with pytest.raises(JobConflict) as caught:
        await world.service.submit(asked)
    assert caught.value.details == {"request_id": "r", "job_id": job.job_id, "status": "queued"}
    with pytest.raises(IdempotencyMismatch):
        await world.service.submit(spec("r2", idempotency=key, body_hash="other"))
    await settle()
    world.engine.finish()
    await finished(world, job)
    again = await world.service.submit(asked)
    assert (again.job_id, again.status) == (job.job_id, JobStatus.COMPLETED)
    with pytest.raises(IdempotencyMismatch):
        await world.service.submit(spec("r2", idempotency=key, body_hash="other"))
    other = await world.service.submit(spec(idempotency=Idempotency(scope="other POST /generate", key="k")))
    assert (other.job_id != job.job_id, other.run) == (True, 2)
    assert world.engine.ran == ["r"]


async def test_two_requests_with_one_key_at_the_same_moment(world: JobWorld) -> None:
    """One is accepted, the other one is told that it runs."""
    key = Idempotency(scope="s", key="k")
    asking = [world.service.submit(spec(name, idempotency=key)) for name in ("a", "b")]
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Job, JobConflict]


async def test_a_failed_job_is_replayed_too(world: JobWorld) -> None:
    """The key's first answer is its answer; a retry of failed work needs a new key."""
    key = Idempotency(scope="s", key="k")
    job = await world.service.submit(spec(idempotency=key))
    await world.service.cancel(job.job_id, reason="enough")
    assert (await world.service.submit(spec(idempotency=key))).job_id == job.job_id


async def test_names_belong_to_their_owner(world: JobWorld) -> None:
    """Two tenants may use one request id; each finds the own job, the operator finds all."""
    jobs = {owner: await world.service.submit(spec(owner=owner, body_hash=owner)) for owner in ("a", "b")}
    assert [job.run for job in jobs.values()] == [1, 1]
    await settle()
    for owner, job in jobs.items():
        assert (await world.service.find("r", owner=owner)).job_id == job.job_id
        assert (await world.service.find(job.job_id, owner=owner)).job_id == job.job_id
        assert (await world.service.find(job.job_id, owner=None)).job_id == job.job_id
    assert (await world.service.find("r", owner=None)).spec.owner in ("a", "b")
    for owner, name in (("a", jobs["b"].job_id), ("", "r"), ("c", "r")):
        with pytest.raises(JobNotFound):
            await world.service.find(name, owner=owner)
    await finish_all(world, lambda: world.service.in_flight_count == 0)
    with pytest.raises(JobNotFound):
        await world.service.find(jobs["b"].job_id, owner="a")
    assert (await world.service.find("r", owner="b")).status is JobStatus.COMPLETED


async def test_nobody_stands_before_a_job_by_taking_its_id_for_a_name(world: JobWorld) -> None:
    """A request that calls itself by another job's id hides it from nobody, neither while they live nor afterwards."""
    victim = await world.service.submit(spec("r", owner="a"))
    await world.service.submit(spec(victim.job_id, owner=""))
    own = await world.service.submit(spec(victim.job_id, owner="b"))
    for _ in range(2):
        assert (await world.service.find(victim.job_id, owner="a")).job_id == victim.job_id
        assert (await world.service.find(victim.job_id, owner=None)).job_id == victim.job_id
        assert (await world.service.find(victim.job_id, owner="b")).job_id == own.job_id
        await finish_all(world, lambda: world.service.in_flight_count == 0)


async def test_a_stranger_does_not_attach_to_a_tenants_job(world: JobWorld) -> None:
    """The same router's number and body, another owner: another job."""
    first = await world.service.submit(spec("a", owner="a", tag=7))
    assert (await world.service.submit(spec("b", owner="b", tag=7))).job_id != first.job_id


async def test_the_list_shows_jobs_as_they_are_now(world: JobWorld) -> None:
    """Newest first, live ones by their newest state, an owner's only."""
    done = await run(world, spec("done", owner="a"))
    live = await world.service.submit(spec("live", owner="a"))
    await world.service.submit(spec("foreign", owner="b"))
    await settle()
    assert [job.job_id for job in await world.service.listed(JobFilter(owner="a"))] == [live.job_id, done.job_id]
    asked = JobFilter(owner="a", statuses=frozenset({JobStatus.RUNNING}))
    assert [job.job_id for job in await world.service.listed(asked)] == [live.job_id]


# -- the door --------------------------------------------------------------------------------------------------------


async def test_the_bytes_of_waiting_requests_are_bounded(world: JobWorld) -> None:
    """What is over is told when enough of the work before it will be done; a single large one is always taken."""
    world = build_jobs(request_bytes=1000)
    world.speed.benchmarked(10, engine_count=1)  # 10 s a job
    large = await world.service.submit(spec("large", workflow=b'"%s"' % (b"x" * 5000)))
    await world.service.cancel(large.job_id, reason="enough")
    for number in range(2):
        await world.service.submit(spec(f"r{number}", workflow=b'"%s"' % (b"x" * 398)))
    with pytest.raises(Overloaded) as caught:
        await world.service.submit(spec("r3", workflow=b'"%s"' % (b"x" * 398)))
    assert caught.value.details == {"in_flight_bytes": 800, "limit_bytes": 1000}
    assert caught.value.retry_after_s == pytest.approx(5.0)  # 200 of 800 bytes, of 20 s
    await world.tasks.cancel()


async def test_files_are_part_of_a_request_s_bytes() -> None:
    """At the door, in flight, and while they are being prepared; then only their names stay in memory."""
    world = build_jobs(request_bytes=1000, prepared_bytes=1000)
    world.preparer.held = {name: asyncio.Event() for name in ("a", "b")}
    files = (NamedInput(name="p.png", value="A" * 600),)
    first = await world.service.submit(spec("a", files=files))
    with pytest.raises(Overloaded):
        await world.service.submit(spec("c", files=files))
    second = await world.service.submit(spec("b", files=(NamedInput(name="p.png", value="A" * 390),)))
    await settle()
    assert world.preparer.begun == ["a", "b"]
    third = await world.service.submit(spec("d", workflow=b"{}"))
    await settle()
    assert world.preparer.begun == ["a", "b", "d"]
    for event in world.preparer.held.values():
        event.set()
    await settle()
    assert [file for job in world.service.live_jobs for file in job.spec.files] == [
        NamedInput(name="p.png", value=""),
        NamedInput(name="p.png", value=""),
    ]
    await finish_all(world, lambda: world.service.in_flight_count == 0)
    for job in (first, second, third):
        assert (await world.service.get(job.job_id)).spec.files == ()
    await world.service.submit(spec("e", files=files))
    await world.tasks.cancel()


async def test_large_files_are_not_prepared_together() -> None:
    """As large workflows are not."""
    world = build_jobs(prepare_workers=4, prepared_bytes=1000)
    world.preparer.held = {name: asyncio.Event() for name in ("a", "b")}
    files = (NamedInput(name="p.png", value="A" * 700),)
    for name in ("a", "b"):
        await world.service.submit(spec(name, files=files))
    await settle()
    assert world.preparer.begun == ["a"]
    for event in world.preparer.held.values():
        event.set()
    await finish_all(world, lambda: world.service.in_flight_count == 0)
    await world.tasks.cancel()


async def test_a_job_says_what_was_expected_of_it(world: JobWorld) -> None:
    """Its size by formula is its cost, unless the dialect fixed one; both predictions are those of its acceptance."""
    world.speed.served(Estimate(units=50, shape="s"), 5.0)
    first = await world.service.submit(spec("first", estimate=Estimate(units=50, shape="s")))
    second = await world.service.submit(spec("second", estimate=Estimate(units=20, shape=""), cost=100.0))
    assert (first.cost, first.expected_s, first.expected_wait_s) == (50, pytest.approx(5), 0)
    assert (second.cost, second.expected_s, second.expected_wait_s) == (100, pytest.approx(2), pytest.approx(5))
    assert world.service.load == 150
    world.speed.served(Estimate(units=50, shape="s"), 500.0)
    assert (await world.service.get(first.job_id)).expected_s == pytest.approx(5)
    await finish_all(world, lambda: world.service.in_flight_count == 0)


async def test_decoded_requests_are_bounded_in_bytes() -> None:
    """Two large ones are not decoded at the same time, small ones are; both get their turn."""
    world = build_jobs(prepare_workers=4, prepared_bytes=1000)
    world.preparer.held = {name: asyncio.Event() for name in ("a", "b")}
    jobs = [await world.service.submit(spec(name, workflow=b'"%s"' % (b"x" * 700))) for name in ("a", "b")]
    await settle()
    assert world.preparer.begun == ["a"]
    assert world.service.queue_counts().prepare_waiting == 1
    assert world.service.queue_counts().preparing == 1
    for event in world.preparer.held.values():
        event.set()
    await finish_all(world, lambda: world.service.in_flight_count == 0)
    assert world.preparer.begun == ["a", "b"]
    assert [(await world.service.get(job.job_id)).status for job in jobs] == [JobStatus.COMPLETED] * 2
