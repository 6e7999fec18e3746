"""What becomes of jobs when the worker is killed, started again, or drained: two services over one store."""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from lib.clock import SystemClock
from lib.errors import Draining, EngineDied, ExecutionFailed, InputFetchFailed, NotReady, OutOfMemory
from lib.jobs.ids import prompt_id_of
from lib.jobs.model import (
    DeliverySpec,
    Job,
    JobEvent,
    JobStatus,
    NamedInput,
    OnDisconnect,
    Stage,
    WebhookTarget,
    Workflow,
)
from lib.jobs.ports import Aside, JobStore, Prepared, Tell, untold
from lib.jobs.sqlite_store import SqliteJobStore
from tests.fakes.clock import FakeClock, settle
from tests.fakes.engine import FakeEngine, FakePreparer
from tests.fakes.jobs import RETENTION, JobWorld, build_jobs, finish_all, finished, restart, spec

KEPT = OnDisconnect.KEEP
TOLD = DeliverySpec(webhooks=(WebhookTarget(url="https://hooks.example/1", events=frozenset(JobEvent)),))


async def submitted(world: JobWorld, *names: str, **changes: Any) -> list[Job]:
    """Submit kept jobs and let them come as far as they can."""
    jobs = [await world.service.submit(spec(name, **{"on_disconnect": KEPT, **changes})) for name in names]
    await settle()
    return jobs


async def reborn(world: JobWorld, before: Callable[[JobWorld], None] = lambda _: None) -> JobWorld:
    """Kill the worker and start another one, which takes up what was left."""
    again = restart(world)
    before(again)
    await again.service.recover()
    await settle()
    return again


async def close(*worlds: JobWorld) -> None:
    """End what is left; the last service must be empty."""
    for world in worlds:
        for event in world.preparer.held.values():
            event.set()
        await world.tasks.cancel()
    assert worlds[-1].service.in_flight_count == 0
    assert worlds[-1].queue.posted_count == 0


# -- killed ----------------------------------------------------------------------------------------------------------


async def test_queued_jobs_run_in_their_order() -> None:
    """What was accepted is done, before what comes later; numbers go on."""
    world = build_jobs()
    await submitted(world, "a", "b", "c", "d")
    again = await reborn(world)
    later = await again.service.submit(spec("later", on_disconnect=KEPT))
    assert later.sequence == 5
    await finish_all(again, lambda: again.service.in_flight_count == 0)
    assert again.engine.ran == ["a", "b", "c", "d", "later"]
    assert again.ledger.finished_jobs == [(name, JobStatus.COMPLETED) for name in ("a", "b", "c", "d", "later")]
    assert again.ledger.received_jobs == ["a", "b", "c", "d", "later"]
    await close(world, again)


async def test_a_running_prompt_is_attached_by_its_id() -> None:
    """It is not posted again, its start is not counted twice, and the pending one behind it is kept as well."""
    world = build_jobs()
    running, pending = await submitted(world, "running", "pending")
    again = await reborn(world)
    assert again.engine.attached == [running.job_id, pending.job_id]
    assert (await again.service.get(running.job_id)).status is JobStatus.RUNNING
    await finish_all(again, lambda: again.service.in_flight_count == 0)
    for job in (running, pending):
        done = await again.service.get(job.job_id)
        assert (done.status, done.attempts, done.posts) == (JobStatus.COMPLETED, 1, 1)
    assert again.engine.ran == ["running", "pending"], "each of them ran once"
    await close(world, again)


async def test_a_prompt_that_ended_meanwhile_is_harvested() -> None:
    """ComfyUI's history has it: in success and in failure."""
    world = build_jobs()
    good, bad = await submitted(world, "good", "bad")
    again = restart(world)
    again.engine.finish()
    again.engine.finish(ExecutionFailed("boom"))
    await again.service.recover()
    assert (await finished(again, good)).status is JobStatus.COMPLETED
    assert (await finished(again, bad)).message == "boom"
    assert again.engine.ran == ["good", "bad"]
    await close(world, again)


async def test_a_post_that_was_not_recorded_is_found() -> None:
    """The write came too late: the prompt's id is known beforehand."""
    world = build_jobs()
    (job,) = await submitted(world, "r")
    early = (await world.store.get(job.job_id)).with_(posts=0, prompt_id=None, engine=None, status=JobStatus.QUEUED)
    world.store.update(early)
    again = await reborn(world)
    assert again.engine.attached == [prompt_id_of(job.job_id, 1)]
    again.engine.finish()
    assert (await finished(again, job)).posts == 1
    await close(world, again)


async def test_the_newest_prompt_counts() -> None:
    """An earlier one of the same job may still be in the history."""
    world = build_jobs()
    (job,) = await submitted(world, "r")
    world.engine.lose()
    await settle()
    assert (await world.service.get(job.job_id)).posts == 2
    world.engine.history[job.job_id] = job, ExecutionFailed("of the first post")
    again = await reborn(world)
    assert again.engine.attached == [prompt_id_of(job.job_id, 2)]
    again.engine.finish()
    assert (await finished(again, job)).status is JobStatus.COMPLETED
    await close(world, again)


async def test_a_prompt_on_the_second_engine_is_found_there() -> None:
    """The recorded engine is asked first, then the others."""
    engines = [FakeEngine("gpu0"), FakeEngine("gpu1")]
    world = build_jobs(engines)
    jobs = await submitted(world, "a", "b")
    world.store.update((await world.store.get(jobs[1].job_id)).with_(engine="gpu0"))
    again = await reborn(world)
    assert (engines[0].attached, engines[1].attached) == ([jobs[0].job_id], [jobs[1].job_id])
    await finish_all(again, lambda: again.service.in_flight_count == 0)
    assert [job.status for job in [await again.service.get(job.job_id) for job in jobs]] == [JobStatus.COMPLETED] * 2
    await close(world, again)


async def test_an_engine_that_is_down_is_asked_when_it_is_back() -> None:
    """Its prompt is not posted again: the job waits for a turn, and finds that it has one."""
    world = build_jobs()
    (job,) = await submitted(world, "r")
    again = await reborn(world, lambda world: setattr(world.engine, "healthy", False))
    assert (await again.service.get(job.job_id)).status is JobStatus.RUNNING, "nobody knows better"
    again.engine.healthy = True
    again.queue.dispatch()
    await settle()
    assert again.engine.attached == [job.job_id]
    again.engine.finish()
    done = await finished(again, job)
    assert (done.status, done.attempts, done.posts, done.warnings) == (JobStatus.COMPLETED, 1, 1, ())
    assert again.engine.ran == ["r"]
    await close(world, again)


async def test_an_engine_that_went_down_after_it_was_asked_is_asked_again() -> None:
    """The prompt was found; that it can't be attached now does not mean that it is gone."""
    world = build_jobs()
    (job,) = await submitted(world, "r")
    held = {"r": asyncio.Event()}
    again = await reborn(world, lambda world: world.preparer.held.update(held))
    again.engine.healthy = False
    held["r"].set()
    await settle()
    again.engine.healthy = True
    again.queue.dispatch()
    await settle()
    again.engine.finish()
    assert (await finished(again, job)).status is JobStatus.COMPLETED
    assert again.engine.ran == ["r"]
    await close(world, again)


async def test_an_engine_that_never_answers_is_not_waited_for_without_end() -> None:
    """It says that it is healthy and does not answer: after some questions the job runs anew."""
    world = build_jobs()
    (job,) = await submitted(world, "r")
    again = await reborn(world, lambda world: setattr(world.engine, "deaf", True))
    await finish_all(again, lambda: again.service.in_flight_count == 0)
    assert (await again.service.get(job.job_id)).status is JobStatus.COMPLETED
    assert again.engine.ran == ["r", "r"]
    await close(world, again)


async def test_a_silent_engine_keeps_a_prompt_until_its_job_runs_elsewhere() -> None:
    """Another engine takes the job; the first one's prompt is a stray from then on, and not before."""
    engines = [FakeEngine("gpu0"), FakeEngine("gpu1")]
    world = build_jobs(engines)
    (job,) = await submitted(world, "r")
    held = {"r": asyncio.Event()}

    def silent(world: JobWorld) -> None:
        engines[0].healthy = False
        world.preparer.held.update(held)

    again = await reborn(world, silent)
    assert job.job_id in again.service.prompts_of("gpu0")
    held["r"].set()
    await settle()
    assert engines[1].ran == ["r"]
    assert again.service.prompts_of("gpu0") == set()
    assert job.job_id not in {entry.prompt_id for entry in engines[1].posted}
    engines[1].finish()
    assert (await finished(again, job)).status is JobStatus.COMPLETED
    await close(world, again)


class Fleeting(FakeEngine):
    """Goes down right after the first question."""

    asked = False

    async def holds(self, prompt_ids: Sequence[str]) -> str | None:
        found = await super().holds(prompt_ids)
        self.healthy, self.asked = self.asked, True
        return found


async def test_inputs_that_are_gone_do_not_spoil_a_prompt_whose_engine_went_down() -> None:
    """It can't be posted again; it need not be."""
    world = build_jobs([Fleeting()])
    (job,) = await submitted(world, "r")
    again = await reborn(world, lambda world: setattr(world.preparer, "error", InputFetchFailed("404")))
    assert not again.engine.healthy
    again.engine.healthy = True
    again.queue.dispatch()
    await settle()
    again.engine.finish()
    assert (await finished(again, job)).status is JobStatus.COMPLETED
    assert again.engine.ran == ["r"]
    await close(world, again)


async def test_a_shortage_of_an_earlier_life_counts_in_this_one_and_is_no_loss() -> None:
    """It ran out of memory and runs once more: that run may be lost with the engine once, and be short never again."""
    world = build_jobs()
    (job,) = await submitted(world, "r")
    world.engine.finish(OutOfMemory("CUDA out of memory"))
    await settle()
    again = await reborn(world, lambda world: world.engine.lose())
    now = await again.service.get(job.job_id)
    assert (now.status, now.attempts, now.shortages) == (JobStatus.RUNNING, 3, 1)
    again.engine.finish(OutOfMemory("CUDA out of memory"))
    assert isinstance((await finished(again, job)).error, OutOfMemory)
    await close(world, again)


async def test_a_history_entry_goes_when_the_end_is_recorded() -> None:
    """A worker that is killed before harvests once more. Also one of an earlier life whose delivery went on."""
    world = build_jobs()
    world.delivery.gate.clear()
    (job,) = await submitted(world, "r")
    world.engine.finish()
    await settle()
    assert (await world.service.get(job.job_id)).stage is Stage.DELIVER
    again = restart(world)
    assert again.engine.forgotten == []
    await again.service.recover()
    await finished(again, job)
    assert again.engine.forgotten == [job.job_id]
    await close(world, again)


async def test_what_a_delivery_of_an_earlier_life_needs_is_recorded(tmp_path: Path) -> None:
    """ComfyUI's response too: the entry that it came from may be gone."""
    async with SqliteJobStore(tmp_path, clock=SystemClock(), retention=RETENTION) as store:
        world = build_jobs(store=store)
        world.delivery.gate.clear()
        (job,) = await submitted(world, "r")
        world.engine.finish()
        await settle()
        await store.write(await world.service.get(job.job_id))
        again = restart(world)
        await again.service.recover()
        done = await finished(again, job)
        assert (done.response, done.progress.percent) == ({"p": {}}, 100.0)
        await close(world, again)


async def test_a_benchmark_runs_before_what_waits() -> None:
    """Jobs of an earlier life that no engine has yet are prepared and wait; they don't take its seat either."""
    world = build_jobs()
    await submitted(world, *[f"r{number}" for number in range(9)])
    again = restart(world)
    again.queue.reserve()
    await again.service.recover()
    measured = await again.service.submit(spec("benchmark", internal=True, engine="gpu0"))
    await finish_all(again, lambda: "benchmark" in again.engine.ran)
    again.engine.finish()
    assert (await finished(again, measured)).status is JobStatus.COMPLETED
    assert again.engine.ran == ["r0", "r1", "benchmark"]
    again.queue.open()
    await finish_all(again, lambda: again.service.in_flight_count == 0)
    await close(world, again)


async def test_what_comfyui_lost_is_resubmitted_once() -> None:
    """It had started: once more, said in a warning. Lost again, in whatever life: failed with the cause."""
    world = build_jobs()
    (job,) = await submitted(world, "r")
    again = await reborn(world, lambda world: world.engine.lose())
    now = await again.service.get(job.job_id)
    assert (now.status, now.attempts, now.posts) == (JobStatus.RUNNING, 2, 2)
    assert "lost the prompt" in now.warnings[0]
    last = await reborn(again, lambda world: world.engine.lose())
    done = await finished(last, job)
    assert done.status is JobStatus.FAILED
    assert isinstance(done.error, EngineDied)
    assert again.engine.ran == ["r", "r"]
    await close(world, again, last)


async def test_a_loss_of_an_earlier_life_counts_in_this_one() -> None:
    """Lost once before the restart, attached, lost again: that was the last time."""
    world = build_jobs()
    (job,) = await submitted(world, "r")
    world.engine.lose()
    await settle()
    again = await reborn(world)
    again.engine.lose()
    done = await finished(again, job)
    assert (done.status, done.attempts) == (JobStatus.FAILED, 2)
    await close(world, again)


async def test_a_prompt_that_was_only_pending_keeps_its_resubmission() -> None:
    """It never started, so nothing is counted against it, however often ComfyUI is lost."""
    world = build_jobs()
    _, pending = await submitted(world, "running", "pending")
    world.engine.posted.clear()
    worlds = [world]
    for _ in range(3):
        worlds.append(await reborn(worlds[-1], lambda world: world.preparer.held.update(pending=asyncio.Event())))
        assert (await worlds[-1].service.get(pending.job_id)).attempts == 0
        worlds[-1].engine.lose()
    worlds[-1].preparer.held["pending"].set()
    await settle()
    await finish_all(worlds[-1], lambda: worlds[-1].service.in_flight_count == 0)
    done = await worlds[-1].service.get(pending.job_id)
    assert (done.status, done.attempts) == (JobStatus.COMPLETED, 1)
    await close(*worlds)


async def test_collected_outputs_are_delivered_again() -> None:
    """The upload was under way: no second run, and its time is not the engines'."""
    world = build_jobs()
    world.delivery.gate.clear()
    (job,) = await submitted(world, "r", delivery=TOLD)
    world.engine.finish()
    await settle()
    assert (await world.service.get(job.job_id)).stage is Stage.DELIVER
    again = await reborn(world)
    done = await finished(again, job)
    assert (done.status, [output.filename for output in done.outputs]) == (JobStatus.COMPLETED, ["a.png"])
    assert again.preparer.begun == []
    assert world.engine.ran == ["r"]
    assert again.announcer.told == [("r", JobEvent.COMPLETED)], "its start was told in its earlier life"
    await close(world, again)


async def test_inputs_that_are_gone_do_not_spoil_a_result() -> None:
    """The prompt has what it needs. Only if it had to be posted again the missing input is the end of it."""
    gone = InputFetchFailed("404")
    world = build_jobs()
    (job,) = await submitted(world, "r")
    again = await reborn(world, lambda world: setattr(world.preparer, "error", gone))
    again.engine.finish()
    assert (await finished(again, job)).status is JobStatus.COMPLETED
    (job,) = await submitted(world, "other")
    last = await reborn(world, lambda world: setattr(world.preparer, "error", gone))
    last.engine.lose()
    assert (await finished(last, job)).error is gone
    await close(world, again, last)


async def test_a_synchronous_job_whose_caller_is_gone() -> None:
    """Its prompt is removed from ComfyUI, running, pending or over; the job ends as cancelled, with the reason."""
    world = build_jobs()
    jobs = [await world.service.submit(spec(name)) for name in ("over", "running", "pending", "queued")]
    await settle()
    again = restart(world)
    again.engine.finish()
    await again.service.recover()
    for job in jobs:
        ended = await again.service.wait_for(job.job_id, 60)
        assert ended.status is JobStatus.CANCELLED
        assert "restarted" in ended.message
    assert again.engine.posted == []
    assert again.engine.history == {}
    ended = {(job.spec.request_id, JobStatus.CANCELLED) for job in jobs}
    assert set(again.ledger.finished_jobs) == ended
    await close(world, again)


async def test_a_job_that_was_stopping_is_not_run_again(any_store: Any, clock: FakeClock) -> None:
    """Killed before it was off the engine: its prompt is removed, it ends as cancelled with its reason."""
    world = build_jobs(clock=clock, store=any_store)
    world.engine.removal = asyncio.Event()
    jobs = [await world.service.submit(spec(name, on_disconnect=KEPT)) for name in ("running", "pending", "waiting")]
    views = world.service.watch(jobs[1].job_id)
    await anext(view async for view in views if view.job.posts)
    await views.aclose()
    for job in jobs[:2]:
        await world.service.cancel(job.job_id, reason="changed my mind", wait=False)
    await settle()
    await _recorded(any_store, lambda jobs: [job.stopping for job in jobs] == [True, True, False])
    again = restart(world)
    again.engine.removal, again.engine.automatic = None, True
    assert await again.service.recover() == 3
    assert [job.stopping for job in again.service.live_jobs] == [True, True, False]
    assert again.service.live_jobs[0].message == "changed my mind"
    assert (await finished(again, jobs[2])).status is JobStatus.COMPLETED
    for job in jobs[:2]:
        ended = await again.service.get(job.job_id)
        assert (ended.status, ended.message, ended.stopping) == (JobStatus.CANCELLED, "changed my mind", False)
    assert (again.engine.ran.count("running"), again.engine.ran.count("waiting")) == (1, 1)
    assert again.engine.posted == []
    await close(again)
    await world.tasks.cancel()


async def test_a_cancel_that_became_of_a_lost_connection_outlives_the_worker() -> None:
    """The grace was over, the removal under way: no new grace, no new run."""
    world = build_jobs()
    world.engine.removal = asyncio.Event()
    (job,) = await submitted(world, "r", disconnect_grace_s=0.01, on_disconnect=OnDisconnect.CANCEL)
    waiter = asyncio.ensure_future(world.service.wait(job.job_id))
    views = world.service.watch(job.job_id)
    await settle()
    waiter.cancel()
    await asyncio.wait_for(anext(view async for view in views if view.job.stopping), 60)
    await views.aclose()
    world.engine.removal = None
    again = await reborn(world)
    ended = await again.service.get(job.job_id)
    assert (ended.status, again.engine.ran) == (JobStatus.CANCELLED, ["r"])
    assert "disconnection" in ended.message
    await close(world, again)


class Noting(FakePreparer):
    """Notes the files of the job."""

    files: tuple[NamedInput, ...] = ()

    async def prepare(
        self, job: Job, workflow: Workflow, *, tell: Tell = untold, aside: Aside = nullcontext
    ) -> Prepared:
        self.files = job.spec.files
        return await super().prepare(job, workflow, tell=tell, aside=aside)


async def test_files_of_a_job_are_there_in_the_next_life(any_store: Any, clock: FakeClock) -> None:
    """It is prepared anew with all of them, although the first life had let go of them."""
    world = build_jobs(clock=clock, store=any_store)
    files = (NamedInput(name="p.png", value="A" * 100_000),)
    job = await world.service.submit(spec("r", on_disconnect=KEPT, files=files))
    views = world.service.watch(job.job_id)
    await anext(view async for view in views if view.job.status is JobStatus.RUNNING)
    await views.aclose()
    world.engine.sever()
    world.engine.lose()
    again = build_jobs(world.engines, clock=clock, store=any_store, preparer=(preparer := Noting()))
    again.engine.automatic = True
    await again.service.recover()
    assert (await finished(again, job)).status is JobStatus.COMPLETED
    assert preparer.files == files
    await world.tasks.cancel()
    await close(again)


async def test_a_vast_job_waits_for_its_retry() -> None:
    """With a grace it goes on, and the retry of the same number and body gets it; nobody comes: it is cancelled."""
    world = build_jobs()
    asked = spec("a", tag=7, disconnect_grace_s=30)
    (job,) = await submitted(world, "a", tag=7, disconnect_grace_s=30, on_disconnect=OnDisconnect.CANCEL)
    hurried = await world.service.submit(spec("b", tag=8, disconnect_grace_s=0.01))
    await settle()
    again = await reborn(world)
    assert (await again.service.submit(asked)).job_id == job.job_id
    assert (await again.service.wait_for(hurried.job_id, 60)).status is JobStatus.CANCELLED
    waiter = asyncio.ensure_future(again.service.wait(job.job_id))
    await settle()
    again.engine.finish()
    assert (await waiter).status is JobStatus.COMPLETED
    await close(world, again)


async def test_between_the_start_and_the_recovery() -> None:
    """A recorded job can be seen; who wants to wait for it or cancel it is asked to come back."""
    world = build_jobs()
    (job,) = await submitted(world, "r")
    again = restart(world)
    assert (await again.service.get(job.job_id)).status is JobStatus.RUNNING
    for asked in (again.service.wait(job.job_id), again.service.cancel(job.job_id, reason="enough")):
        with pytest.raises(NotReady):
            await asked
    views = [view async for view in again.service.watch(job.job_id)]
    assert [view.job.status for view in views] == [JobStatus.RUNNING]
    assert await again.service.recover() == 1
    assert await again.service.recover() == 0
    await settle()
    again.engine.finish()
    assert (await finished(again, job)).status is JobStatus.COMPLETED
    await close(world, again)


async def test_a_start_is_told_once() -> None:
    """A webhook that wants to know of the start hears of the first one, not of every life's."""
    world = build_jobs()
    (job,) = await submitted(world, "r", delivery=TOLD)
    assert world.announcer.told == [("r", JobEvent.STARTED)]
    again = await reborn(world, lambda world: world.engine.lose())
    again.engine.finish()
    await finished(again, job)
    assert again.announcer.told == [("r", JobEvent.COMPLETED)]
    await close(world, again)


async def test_our_own_runs_leave_no_trace() -> None:
    """The benchmark is not recorded: after a restart nobody runs it again."""
    world = build_jobs()
    await submitted(world, "benchmark", internal=True)
    again = restart(world)
    assert await again.service.recover() == 0
    await close(world, again)


async def test_over_the_durable_store(tmp_path: Path) -> None:
    """The files as they were in the moment of the kill are enough: running, pending, queued, uploaded and gone."""
    clock, engine = SystemClock(), FakeEngine()
    async with SqliteJobStore(tmp_path / "one", clock=clock, retention=RETENTION) as store:
        world = build_jobs([engine], clock=clock, store=store)
        world.delivery.gate.clear()
        names = ("uploading", "running", "pending", "queued")
        jobs = [await world.service.submit(spec(name, on_disconnect=KEPT)) for name in names]
        sync = await world.service.submit(spec("sync"))
        views = world.service.watch(jobs[0].job_id)
        await anext(view async for view in views if view.job.status is JobStatus.RUNNING)
        engine.finish()
        await anext(view async for view in views if view.job.stage is Stage.DELIVER)
        await views.aclose()
        await _recorded(store, lambda jobs: jobs[0].stage is Stage.DELIVER)
        await asyncio.to_thread(shutil.copytree, tmp_path / "one", tmp_path / "two")
        engine.sever()
        async with SqliteJobStore(tmp_path / "two", clock=clock, retention=RETENTION) as copy:
            again = build_jobs([engine], clock=clock, store=copy)
            assert await again.service.recover() == 5
            ends = [asyncio.ensure_future(again.service.wait_for(job.job_id, 60)) for job in (*jobs, sync)]
            while not all(end.done() for end in ends):
                await asyncio.sleep(0.001)
                if any(entry.running and not entry.end.done() for entry in engine.posted):
                    engine.finish()
            assert [end.result().status for end in ends] == [JobStatus.COMPLETED] * 4 + [JobStatus.CANCELLED]
            assert engine.ran == ["uploading", "running", "pending", "queued"]
            assert await copy.unfinished() == []
            assert (await again.service.submit(spec("later"))).sequence == 6
            await close(again)
        await world.tasks.cancel()


async def _recorded(store: JobStore, wanted: Callable[[list[Job]], bool]) -> None:
    """Return when the jobs that are not over are recorded as wanted."""
    while not wanted(await store.unfinished()):
        await asyncio.sleep(0.005)


# -- drained ---------------------------------------------------------------------------------------------------------


async def test_a_drain_parks_what_has_not_started() -> None:
    """At once: recorded as queued, off the engine, who waits or watches is told; the running one may end."""
    world = build_jobs()
    jobs = await submitted(world, "running", "pending", "waiting", "fetching", delivery=TOLD)
    waiting = asyncio.ensure_future(world.service.wait(jobs[2].job_id))
    watching = asyncio.ensure_future(_views(world, jobs[1]))
    await settle()
    draining = asyncio.ensure_future(world.service.drain(60))
    await settle()
    assert [entry.job.spec.request_id for entry in world.engine.posted] == ["running"]
    with pytest.raises(Draining):
        await waiting
    assert (await watching)[-1] is JobStatus.QUEUED
    assert world.service.in_flight_count == 1
    with pytest.raises(Draining):
        await world.service.submit(spec("late"))
    world.engine.finish()
    await draining
    assert (await world.service.get(jobs[0].job_id)).status is JobStatus.COMPLETED
    left = await world.store.unfinished()
    assert [(job.spec.request_id, job.status, job.attempts) for job in left] == [
        (name, JobStatus.QUEUED, 0) for name in ("pending", "waiting", "fetching")
    ]
    assert {name for name, event in world.announcer.told if event is not JobEvent.STARTED} == {"running"}
    with pytest.raises(Draining):
        await world.service.wait(jobs[1].job_id)
    again = await reborn(world)
    await finish_all(again, lambda: again.service.in_flight_count == 0)
    assert [(await again.service.get(job.job_id)).status for job in jobs] == [JobStatus.COMPLETED] * 4
    await close(world, again)


async def test_after_the_limit_kept_jobs_stay_recorded_and_synchronous_ones_fail() -> None:
    """Both are taken off the engine. The execution that we stopped ourselves counts as no attempt."""
    world = build_jobs([FakeEngine("gpu0"), FakeEngine("gpu1")])
    (kept,) = await submitted(world, "kept", delivery=TOLD)
    sync = await world.service.submit(spec("sync"))
    await settle()
    waiting = asyncio.ensure_future(world.service.wait(sync.job_id))
    await settle()
    await world.service.drain(0)
    ended = await waiting
    assert (ended.status, type(ended.error)) == (JobStatus.FAILED, Draining)
    assert sorted(world.engines[0].cancelled + world.engines[1].cancelled) == ["kept", "sync"]
    (left,) = await world.store.unfinished()
    assert (left.job_id, left.status, left.attempts) == (kept.job_id, JobStatus.QUEUED, 0)
    assert world.announcer.told == [("kept", JobEvent.STARTED)]
    again = await reborn(world)
    await finish_all(again, lambda: again.service.in_flight_count == 0)
    assert (await again.service.get(kept.job_id)).status is JobStatus.COMPLETED
    await close(world, again)


async def test_outputs_that_are_being_uploaded_at_the_limit_are_kept() -> None:
    """The next life delivers them; the work is not done again."""
    world = build_jobs()
    world.delivery.gate.clear()
    (job,) = await submitted(world, "r")
    world.engine.finish()
    await settle()
    await world.service.drain(0)
    again = await reborn(world)
    assert (await finished(again, job)).status is JobStatus.COMPLETED
    assert world.engine.ran == ["r"]
    await close(world, again)


async def test_a_store_that_forgets_keeps_nobody_waiting_for_another_life() -> None:
    """In memory nothing outlives the worker: kept jobs may end within the limit, then fail, and webhooks are told."""
    world = build_jobs(durable=False)
    first, second = await submitted(world, "first", "second", delivery=TOLD)
    draining = asyncio.ensure_future(world.service.drain(1.0))
    await settle()
    world.engine.finish()
    await draining
    assert (await world.service.get(first.job_id)).status is JobStatus.COMPLETED
    failed = await world.service.get(second.job_id)
    assert (failed.status, type(failed.error)) == (JobStatus.FAILED, Draining)
    assert ("second", JobEvent.FAILED) in world.announcer.told
    await close(world)


async def test_a_worker_that_ends_without_draining_leaves_kept_jobs() -> None:
    """Its tasks are cancelled by a fault elsewhere: that is nobody's cancellation of a job."""
    world = build_jobs()
    (job,) = await submitted(world, "r")
    await world.tasks.cancel()
    assert [left.job_id for left in await world.store.unfinished()] == [job.job_id]
    assert world.ledger.finished_jobs == []


async def test_a_cancel_comes_before_the_parking() -> None:
    """The caller gave it up while the worker drains: it is over, not left for later."""
    world = build_jobs()
    world.engine.removal = asyncio.Event()
    _, pending = await submitted(world, "running", "pending")
    cancelling = asyncio.ensure_future(world.service.cancel(pending.job_id, reason="enough"))
    await settle()
    draining = asyncio.ensure_future(world.service.drain(0))
    await settle()
    world.engine.removal.set()
    assert (await cancelling).status is JobStatus.CANCELLED
    await draining
    assert pending.job_id not in {job.job_id for job in await world.store.unfinished()}


async def _views(world: JobWorld, job: Job) -> list[JobStatus]:
    return [view.job.status async for view in world.service.watch(job.job_id)]
