"""The engine when ComfyUI misbehaves: lost messages, lost prompts, dead executor, dead process."""

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from pydantic import SecretStr

from lib.clock import SystemClock
from lib.comfy.attached import AttachedServer
from lib.comfy.care import PAUSE_S
from lib.comfy.engine import ComfyEngine
from lib.comfy.ports import CareAction
from lib.errors import (
    EngineDied,
    EngineUnreachable,
    ExecutionFailed,
    JobTimeout,
    OutOfMemory,
    StorageFailed,
)
from lib.jobs.model import Credential
from lib.jobs.ports import Prepared, Withdrawn
from lib.lifecycle import Tasks
from tests.fakes import workflows as w
from tests.fakes.comfyui import FakeComfyUI
from tests.fakes.comfyui_nodes import image_png
from tests.fakes.engine_world import SETTINGS, Recorder, World, engine_world, job_of, until

SLOW = w.through("HWTicks", seconds=20, ticks=400)
IMPATIENT = SETTINGS.model_copy(update={"interrupt_timeout_s": 0.3})
"""A node that ignores interrupts is given up long before it ends."""


@pytest_asyncio.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeComfyUI]:
    async with FakeComfyUI(tmp_path / "comfyui") as made:
        yield made


@pytest_asyncio.fixture
async def world(fake: FakeComfyUI, tmp_path: Path) -> AsyncIterator[World]:
    async def restart() -> None:
        await fake.kill()
        await fake.start()

    async with engine_world(comfyui=fake, root=fake.folder, fetched=tmp_path / "fetched", restarter=restart) as made:
        yield made


@pytest_asyncio.fixture
async def foreign(fake: FakeComfyUI, tmp_path: Path) -> AsyncIterator[World]:
    """A ComfyUI that is not ours to restart."""
    async with engine_world(comfyui=fake, root=fake.folder, fetched=tmp_path / "fetched") as made:
        yield made


async def test_prompts_are_posted_in_the_order_of_their_turns(world: World, fake: FakeComfyUI) -> None:
    """One that looks for a free folder first is not overtaken by the next one."""
    await world.run(w.picture())
    again, next_one = job_of().with_(attempts=1), job_of()
    work = [world.begin(w.picture(), job=job, prompt_id=job.job_id) for job in (again, next_one)]
    await asyncio.gather(*work)
    assert [body["prompt_id"] for body in fake.posted[1:]] == [again.job_id, next_one.job_id]


async def _begun(world: World, graph: w.Graph) -> "asyncio.Task[object]":
    observer = Recorder()
    work = world.begin(graph, observer=observer)
    await observer.began.wait()
    return work  # type: ignore[return-value]


async def test_posts_nothing_of_the_callers_but_the_graph(world: World, fake: FakeComfyUI) -> None:
    """Ids, order and targets are ours."""
    await world.run(w.picture())
    (body,) = fake.posted
    assert set(body) == {"prompt", "prompt_id", "client_id", "extra_data"}
    assert set(body["extra_data"]) == {"pyworker"}
    assert body["client_id"] in fake.client_ids


async def test_partner_nodes_are_paid_by_the_operator_unless_the_caller_has_a_key(
    fake: FakeComfyUI, tmp_path: Path
) -> None:
    """In a prompt's ``extra_data``; a job that waits in ComfyUI's queue does not show it."""
    settings = SETTINGS.model_copy(update={"comfy_org_api_key": SecretStr("comfyui-operators")})
    own = Credential(kind="comfy_org", values={"api_key": "comfyui-callers-own"})
    async with engine_world(comfyui=fake, root=fake.folder, fetched=tmp_path, settings=settings) as world:
        await world.run(w.picture())
        await world.run(w.picture(), job=job_of(credentials=(own,)))
    paid = [body["extra_data"]["api_key_comfy_org"] for body in fake.posted]
    assert paid == ["comfyui-operators", "comfyui-callers-own"]


async def test_a_history_of_an_older_comfyui_tells_no_key_either(world: World, fake: FakeComfyUI) -> None:
    """Before 0.3.70 it kept what it was given."""

    def older(entry: dict[str, Any]) -> dict[str, Any]:
        entry["prompt"][3]["api_key_comfy_org"] = "k"
        return entry

    fake.wrong.spoil = older
    collected = await world.run(w.picture())
    entry = next(iter(collected.response.values()))
    assert set(entry["prompt"][3]) == {"client_id", "create_time"}


async def test_the_socket_is_traced_on_request(
    fake: FakeComfyUI, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Types of its messages, at level DEBUG; never what they say."""
    for traced in (False, True):
        caplog.clear()
        settings = SETTINGS.model_copy(update={"socket_trace": traced})
        with caplog.at_level("DEBUG", logger="lib.comfy.link"):
            async with engine_world(comfyui=fake, root=fake.folder, fetched=tmp_path, settings=settings) as world:
                await world.run(w.text("a secret wish"))
        found = [vars(record) for record in caplog.records if vars(record).get("event") == "engine.message"]
        assert {"execution_start", "executing", "executed"} <= {record["type"] for record in found} or not traced
        assert bool(found) is traced and "a secret wish" not in str(found)


async def test_the_first_pause_before_a_new_socket_is_a_setting(
    fake: FakeComfyUI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later ones are longer, also where the first is none at all."""
    clock = SlowClock()
    settings = SETTINGS.model_copy(update={"reconnect_delay_s": 0.0})
    async with engine_world(
        comfyui=fake, root=fake.folder, fetched=tmp_path, settings=settings, clock=clock, supervised=True
    ) as world:
        await fake.kill()
        await asyncio.wait_for(clock.fifth.wait(), 60)
        assert clock.slept[:5] == [0.0, 0.1, 0.2, 0.4, 0.8]
        assert not world.engine.healthy


class SlowClock(SystemClock):
    """Notes how long somebody wants to sleep, and lets nobody sleep for long."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.fifth = asyncio.Event()

    async def sleep(self, delay_s: float) -> None:
        if delay_s < PAUSE_S:  # longer ones are the care's
            self.slept.append(round(delay_s, 3))
            if len(self.slept) >= 5:
                self.fifth.set()
            delay_s = 0.001
        await super().sleep(delay_s)


async def test_what_no_output_needs_is_left_out_of_the_post(world: World, fake: FakeComfyUI) -> None:
    """Pruned, and the output node has its folder and nonce."""
    job = job_of("pruned")
    await world.run({**w.picture("hw/a"), "7": w.empty()}, job=job)
    (body,) = fake.posted
    assert set(body["prompt"]) == {"1", "2"}
    assert body["prompt"]["2"]["inputs"]["filename_prefix"] == "pruned/hw/a"
    assert body["prompt"]["2"]["inputs"]["_nonce"].endswith("/2")


async def test_one_job_costs_two_calls(fake: FakeComfyUI, tmp_path: Path) -> None:
    """Nothing is polled while the socket tells all: a POST, a history look-up."""
    settings = SETTINGS.model_copy(update={"history_poll_s": 60.0})  # of which the machine may take a while
    async with engine_world(
        comfyui=fake, root=fake.folder, fetched=tmp_path, settings=settings, care_pause_s=60.0
    ) as world:
        await world.run(w.picture())
        before = len(fake.requests)
        await world.run(w.picture())
        calls = fake.requests[before:]
    assert [call.split("/")[1] for call in calls if call != "POST /history"] == ["prompt", "history"]


async def test_history_is_deleted_in_batches(world: World, fake: FakeComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call for sixteen entries."""
    monkeypatch.setattr("lib.comfy.forget.DELAY_S", 60.0)
    for _ in range(16):
        await world.run(w.picture())

    async def gone() -> bool:
        return not fake.executor.history

    await until(gone)
    assert fake.requests.count("POST /history") == 1


async def test_the_last_entries_go_when_the_engine_stops(
    fake: FakeComfyUI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ComfyUI that lives on keeps nothing of ours."""
    monkeypatch.setattr("lib.comfy.forget.DELAY_S", 60.0)
    async with engine_world(comfyui=fake, root=fake.folder, fetched=tmp_path) as world:
        await world.run(w.picture())
        assert len(fake.executor.history) == 1
    assert fake.executor.history == {}


@pytest.mark.parametrize("muted", [{"end"}, {"end", "execution_success", "executing", "executed", "execution_start"}])
async def test_a_lost_end_marker_is_made_up_for_by_the_history(
    world: World, fake: FakeComfyUI, muted: set[str]
) -> None:
    """Neither witness alone is trusted."""
    fake.wrong.mute = frozenset(muted)
    observer = Recorder()
    collected = await world.run(w.picture(), observer=observer)
    assert observer.saw == ["posted", "started"]
    assert collected.outputs[0].width == 64


async def test_a_failure_is_found_in_the_history_too(world: World, fake: FakeComfyUI) -> None:
    """An error message that was missed does not become a success."""
    fake.wrong.mute = frozenset({"execution_error"})
    with pytest.raises(ExecutionFailed, match="boom"):
        await world.execute(w.through("HWFail", kind="value"))


async def test_a_stalled_event_stream_does_not_stop_the_jobs(world: World, fake: FakeComfyUI) -> None:
    """One slow client of ComfyUI's silences everybody; history still answers."""
    fake.stall_events()
    collected = await world.run(w.picture())
    assert collected.outputs[0].error is None
    fake.stall_events(stalled=False)


async def test_a_dropped_socket_loses_no_prompt(world: World, fake: FakeComfyUI) -> None:
    """New connection, new client id; the running prompt is followed by look-ups, the next one by events."""
    (old,) = fake.client_ids
    work = await _begun(world, w.through("HWTicks", seconds=0.5, ticks=5))
    await fake.drop_sockets()
    await work

    async def connected() -> bool:
        return world.engine.healthy and bool(fake.client_ids)

    await until(connected)
    (new,) = fake.client_ids
    assert new != old
    await world.run(w.picture())


async def test_a_post_that_fails_although_it_queued_runs_once(world: World, fake: FakeComfyUI) -> None:
    """We chose the id: look it up before anybody posts again."""
    fake.wrong.fail_posts = 1
    collected = await world.run(w.picture())
    assert collected.outputs[0].error is None
    assert len(fake.posted) == 1


async def test_a_post_without_an_answer_is_looked_up(fake: FakeComfyUI, tmp_path: Path) -> None:
    """A time-out says nothing about the prompt."""
    settings = SETTINGS.model_copy(update={"request_timeout_s": 0.5})
    async with engine_world(comfyui=fake, root=fake.folder, fetched=tmp_path, settings=settings) as world:
        fake.wrong.post_delay_s = 1.5
        collected = await world.run(w.picture())
        assert collected.outputs[0].error is None
        assert len(fake.posted) == 1


async def test_a_post_that_failed_for_good_is_an_error(world: World, fake: FakeComfyUI) -> None:
    """500 and nothing queued."""
    fake.wrong.refuse_posts = 1
    with pytest.raises(ExecutionFailed, match="500"):
        await world.execute(w.picture())


async def test_a_prompt_that_comfyui_lost_is_told_as_never_started(world: World, fake: FakeComfyUI) -> None:
    """200, and in neither queue nor history: no attempt is counted."""
    fake.wrong.lose_posts = 1
    with pytest.raises(EngineDied) as caught:
        await world.execute(w.picture())
    assert caught.value.started is False


async def test_lost_interrupts_are_repeated(world: World, fake: FakeComfyUI) -> None:
    """Until the prompt is in neither list."""
    work = await _begun(world, SLOW)
    fake.wrong.lose_interrupts = 4
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert fake.executor.remaining == 0


async def test_a_second_cancellation_does_not_stop_the_removal(world: World, fake: FakeComfyUI) -> None:
    """The removal is shielded."""
    work = await _begun(world, SLOW)
    fake.wrong.lose_interrupts = 4
    work.cancel()

    async def trying() -> bool:
        return "POST /interrupt" in fake.requests

    await until(trying)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert fake.executor.remaining == 0


async def test_a_node_that_ignores_interrupts_costs_a_restart(world: World) -> None:
    """After the time allowed; the engine comes back by itself."""
    work = await _begun(world, w.through("HWStubborn", seconds=60))
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert len(world.server.restarts) == 1
    assert "interrupt" in world.server.restarts[0]
    async with asyncio.timeout(60):
        await world.engine.wait_ready()
    await world.run(w.picture())


async def test_a_stuck_engine_that_we_cannot_restart_takes_no_work_until_it_is_free(
    fake: FakeComfyUI, tmp_path: Path
) -> None:
    """Unhealthy with its reason, healthy again when ComfyUI gives up the prompt."""
    async with engine_world(comfyui=fake, root=fake.folder, fetched=tmp_path, settings=IMPATIENT) as foreign:
        work = await _begun(foreign, w.through("HWStubborn", seconds=3.5))
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert not foreign.engine.healthy
        assert "interrupt" in (foreign.engine.down_reason or "")
        with pytest.raises(EngineUnreachable):
            await foreign.execute(w.picture())
        async with asyncio.timeout(60):
            await foreign.engine.wait_ready()
        await foreign.run(w.picture())


async def test_a_dead_executor_is_found_and_restarted(world: World, fake: FakeComfyUI) -> None:
    """HTTP answers, prompts wait, nothing runs: the prompt is lost without having started."""
    await fake.kill_executor()
    with pytest.raises(EngineDied) as caught:
        async with asyncio.timeout(60):
            await world.execute(w.picture())
    assert caught.value.started is False
    assert "executor" in world.server.restarts[0]
    async with asyncio.timeout(60):
        await world.engine.wait_ready()
    await world.run(w.picture())


async def test_a_running_prompt_on_a_dead_executor_ends_by_its_deadline(world: World) -> None:
    """SystemExit in a node prints nothing and answers nothing; the deadline and the restart get us out."""
    with pytest.raises(JobTimeout):
        await world.execute(w.through("HWFail", kind="sysexit"), timeout_s=0.3)
    assert len(world.server.restarts) == 1


async def test_a_sticky_gpu_fault_restarts_comfyui(world: World) -> None:
    """Every later prompt would fail; this one may be tried again after the restart."""
    with pytest.raises(EngineDied, match="illegal memory access") as caught:
        await world.execute(w.through("HWFail", kind="cuda"))
    assert caught.value.started is True
    assert len(world.server.restarts) == 1


async def test_out_of_memory_frees_the_models(world: World, fake: FakeComfyUI) -> None:
    """POST /free, and no restart."""
    with pytest.raises(OutOfMemory):
        await world.execute(w.through("HWFail", kind="oom"))
    assert fake.executor.freed == [{"unload_models": True, "free_memory": True}]
    assert world.server.restarts == []


async def test_the_end_of_the_process_is_told_at_once_with_its_last_words(world: World, fake: FakeComfyUI) -> None:
    """The running prompt counts as started, the pending one does not; nothing waits for a time-out."""
    running = await _begun(world, SLOW)
    pending = world.begin(w.picture())
    await until(lambda: _remaining(fake, 2))
    world.server.lines = ["loading /opt/secret/models/x.safetensors", "Killed"]
    world.server.went_down("ComfyUI ended with -9")
    results = await asyncio.wait_for(asyncio.gather(running, pending, return_exceptions=True), 9)
    first, second = results
    assert isinstance(first, EngineDied) and isinstance(second, EngineDied)
    assert (first.started, second.started) == (True, False)
    assert "ended with -9" in first.message
    assert first.details["log_tail"] == ["loading x.safetensors", "Killed"]
    assert not world.engine.healthy
    assert world.engine.down_reason == "ComfyUI ended with -9"


async def _remaining(fake: FakeComfyUI, count: int) -> bool:
    return fake.executor.remaining == count


async def test_an_attached_server_that_goes_away_is_noticed_by_its_socket(foreign: World, fake: FakeComfyUI) -> None:
    """Nobody tells us; the connection does, and a refused one is the proof."""
    work = await _begun(foreign, SLOW)
    await fake.kill()
    with pytest.raises(EngineDied):
        await asyncio.wait_for(work, 15)
    assert not foreign.engine.healthy
    with pytest.raises(EngineUnreachable):
        await foreign.execute(w.picture())
    await fake.start()
    async with asyncio.timeout(60):
        await foreign.engine.wait_ready()
    await foreign.run(w.picture())


async def test_a_quick_restart_behind_our_back_loses_the_prompt(foreign: World, fake: FakeComfyUI) -> None:
    """It answers again before we look: history and queue have no trace."""
    work = await _begun(foreign, SLOW)
    await fake.kill()
    await fake.start()
    with pytest.raises(EngineDied):
        await asyncio.wait_for(work, 15)


async def test_health_changes_are_told(world: World, fake: FakeComfyUI) -> None:
    """Down once, up once."""
    heard: list[bool] = []
    world.engine.on_health(heard.append)
    await fake.kill()
    world.server.went_down("gone")
    await fake.start()
    world.server.came_back()
    async with asyncio.timeout(60):
        await world.engine.wait_ready()
    assert heard == [False, True]


async def test_withdraw_works_while_the_executor_is_busy_elsewhere(world: World, fake: FakeComfyUI) -> None:
    """A foreign prompt runs; ours is given back."""
    running = await _begun(world, SLOW)
    withdraw = asyncio.Event()
    withdraw.set()
    with pytest.raises(Withdrawn):
        await world.execute(w.picture(), withdraw=withdraw)
    assert not running.done() and fake.executor.remaining == 1
    assert len(fake.posted) == 2
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_history_that_is_gone_is_not_a_success(world: World, fake: FakeComfyUI) -> None:
    """The socket alone is not believed."""
    fake.wrong.forget_history = True
    job = job_of()
    execution = await world.execute(w.picture(), job=job)
    with pytest.raises(EngineUnreachable):
        await world.engine.collect(job, execution)


async def test_a_prompt_that_was_given_up_is_removed_at_the_next_connection(fake: FakeComfyUI, tmp_path: Path) -> None:
    """Posted perhaps, followed by nobody: it must not run beside its successor."""
    settings = SETTINGS.model_copy(update={"request_timeout_s": 0.4})
    async with engine_world(comfyui=fake, root=fake.folder, fetched=tmp_path, settings=settings) as world:
        await fake.kill_executor()
        fake.wrong.lose_posts, fake.wrong.post_delay_s = 1, 0.8
        with pytest.raises(EngineUnreachable):
            await world.execute(w.picture())
        (body,) = fake.posted
        fake.executor.put((99.0, body["prompt_id"], body["prompt"], {"client_id": "x"}, ["2"]))
        await fake.drop_sockets()

        async def gone() -> bool:
            return fake.executor.remaining == 0

        await until(gone)


async def test_a_prompt_that_was_lost_in_silence_does_not_run_beside_its_successor(
    fake: FakeComfyUI, tmp_path: Path
) -> None:
    """ComfyUI stops answering, is given up, and answers again: what it still runs of ours is stopped."""
    settings = SETTINGS.model_copy(update={"request_timeout_s": 0.2})
    async with engine_world(comfyui=fake, root=fake.folder, fetched=tmp_path, settings=settings) as world:
        work = await _begun(world, SLOW)
        fake.stall_events()
        fake.wrong.silent = True
        with pytest.raises(EngineDied):
            async with asyncio.timeout(60):
                await work
        assert fake.executor.remaining == 1
        fake.wrong.silent = False
        fake.stall_events(False)

        async def gone() -> bool:
            return fake.executor.remaining == 0

        await until(gone)


async def test_a_restart_command_that_fails_leaves_comfyui_in_use(fake: FakeComfyUI, tmp_path: Path) -> None:
    """The stuck prompt goes on; when ComfyUI gives it up, the engine is healthy again by itself."""
    async with aiohttp.ClientSession() as http, Tasks() as tasks:
        server = AttachedServer(fake.base_url, name="one", http=http, settings=SETTINGS, restart_cmd="false")
        engine = ComfyEngine(
            name="one", server=server, http=http, settings=IMPATIENT, tasks=tasks, fetch_folder=tmp_path
        )
        tasks.spawn(engine.run(), name="test.engine")
        graph, observer = w.through("HWStubborn", seconds=3.5), Recorder()
        async with asyncio.timeout(60):
            await engine.wait_ready()
            work = tasks.spawn(
                engine.execute(
                    job_of(),
                    Prepared(graph=graph, caller_graph=graph),
                    observer=observer,
                    withdraw=asyncio.Event(),
                    timeout_s=None,
                    prompt_id=str(uuid.uuid4()),
                ),
                name="test.execute",
            )
            await observer.began.wait()
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
            assert "interrupt" in (engine.down_reason or "")
            await engine.wait_ready()


async def test_unsafe_request_ids_do_not_become_folders(world: World) -> None:
    """Validated by dialects; checked again where it would hurt."""
    job = job_of("../evil")
    collected = await world.run(w.picture("a"), job=job)
    assert Path(collected.outputs[0].local_path).parent == world.output / job.job_id


async def test_nothing_is_posted_again_while_comfyui_cannot_be_asked(world: World, fake: FakeComfyUI) -> None:
    """Not knowing is not "not there": the prompt runs on, and is there when ComfyUI can be asked again."""
    job = job_of()
    prompt_id = await world.leave_behind(SLOW, job=job)
    fake.wrong.cut_short = {"history": 1000}
    with pytest.raises(EngineUnreachable, match="can't be read"):
        await world.execute(SLOW, job=job, prompt_id=job.job_id, attach=True)
    with pytest.raises(EngineUnreachable, match="can't be read"):
        await world.engine.holds([str(uuid.uuid4())])
    assert len(fake.posted) == 1
    fake.wrong.cut_short = {}
    assert await world.engine.holds([str(uuid.uuid4()), prompt_id]) == prompt_id
    await world.client.interrupt(prompt_id)
    await until(lambda: _remaining(fake, 0))


async def test_an_engine_that_can_not_be_asked_counts_as_down(world: World, fake: FakeComfyUI) -> None:
    """After as many questions as calls of any other kind: whoever recovers waits for it then."""
    fake.wrong.cut_short = {"queue": 3}
    for _ in range(3):
        with pytest.raises(EngineUnreachable):
            await world.engine.holds([str(uuid.uuid4())])
    assert not world.engine.healthy
    await world.engine.wait_ready()


async def test_what_was_interrupted_is_not_held(world: World, fake: FakeComfyUI) -> None:
    """We did that, most likely, and did not come to delete the entry: the job runs anew."""
    job = job_of()
    prompt_id = await world.leave_behind(SLOW, job=job)
    await until(lambda: _remaining(fake, 1))
    await world.client.interrupt(prompt_id)
    await until(lambda: _remaining(fake, 0))
    assert await world.client.history(prompt_id) is not None
    assert await world.engine.holds([prompt_id]) is None


async def test_a_hiccup_does_not_cost_a_prompt_of_an_earlier_life(world: World, fake: FakeComfyUI) -> None:
    """It is asked for again."""
    job, graph = job_of(), w.through("HWTicks", seconds=0.5, ticks=5)
    await world.leave_behind(graph, job=job)
    fake.wrong.cut_short = {"history": 1, "queue": 1}
    collected = await world.run(graph, job=job, prompt_id=job.job_id, attach=True)
    assert collected.outputs[0].error is None
    assert len(fake.posted) == 1


@pytest.mark.parametrize("route", ["history", "queue"])
async def test_half_an_answer_is_asked_for_again(world: World, fake: FakeComfyUI, route: str) -> None:
    """An unreadable queue does not mean that the prompt is gone; it runs once."""
    fake.stall_events()
    fake.wrong.cut_short = {route: 2}
    collected = await world.run(w.through("HWTicks", seconds=0.5, ticks=5))
    assert collected.outputs[0].error is None
    assert len(fake.posted) == 1
    fake.stall_events(stalled=False)


async def test_a_history_that_is_cut_short_while_collecting_is_asked_for_again(world: World, fake: FakeComfyUI) -> None:
    """The job has run: a moment's patience is cheaper than running it again."""
    job = job_of()
    execution = await world.execute(w.picture(), job=job)
    fake.wrong.cut_short = {"history": 3}
    assert (await world.engine.collect(job, execution)).outputs[0].error is None


async def test_a_history_that_stays_unreadable_ends_the_engines_connection(world: World, fake: FakeComfyUI) -> None:
    """After so many tries ComfyUI counts as dead, and the prompt as lost; it comes back by itself."""
    fake.stall_events()
    fake.wrong.cut_short = {"history": 1000}
    with pytest.raises(EngineDied, match="can't be read"):
        async with asyncio.timeout(60):
            await world.execute(SLOW)
    fake.stall_events(stalled=False)
    fake.wrong.cut_short = {}
    async with asyncio.timeout(60):
        await world.engine.wait_ready()
    await world.run(w.picture())


def _without(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda entry: {**entry, key: [1, 2]}


@pytest.mark.parametrize("key", ["status", "prompt", "outputs", "meta"])
async def test_a_history_of_another_shape_fails_the_job_in_clear_words(
    world: World, fake: FakeComfyUI, key: str
) -> None:
    """Only that job, and never as an internal error; what is not needed may be anything."""
    fake.wrong.spoil = _without(key)
    job = job_of()
    execution = await world.execute(w.picture(), job=job)
    if key == "meta":
        assert (await world.engine.collect(job, execution)).outputs[0].error is None
        return
    with pytest.raises(ExecutionFailed, match=r"can't be read|did not run"):
        await world.engine.collect(job, execution)
    assert world.engine.healthy


async def test_a_history_that_tells_no_outcome_fails_the_job_in_clear_words(world: World, fake: FakeComfyUI) -> None:
    """The events were lost, and the entry says nothing."""
    fake.stall_events()
    fake.wrong.spoil = _without("status")
    with pytest.raises(ExecutionFailed, match="does not tell how the prompt ended"):
        await world.execute(w.picture())
    fake.stall_events(stalled=False)


@pytest.mark.parametrize("supervised", [False, True], ids=["attached", "supervised"])
async def test_a_comfyui_that_hangs_is_restarted(fake: FakeComfyUI, tmp_path: Path, supervised: bool) -> None:
    """It runs, the connection stands, and nothing is answered any more."""

    async def restart() -> None:
        fake.wrong.hung = False
        await fake.kill()
        await fake.start()

    settings = SETTINGS.model_copy(update={"request_timeout_s": 0.5})
    async with engine_world(
        comfyui=fake, root=fake.folder, fetched=tmp_path, settings=settings, restarter=restart, supervised=supervised
    ) as world:
        work = await _begun(world, SLOW)
        fake.wrong.hung = True
        fake.stall_events()
        with pytest.raises(EngineDied):
            async with asyncio.timeout(60):
                await work

        async def restarted() -> bool:
            return world.cared == [CareAction.RESTARTED_STUCK]

        await until(restarted)
        fake.stall_events(stalled=False)
        async with asyncio.timeout(60):
            await world.engine.wait_ready()
        await world.run(w.picture())


async def test_an_executor_that_died_under_a_prompt_is_found_in_comfyuis_log(world: World) -> None:
    """Long before any time limit."""
    with pytest.raises(EngineDied, match="executor died") as caught:
        async with asyncio.timeout(60):
            await world.execute(w.through("HWFail", kind="executor"))
    assert caught.value.started is True
    assert world.cared == [CareAction.RESTARTED_EXECUTOR]
    async with asyncio.timeout(60):
        await world.engine.wait_ready()
    await world.run(w.picture())


async def test_where_it_cannot_be_restarted_the_job_is_free_for_another_engine(foreign: World) -> None:
    """And this one takes no work until somebody restarted it."""
    with pytest.raises(EngineDied, match="executor died"):
        async with asyncio.timeout(60):
            await foreign.execute(w.through("HWFail", kind="executor"))
    assert "executor died" in (foreign.engine.down_reason or "")
    await foreign.comfyui.kill()
    await foreign.comfyui.start()
    async with asyncio.timeout(60):
        await foreign.engine.wait_ready()
    await foreign.run(w.picture())


async def test_words_of_callers_in_the_log_restart_nothing(world: World, fake: FakeComfyUI) -> None:
    """ComfyUI logs what they send, inside its own lines."""
    said = "Exception in thread Thread-1 (prompt_worker)"
    fake.log_entries.append(f"invalid prompt: {{'ckpt_name': '{said}'}}\n")
    await world.run(w.through("HWSleep", seconds=2.6))
    assert "GET /internal/logs/raw" in fake.requests
    assert world.cared == []


async def test_a_silent_prompt_without_a_log_to_ask_is_left_alone(world: World, fake: FakeComfyUI) -> None:
    """That route is ComfyUI's own affair and may go."""
    fake.wrong.cut_short = {"internal": 100}
    await world.run(w.through("HWSleep", seconds=1.6))
    assert world.engine.healthy


async def test_each_action_is_told_once_with_its_reason(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """For the log and for the metric."""
    with pytest.raises(EngineDied):
        await world.execute(w.through("HWFail", kind="cuda"))
    async with asyncio.timeout(60):
        await world.engine.wait_ready()
    with pytest.raises(OutOfMemory):
        await world.execute(w.through("HWFail", kind="oom"))
    work = await _begun(world, w.through("HWStubborn", seconds=60))
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert world.cared == [CareAction.RESTARTED_GPU, CareAction.FREED, CareAction.RESTARTED_STUCK]
    lines = [record.__dict__ for record in caplog.records if record.__dict__.get("event") == "engine.care"]
    assert [line["action"] for line in lines] == ["restarted_gpu", "freed", "restarted_stuck"]
    assert all(line["cause"] for line in lines)


async def test_a_server_that_sees_to_itself_says_so(world: World) -> None:
    """A process of ours that ended is started again by its supervisor."""
    world.server.went_down("ComfyUI was ended by SIGKILL", CareAction.RESTARTED_DIED)
    assert world.cared == [CareAction.RESTARTED_DIED]
    world.server.came_back()


async def test_previews_are_told_while_it_samples_and_are_no_outputs(world: World, fake: FakeComfyUI) -> None:
    """Each with the node that made it."""
    fake.previews = True
    observer = Recorder()
    collected = await world.run(w.diffusion(steps=3), observer=observer)
    assert [(preview.node_id, preview.mime_type) for preview in observer.previews] == [("3", "image/jpeg")] * 3
    assert observer.previews[0].data.startswith(b"\xff\xd8\xff")
    assert [output.node_id for output in collected.outputs] == ["9"]
    assert {progress.node_type for progress in observer.progress} >= {"KSampler", "SaveImage"}


async def test_a_withdrawal_wakes_a_prompt_that_waits(fake: FakeComfyUI, tmp_path: Path) -> None:
    """No poll is near."""
    settings = SETTINGS.model_copy(update={"history_poll_s": 60.0})
    async with engine_world(comfyui=fake, root=fake.folder, fetched=tmp_path, settings=settings) as world:
        running, withdraw, observer = await _begun(world, SLOW), asyncio.Event(), Recorder()
        pending = world.begin(w.picture(), withdraw=withdraw, observer=observer)
        await until(lambda: _remaining(fake, 2))
        withdraw.set()
        with pytest.raises(Withdrawn):
            await asyncio.wait_for(pending, 15)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_a_cancellation_during_a_time_out_is_not_swallowed(world: World, fake: FakeComfyUI) -> None:
    """The prompt is removed first, then the task ends as a cancelled one."""
    observer = Recorder()
    work = world.begin(SLOW, observer=observer, timeout_s=0.2)
    fake.wrong.lose_interrupts = 5

    async def expiring() -> bool:
        return "POST /interrupt" in fake.requests

    await until(expiring)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert fake.executor.remaining == 0


async def test_a_full_disk_is_told_as_what_it_is(fake: FakeComfyUI, tmp_path: Path) -> None:
    """Neither pictures from the socket nor files of a far ComfyUI can be kept: the result is lost, and says why."""
    full = tmp_path / "full"
    full.mkdir()
    async with engine_world(comfyui=fake, root=fake.folder, fetched=full, shared=False) as world:
        for graph, name in ((w.over_the_socket(1), "websocket_00001_.png"), (w.picture("hw/a"), "a_00001_.png")):
            job = job_of()
            execution = await world.execute(graph, job=job)
            place = full / execution.prompt_id / ("" if "websocket" in name else f"{job.spec.request_id}/hw")
            place.mkdir(parents=True)
            (place / name).symlink_to("/dev/full")
            with pytest.raises(StorageFailed, match="No space left on device"):
                await world.engine.collect(job, execution)
            assert not (place / name).is_symlink()
        await world.run(w.picture())


async def test_a_file_whose_copy_breaks_off_is_fetched_again(fake: FakeComfyUI, tmp_path: Path) -> None:
    """Half a file is never an output."""
    async with engine_world(comfyui=fake, root=fake.folder, fetched=tmp_path / "far", shared=False) as world:
        job = job_of()
        execution = await world.execute(w.picture(width=256, height=256), job=job)
        fake.wrong.cut_views = 1
        (output,) = (await world.engine.collect(job, execution)).outputs
        assert (output.error, output.width) == (None, 256)
        assert fake.requests.count("GET /view") == 2


async def test_pictures_of_a_node_that_also_writes_files_were_previews(world: World, fake: FakeComfyUI) -> None:
    """Some packs' samplers are output nodes themselves."""
    job = job_of()
    execution = await world.execute(w.over_the_socket(2), job=job)
    entry = fake.executor.history[execution.prompt_id]
    (world.output / "x.png").write_bytes(image_png(8, 8))
    entry["outputs"]["ws"] = {"images": [{"filename": "x.png", "subfolder": "", "type": "output"}]}
    (output,) = (await world.engine.collect(job, execution)).outputs
    assert output.filename == "x.png"


async def test_a_collection_that_is_cut_off_leaves_the_history(world: World, fake: FakeComfyUI) -> None:
    """After a shut-down the next life harvests what this one did not."""
    job = job_of()
    execution = await world.execute(w.picture(), job=job)
    fake.wrong.hung = True
    collecting = asyncio.create_task(world.engine.collect(job, execution), name="test.collect")
    await asyncio.wait([collecting], timeout=0.1)
    collecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await collecting
    fake.wrong.hung = False
    collected = await world.run(w.picture(), job=job, prompt_id=execution.prompt_id, attach=True)
    assert collected.outputs[0].error is None
    assert len(fake.posted) == 1


async def test_files_are_looked_at_while_comfyui_writes_its_history(world: World, fake: FakeComfyUI) -> None:
    """Nodes tell of them before: what was read by then counts, if the history names the same files."""
    job = job_of()
    execution = await world.execute(w.picture(), job=job)
    await execution.token.story.early.found
    shutil.rmtree(world.output)
    (output,) = (await world.engine.collect(job, execution)).outputs
    assert (output.error, output.size_bytes > 0) == (None, True)


async def test_the_history_says_which_files_there_are(world: World, fake: FakeComfyUI) -> None:
    """Whatever the nodes told while they ran."""
    job = job_of()
    execution = await world.execute(w.picture(), job=job)
    (reported,) = fake.executor.history[execution.prompt_id]["outputs"].values()
    reported["images"].append({"filename": "late.png", "subfolder": "", "type": "output"})
    told = (await world.engine.collect(job, execution)).outputs
    assert [(output.filename, output.error is None) for output in told[1:]] == [("late.png", False)]
    assert told[0].error is None
