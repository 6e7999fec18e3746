"""RunPod's eleven counters."""

import asyncio

from lib.dialects.runpod.counts import WorkerState
from lib.errors import ExecutionFailed
from lib.jobs.model import OnDisconnect
from tests.fakes.clock import settle
from tests.fakes.jobs import spec

from .conftest import REQUEST, V2, World

NO_JOBS = {"completed": 0, "failed": 0, "inProgress": 0, "inQueue": 0, "retried": 0}
NO_WORKERS = {"idle": 0, "initializing": 0, "ready": 0, "running": 0, "throttled": 0, "unhealthy": 0}


async def test_what_the_worker_does(world: World) -> None:
    """Exactly one word for it; one that is idle is ready."""
    assert await world.get(f"{V2}/health") == {"jobs": NO_JOBS, "workers": {**NO_WORKERS, "idle": 1, "ready": 1}}
    world.state = WorkerState.STARTING
    assert (await world.get(f"{V2}/health"))["workers"] == {**NO_WORKERS, "initializing": 1}
    world.state = WorkerState.UNHEALTHY
    assert (await world.get(f"{V2}/health"))["workers"] == {**NO_WORKERS, "unhealthy": 1}


async def test_what_becomes_of_jobs(slow: World) -> None:
    """Counted once each, whichever API they came by; those that are being stopped are neither here nor there."""
    slow.engine.left_files = False
    first = await slow.post("/run", REQUEST)
    await slow.post("/run", REQUEST)
    await slow.service.submit(spec("other", on_disconnect=OnDisconnect.KEEP))
    await slow.running()
    busy = await slow.get(f"{V2}/health")
    assert busy["jobs"] == {**NO_JOBS, "inProgress": 1, "inQueue": 2}
    assert busy["workers"] == {**NO_WORKERS, "running": 1}
    slow.engine.finish(ExecutionFailed("no"))
    while slow.counts.health()["jobs"]["failed"] == 0:
        await settle()
    await slow.post(f"{V2}/retry/{first['id']}")
    for _ in range(3):
        await slow.running()
        slow.engine.finish()
        await settle(100)
    await slow.idle()
    assert (await slow.get(f"{V2}/health"))["jobs"] == {**NO_JOBS, "completed": 3, "failed": 1, "retried": 1}


async def test_a_job_that_is_being_stopped(slow: World) -> None:
    """It holds the GPU still, and is not counted any more."""
    job = await slow.post("/run", REQUEST)
    await slow.running()
    slow.engine.removal = asyncio.Event()
    await slow.post(f"{V2}/cancel/{job['id']}")
    assert (await slow.get(f"{V2}/health"))["jobs"] == NO_JOBS
    slow.engine.removal.set()
    await slow.idle()


async def test_our_own_benchmark_is_not_counted(world: World) -> None:
    """It is nobody's job."""
    job = await world.service.submit(spec("benchmark", internal=True, on_disconnect=OnDisconnect.KEEP))
    await world.service.wait(job.job_id)
    assert (await world.get(f"{V2}/health"))["jobs"] == NO_JOBS
