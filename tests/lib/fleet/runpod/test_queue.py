"""The worker's side of queue mode, with a stand-in for the SDK's process."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lib.fleet.runpod.queue import RunPodQueue
from lib.lifecycle import Tasks

FAKE = (sys.executable, "-m", "tests.fakes.runpod_sdk")


class World:
    """A queue whose jobs tell of progress once, and then answer with what they were given."""

    def __init__(self, folder: Path) -> None:
        self.tasks = Tasks()
        self.file = folder / "result.json"
        self.ended = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.done = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None

    def queue(self, mode: str, *, refresh: bool = False) -> RunPodQueue:
        return RunPodQueue(
            run=self.run,
            tasks=self.tasks,
            environment={**os.environ, "RESULT_FILE": str(self.file)},
            concurrency=2,
            refresh=refresh,
            on_end=self.ended.set,
            command=(*FAKE, mode),
        )

    async def run(self, job: Mapping[str, Any], tell: Any) -> dict[str, Any]:
        try:
            await tell({"percent": 5})
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        self.done.set()
        if self.failure is not None:
            raise self.failure
        return {"seen": job}

    @property
    def recorded(self) -> dict[str, Any]:
        return dict(json.loads(self.file.read_text()))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    await world.tasks.cancel()


async def soon(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, 120)


async def test_a_result_is_posted_before_the_end(world: World) -> None:
    """The worker's end waits for what is on its way, and leaves no process."""
    async with world.queue("jobs") as queue:
        queue.follow(ready=False, trouble="")
        queue.follow(ready=True, trouble="")
        await soon(world.done.wait())
    assert world.recorded["result"]["seen"]["id"] == "a"
    assert world.recorded["rooms"][:2] == [0, 2]
    assert world.tasks.failure is None


async def test_one_at_a_time_where_the_worker_is_refreshed(world: World) -> None:
    """A second job would be lost with the worker, which ends once the result is posted; the SDK is told of the mode."""
    async with world.queue("jobs", refresh=True) as queue:
        queue.follow(ready=True, trouble="")
        await soon(world.ended.wait())
    assert world.recorded["result"]["seen"]["input"] == {"arguments": ["--refresh"]}
    assert world.recorded["rooms"][0] == 1


async def test_a_stop_cancels_the_job(world: World) -> None:
    """And nothing is waited for afterwards; a worker that is refreshed after each job has not done one."""
    async with world.queue("stop", refresh=True) as queue:
        queue.follow(ready=True, trouble="")
        await soon(world.cancelled.wait())
    assert not world.file.exists()
    assert not world.ended.is_set()


async def test_a_defect_of_ours_is_an_error_of_the_job(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """It does not hang until RunPod gives it up; the log has the trace."""
    world.failure = ValueError("a defect")
    async with world.queue("jobs") as queue:
        queue.follow(ready=True, trouble="")
        await soon(world.done.wait())
    assert "its log has the trace" in world.recorded["result"]["error"]
    assert "a defect" in caplog.text


async def test_trouble_before_the_first_job_is_unfit(world: World) -> None:
    """The SDK reports it; later trouble only keeps jobs away."""
    async with world.queue("jobs") as queue:
        queue.follow(ready=False, trouble="no ComfyUI")
        await soon(world.tasks.failed.wait())
    assert world.recorded == {"unfit": "no ComfyUI"}
    assert "status 1: no ComfyUI" in str(world.tasks.failure)


async def test_an_end_that_is_asked_for_ends_the_worker_well(world: World) -> None:
    """Status 0 is how the SDK has a worker refreshed; any other is a failure of the worker."""
    async with world.queue("0") as queue:
        queue.follow(ready=True, trouble="")
        await soon(world.ended.wait())
    assert world.tasks.failure is None
    async with world.queue("3") as queue:
        queue.follow(ready=True, trouble="")
        await soon(world.tasks.failed.wait())
    assert "status 3" in str(world.tasks.failure)
