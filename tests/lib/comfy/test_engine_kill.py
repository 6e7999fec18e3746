"""A real ComfyUI that dies under the engine. One file, so that the restarts are few."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from lib.comfy.ports import CareAction
from lib.errors import EngineDied, JobTimeout
from tests.comfyui_fixture import RealComfyUI
from tests.fakes import workflows as w
from tests.fakes.engine_world import SETTINGS, Recorder, World, engine_world

pytestmark = pytest.mark.comfyui


@pytest_asyncio.fixture
async def world(real_comfyui: RealComfyUI, tmp_path: Path) -> AsyncIterator[World]:
    async def restart() -> None:
        await asyncio.to_thread(real_comfyui.kill)
        await asyncio.to_thread(real_comfyui.start)

    if not real_comfyui.running():
        await asyncio.to_thread(real_comfyui.start)
    settings = SETTINGS.model_copy(update={"interrupt_timeout_s": 1.0, "stall_timeout_s": 60.0})
    async with engine_world(
        comfyui=real_comfyui, root=real_comfyui.folder, fetched=tmp_path, settings=settings, restarter=restart
    ) as made:
        yield made


async def test_a_node_that_takes_the_process_down_is_told_within_a_second(world: World) -> None:
    """The running prompt counts as started, the pending one does not; afterwards work goes on."""
    observer = Recorder()
    graph = w.through("HWFail", kind="crash") | {"0": w.node("HWSleep", image=["1", 0], seconds=2.0)}
    graph["2"]["inputs"]["image"] = ["0", 0]
    running = world.begin(graph, observer=observer)
    await observer.began.wait()
    pending = world.begin(w.picture())
    first, second = await asyncio.wait_for(asyncio.gather(running, pending, return_exceptions=True), 11)
    assert isinstance(first, EngineDied) and isinstance(second, EngineDied)
    assert (first.started, second.started) == (True, False)
    assert not world.engine.healthy
    await asyncio.to_thread(world.comfyui.kill)
    await asyncio.to_thread(world.comfyui.start)
    async with asyncio.timeout(60):
        await world.engine.wait_ready()
    assert (await world.run(w.picture())).outputs[0].error is None


async def test_a_dead_executor_is_restarted_and_work_goes_on(world: World) -> None:
    """SystemExit in a node: first the deadline frees its job, and the restart frees the rest."""
    with pytest.raises(JobTimeout):
        await world.execute(w.through("HWFail", kind="sysexit"), timeout_s=0.5)
    assert len(world.server.restarts) == 1
    async with asyncio.timeout(60):
        await world.engine.wait_ready()
    assert (await world.run(w.picture())).outputs[0].error is None


async def test_an_executor_that_died_under_a_prompt_is_found_in_comfyuis_log(world: World) -> None:
    """Its thread's last words are there, and no time limit is needed."""
    with pytest.raises(EngineDied) as caught:
        async with asyncio.timeout(200):  # restarting is part of it here
            await world.execute(w.through("HWFail", kind="executor"))
    assert caught.value.started is True
    assert world.cared == [CareAction.RESTARTED_EXECUTOR]
    async with asyncio.timeout(60):
        await world.engine.wait_ready()
    assert (await world.run(w.picture())).outputs[0].error is None
