"""A backend that can't be reached, again and again, counts as down.

Upstream recognises such failures by words, counts them by job, and stays unhealthy for good. Here every call to ComfyUI
that gets no answer is an ``EngineUnreachable``, whatever its text; ``BACKEND_FAILURE_THRESHOLD`` of them in a row take
the engine out of service, and it is back as soon as ComfyUI answers.
"""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from lib.clock import SystemClock
from lib.comfy.care_log import CareLog
from lib.comfy.client import ComfyClient
from lib.comfy.faults import execution_error
from lib.comfy.link import Link
from lib.comfy.messages import Failed
from lib.errors import EngineUnreachable, ExecutionFailed, ServiceError
from lib.lifecycle import Tasks
from lib.settings import load_settings
from tests.comfyui_fixture import free_port
from tests.fakes import workflows as w
from tests.fakes.comfy_server import OwnedServer
from tests.fakes.comfyui import FakeComfyUI
from tests.fakes.engine_world import SETTINGS, World, engine_world

NO_ANSWER = EngineUnreachable("ComfyUI does not answer")


async def linked(comfyui: FakeComfyUI, http: aiohttp.ClientSession, tasks: Tasks, *, threshold: int) -> Link:
    """A connection that is up."""
    settings = SETTINGS.model_copy(update={"failure_threshold": threshold})
    link = Link(
        server=OwnedServer(comfyui.base_url, folders=None),
        client=ComfyClient(comfyui.base_url, http, timeout_s=60),
        settings=settings,
        clock=SystemClock(),
        care_log=CareLog("one"),
    )
    tasks.spawn(link.run(), name="test.link")
    async with asyncio.timeout(60):
        await link.wait_ready()
    return link


@pytest.mark.parametrize("threshold", [1, 3])
async def test_so_many_failures_in_a_row_and_no_fewer(fake: FakeComfyUI, threshold: int) -> None:
    """An answer in between begins the count anew; the reason is the last failure's."""
    async with aiohttp.ClientSession() as http, Tasks() as tasks:
        link = await linked(fake, http, tasks, threshold=threshold)
        for _ in range(threshold - 1):
            link.failed(NO_ANSWER)
        link.answered()
        for _ in range(threshold - 1):
            link.failed(NO_ANSWER)
        assert link.healthy
        link.failed(NO_ANSWER)
        assert not link.healthy
        assert link.down_reason == NO_ANSWER.message


async def test_it_is_back_when_comfyui_answers(fake: FakeComfyUI) -> None:
    """No restart of the worker is needed, as upstream's latch would."""
    async with aiohttp.ClientSession() as http, Tasks() as tasks:
        link = await linked(fake, http, tasks, threshold=1)
        link.failed(NO_ANSWER)
        async with asyncio.timeout(60):
            await link.wait_ready()
        assert link.down_reason is None


async def test_one_backend_down_is_not_the_other(fake: FakeComfyUI, tmp_path: Path) -> None:
    """Each engine counts for itself."""
    async with FakeComfyUI(tmp_path / "other") as other, aiohttp.ClientSession() as http, Tasks() as tasks:
        first = await linked(fake, http, tasks, threshold=1)
        second = await linked(other, http, tasks, threshold=1)
        first.failed(NO_ANSWER)
        assert (first.healthy, second.healthy) == (False, True)


@pytest.mark.parametrize("silence", ["refused", "broken off", "late"])
async def test_every_way_of_not_answering_counts(fake: FakeComfyUI, silence: str) -> None:
    """The class is what counts; upstream knows some of the texts that these have."""
    url = f"http://127.0.0.1:{free_port()}" if silence == "refused" else fake.base_url
    fake.wrong.silent, fake.wrong.hung = silence == "broken off", silence == "late"
    async with aiohttp.ClientSession() as http:
        with pytest.raises(EngineUnreachable):
            await ComfyClient(url, http, timeout_s=0.1).remaining()


@pytest.mark.parametrize(
    ("exception_type", "message"),
    [
        ("ConnectionError", "Cannot connect to host"),
        ("RuntimeError", "Connection refused"),
        ("TimeoutError", "timed out"),
        ("torch.OutOfMemoryError", "CUDA out of memory"),
        ("RuntimeError", "CUDA error: device-side assert triggered"),
        ("ValueError", ""),
    ],
)
def test_what_a_node_says_is_no_connection_failure(exception_type: str, message: str) -> None:
    """In whatever words: ComfyUI answered, and its answer was an error."""
    error = execution_error(
        Failed(prompt_id="p", node_id="1", node_type="X", exception_type=exception_type, message=message, at_ms=None)
    )
    assert not isinstance(error, EngineUnreachable)


async def test_failing_nodes_never_take_a_backend_down(world: World) -> None:
    """More of them than the threshold."""
    for _ in range(SETTINGS.failure_threshold + 1):
        with pytest.raises(ExecutionFailed, match="boom"):
            await world.execute(w.through("HWFail", kind="value"))
    assert world.engine.healthy


async def test_the_threshold_is_upstreams_variable() -> None:
    """3 by default. A value that makes no sense stops the start, as every wrong value does here."""
    assert load_settings({}).engine.failure_threshold == 3
    assert load_settings({"BACKEND_FAILURE_THRESHOLD": "5"}).engine.failure_threshold == 5


async def test_a_backend_that_falls_silent_is_seen_by_its_jobs(fake: FakeComfyUI, tmp_path: Path) -> None:
    """End to end: calls break off, the engine is down with a reason, ComfyUI answers again, the engine is well."""
    async with engine_world(comfyui=fake, root=fake.folder, fetched=tmp_path) as world:
        fake.wrong.silent = True
        async with asyncio.timeout(60):
            while world.engine.healthy:
                with pytest.raises(ServiceError, match=r"broke the connection|takes no work"):
                    await world.run(w.picture())
        assert world.engine.down_reason
        fake.wrong.silent = False
        async with asyncio.timeout(60):
            await world.engine.wait_ready()
            assert (await world.run(w.picture())).outputs
