"""What memory and job counts ask for, and that it is done without stopping anything that runs."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from lib.clock import SystemClock
from lib.comfy.care import MEMORY_GUARD_S, OUT_OF_MEMORY_LIMIT, SETTLE_S, Keeper
from lib.comfy.memory import Reading
from lib.comfy.ports import CareAction
from lib.errors import EngineUnreachable, OutOfMemory
from lib.jobs.model import JobStatus
from lib.jobs.ports import Withdrawn
from lib.settings import EngineSettings
from tests.fakes import workflows as w
from tests.fakes.comfyui import FakeComfyUI
from tests.fakes.engine_world import SETTINGS, Recorder, World, engine_world, job_of, until
from tests.fakes.jobs import build_jobs, spec

LOW, FINE = Reading(free_share=0.01), Reading(free_share=0.5)
FREED, RECYCLED = CareAction.FREED, CareAction.RECYCLED


def _keeper(**settings: Any) -> Keeper:
    return Keeper(EngineSettings(**settings))


def _action(keeper: Keeper, reading: Reading, now: float) -> CareAction | None:
    step = keeper.step(reading, now)
    return step.action if step else None


# -- deciding --------------------------------------------------------------------------------------------------------


def test_nothing_is_done_for_a_host_that_is_well() -> None:
    """Unknown figures are not bad ones."""
    keeper = _keeper(max_rss_bytes=100)
    assert [_action(keeper, reading, 0) for reading in (FINE, Reading(), Reading(rss_bytes=100))] == [None] * 3


def test_short_memory_is_answered_by_unloading_first_and_a_restart_if_that_did_not_help() -> None:
    """Unloading has its time to show; a recovery in between starts over."""
    keeper = _keeper()
    assert _action(keeper, LOW, 0) is FREED
    assert _action(keeper, LOW, SETTLE_S - 1) is None
    assert _action(keeper, FINE, SETTLE_S) is None
    assert _action(keeper, LOW, SETTLE_S + 1) is FREED
    assert _action(keeper, LOW, 2 * SETTLE_S + 2) is RECYCLED


def test_a_process_that_is_too_large_is_restarted() -> None:
    """Unloading models does not shrink a leak."""
    keeper = _keeper(max_rss_bytes=100)
    step = keeper.step(Reading(free_share=0.5, rss_bytes=101), 0)
    assert step is not None and step.action is RECYCLED and "COMFYUI_MAX_RSS_BYTES" in step.cause


def test_memory_asks_for_one_restart_in_ten_minutes_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """Where restarts don't help they would be all that happens."""
    keeper = _keeper(max_rss_bytes=100)
    large = Reading(rss_bytes=101)
    assert _action(keeper, large, 0) is RECYCLED
    keeper.recycled(10)
    with caplog.at_level(logging.WARNING):
        assert [_action(keeper, large, now) for now in (11, 300, 9 + MEMORY_GUARD_S)] == [None] * 3
    assert [record.__dict__["event"] for record in caplog.records] == ["engine.care_guarded"]
    assert _action(keeper, large, 10 + MEMORY_GUARD_S) is RECYCLED


def test_a_restart_that_could_not_be_made_is_asked_for_again_later() -> None:
    """Not with every job."""
    keeper = _keeper()
    assert _action(keeper, LOW, 0) is FREED
    assert _action(keeper, LOW, SETTLE_S) is RECYCLED
    keeper.postponed(SETTLE_S)
    assert _action(keeper, LOW, SETTLE_S + MEMORY_GUARD_S - 1) is None
    assert _action(keeper, LOW, SETTLE_S + MEMORY_GUARD_S) is FREED


def test_so_many_jobs_ask_for_a_restart() -> None:
    """Counted from the start of the process, whoever started it; what could not be made is asked for again later."""
    keeper = _keeper(recycle_after_jobs=2)
    keeper.job_ended()
    assert keeper.quota(0) is None
    keeper.renewed()
    keeper.job_ended()
    assert keeper.quota(0, more=1) is not None
    keeper.job_ended()
    assert "COMFYUI_RECYCLE_AFTER_JOBS=2" in (keeper.quota(0) or "")
    keeper.postponed(0)
    assert keeper.quota(MEMORY_GUARD_S - 1) is None and keeper.quota(MEMORY_GUARD_S) is not None
    keeper.recycled(MEMORY_GUARD_S)
    assert keeper.quota(MEMORY_GUARD_S) is None
    assert _keeper().quota(0, more=1000) is None


def test_job_after_job_out_of_memory_is_comfyuis_fault() -> None:
    """One success in between shows that it still can."""
    keeper = _keeper()
    for ended in (True, True, True, False, *[True] * (OUT_OF_MEMORY_LIMIT - 1)):
        keeper.job_ended(out_of_memory=ended)
        assert _action(keeper, FINE, 0) is None
    keeper.job_ended(out_of_memory=True)
    assert _action(keeper, FINE, 0) is RECYCLED


# -- doing -----------------------------------------------------------------------------------------------------------


class Meter:
    """Memory as the test says."""

    def __init__(self) -> None:
        self.reading = FINE
        self.reads = 0

    def read(self, pid: int | None, *, tree: bool) -> Reading:
        self.reads += 1
        return self.reading


class LeapingClock(SystemClock):
    """The system's, that can be put forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


Open = Callable[..., AbstractAsyncContextManager[World]]


@pytest_asyncio.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeComfyUI]:
    async with FakeComfyUI(tmp_path / "comfyui") as made:
        yield made


@pytest.fixture
def meter() -> Meter:
    return Meter()


@pytest.fixture
def clock() -> LeapingClock:
    return LeapingClock()


@pytest.fixture
def opened(fake: FakeComfyUI, meter: Meter, clock: LeapingClock, tmp_path: Path) -> Open:
    """Start an engine that can restart its ComfyUI, unless told otherwise."""

    @asynccontextmanager
    async def start(*, restartable: bool = True, **settings: Any) -> AsyncIterator[World]:
        async def restart() -> None:
            await fake.kill()
            await fake.start()

        async with engine_world(
            comfyui=fake,
            root=fake.folder,
            fetched=tmp_path / "fetched",
            settings=SETTINGS.model_copy(update=settings),
            restarter=restart if restartable else None,
            clock=clock,
            meter=meter,
            care_pause_s=0.02,
        ) as world:
            yield world

    return start


async def _cared(world: World, *actions: CareAction) -> None:
    async def done() -> bool:
        return world.cared == list(actions)

    await until(done)


async def _read(meter: Meter, times: int) -> None:
    before = meter.reads

    async def enough() -> bool:
        return meter.reads >= before + times

    await until(enough)


async def test_after_so_many_jobs_it_is_restarted_and_work_goes_on(opened: Open) -> None:
    """With a reason while it is out of service, which is told apart from an engine that is down."""
    async with opened(recycle_after_jobs=2) as world:
        heard: list[tuple[bool, bool]] = []
        world.engine.on_health(lambda healthy: heard.append((healthy, world.engine.recycling)))
        await world.run(w.picture())
        await world.run(w.picture())
        await _cared(world, RECYCLED)
        assert "COMFYUI_RECYCLE_AFTER_JOBS" in world.server.restarts[0]
        async with asyncio.timeout(60):
            await world.engine.wait_ready()
        assert heard == [(False, True), (True, False)]
        await world.run(w.picture())
        assert len(world.server.restarts) == 1


async def test_a_result_that_is_not_collected_yet_is_waited_for(opened: Open) -> None:
    """ComfyUI's history dies with it."""
    async with opened(recycle_after_jobs=1) as world:
        job = job_of()
        execution = await world.execute(w.picture(), job=job)

        async def draining() -> bool:
            return not world.engine.healthy

        await until(draining)
        assert world.server.restarts == []
        assert (await world.engine.collect(job, execution)).outputs[0].error is None
        await _cared(world, RECYCLED)


async def test_with_a_restart_after_each_job_none_runs_in_a_process_that_another_one_used(
    opened: Open, fake: FakeComfyUI
) -> None:
    """The next prompt is not even posted behind the running one; it is given back, and runs afterwards."""
    async with opened(recycle_after_jobs=1) as world:
        observer, job = Recorder(), job_of()
        running = world.begin(w.through("HWTicks", seconds=0.4, ticks=8), job=job, observer=observer)
        await observer.began.wait()
        second, withdrawn = Recorder(), asyncio.Event()
        waiting, third = world.begin(w.picture(), observer=second), world.begin(w.picture(), withdraw=withdrawn)
        execution = await running
        with pytest.raises(Withdrawn):
            await waiting
        with pytest.raises((Withdrawn, EngineUnreachable)):
            await third
        assert second.saw == [] and len(fake.posted) == 1
        assert (await world.engine.collect(job, execution)).outputs[0].error is None
        await _cared(world, RECYCLED)
        for count in (2, 3):
            async with asyncio.timeout(60):
                await world.engine.wait_ready()
            assert (await world.run(w.picture())).outputs[0].error is None
            await _cared(world, *[RECYCLED] * count)
        assert world.server.generation == 4


async def test_jobs_that_queue_survive_a_restart_after_each_one(opened: Open, fake: FakeComfyUI) -> None:
    """All of them end well, in the order of their acceptance, each in a process of its own, at its first attempt."""
    async with opened(recycle_after_jobs=1) as world:
        jobs = build_jobs([world.engine], clock=SystemClock(), tasks=world.tasks)  # type: ignore[list-item]
        world.engine.on_health(lambda _: jobs.queue.dispatch())
        asked = [
            await jobs.service.submit(spec(f"r{number}", workflow=orjson.dumps(w.picture()))) for number in range(5)
        ]
        async with asyncio.timeout(60):
            done = [await jobs.service.wait(job.job_id) for job in asked]
        assert [(job.status, job.attempts, job.warnings) for job in done] == [(JobStatus.COMPLETED, 1, ())] * 5
        starts = [job.timings.execution_started_at for job in done]
        assert starts == sorted(starts, key=str)
        await _cared(world, *[RECYCLED] * 5)
        assert world.server.generation == 6 and len(fake.posted) == 5


async def test_a_prompt_that_waits_for_the_restart_can_be_asked_back(
    opened: Open, fake: FakeComfyUI, tmp_path: Path
) -> None:
    """Another engine may be idle."""
    async with opened(recycle_after_jobs=1) as world:
        observer, withdraw = Recorder(), asyncio.Event()
        running = world.begin(w.held(tmp_path / "gate"), observer=observer)
        await observer.began.wait()
        waiting = world.begin(w.picture(), withdraw=withdraw)
        withdraw.set()
        with pytest.raises(Withdrawn):
            await waiting
        assert not running.done() and len(fake.posted) == 1
        (tmp_path / "gate").touch()
        await running


async def test_where_it_is_not_ours_to_restart_it_is_unloaded_after_so_many_jobs(
    opened: Open, fake: FakeComfyUI, caplog: pytest.LogCaptureFixture
) -> None:
    """Between two jobs, with one line in the log each time; nothing is lost and nobody waits for long."""
    async with opened(restartable=False, recycle_after_jobs=1) as world:
        freed: list[int] = []
        for _ in range(3):
            jobs = [job_of(), job_of()]
            for job, task in [(job, world.begin(w.picture(), job=job)) for job in jobs]:
                await world.engine.collect(job, await task)
                freed.append(len(fake.executor.freed))
        await _cared(world, *[FREED] * 6)
        assert freed == sorted(freed) and world.server.restarts == [] and world.engine.healthy
        assert fake.executor.freed == [{"unload_models": True, "free_memory": True}] * 6
        told = [record.__dict__["cause"] for record in caplog.records if record.__dict__.get("action") == "freed"]
        assert len(told) == 6 and all("not ours to restart" in cause for cause in told)
        assert _order(fake) == ["POST /prompt", "POST /free"] * 6


def _order(fake: FakeComfyUI) -> list[str]:
    return [call for call in fake.requests if call in ("POST /prompt", "POST /free")]


async def test_low_memory_frees_then_recycles_without_stopping_what_runs(
    opened: Open, meter: Meter, clock: LeapingClock, fake: FakeComfyUI, tmp_path: Path
) -> None:
    """The running prompt ends well, the pending one is given back, new ones are refused with the reason."""
    async with opened() as world:
        meter.reading = LOW
        await world.run(w.picture())
        await _cared(world, FREED)
        assert fake.executor.freed == [{"unload_models": True, "free_memory": True}]
        observer, job = Recorder(), job_of()
        running = world.begin(w.held(tmp_path / "gate"), job=job, observer=observer)
        await observer.began.wait()
        second = Recorder()
        pending = world.begin(w.picture(), observer=second)
        await until(lambda: _saw(second, "posted"))
        clock.ahead_s += SETTLE_S
        with pytest.raises(Withdrawn):
            await pending
        assert "of memory is free" in (world.engine.down_reason or "")
        with pytest.raises(EngineUnreachable, match="of memory is free"):
            await world.execute(w.picture())
        (tmp_path / "gate").touch()
        assert (await world.engine.collect(job, await running)).outputs[0].error is None
        meter.reading = FINE
        await _cared(world, FREED, RECYCLED)
        async with asyncio.timeout(60):
            await world.engine.wait_ready()
        await world.run(w.picture())


async def _saw(observer: Recorder, what: str) -> bool:
    return what in observer.saw


async def test_a_comfyui_that_is_not_ours_is_unloaded_and_left_running(
    opened: Open, meter: Meter, clock: LeapingClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once; it goes on serving."""
    async with opened(restartable=False) as world:
        meter.reading = LOW
        await _cared(world, FREED)
        clock.ahead_s += SETTLE_S
        await _read(meter, 3)
        assert world.engine.healthy
        said = [record.__dict__["why_not"] for record in caplog.records if "why_not" in record.__dict__]
        assert len(said) == 1 and "COMFYUI_RESTART_CMD" in said[0]
        await world.run(w.picture())


async def test_the_memory_of_another_host_is_what_comfyui_tells(fake: FakeComfyUI, tmp_path: Path) -> None:
    """Ours says nothing about it."""
    fake.ram_free = 1 << 20
    async with engine_world(comfyui=fake, root=fake.folder, fetched=tmp_path, care_pause_s=0.02) as world:
        await _cared(world, FREED)


async def test_other_peoples_prompts_are_not_stopped(
    opened: Open, fake: FakeComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may go on for ever: then there is no restart, and ours go on too."""
    monkeypatch.setattr("lib.comfy.care.FOREIGN_S", 0.2)
    async with opened(recycle_after_jobs=1) as world:
        prompt = {"prompt": w.through("HWTicks", seconds=20, ticks=400), "prompt_id": "theirs", "client_id": "x"}
        job = job_of()
        heard: list[bool] = []
        world.engine.on_health(heard.append)
        execution = await world.execute(w.picture(), job=job)
        await world.client.post_prompt(orjson.dumps(prompt))
        await world.engine.collect(job, execution)

        async def given_up() -> bool:
            return heard == [False, True]

        await until(given_up)
        assert world.server.restarts == []
        assert fake.executor.running is not None and fake.executor.running[1] == "theirs"


async def test_jobs_that_run_out_of_memory_are_counted_and_told(opened: Open, fake: FakeComfyUI) -> None:
    """Each one unloads; so many in a row restart."""
    async with opened() as world:
        for _ in range(OUT_OF_MEMORY_LIMIT):
            with pytest.raises(OutOfMemory):
                await world.execute(w.through("HWFail", kind="oom"))
        await _cared(world, *[FREED] * OUT_OF_MEMORY_LIMIT, RECYCLED)
