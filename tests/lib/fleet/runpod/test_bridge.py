"""A job of RunPod's queue as a job of ours."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from lib.errors import EngineUnreachable, ExecutionFailed, InvalidRequest, ServiceError
from lib.fleet.runpod.bridge import Bridge, BridgeLimits
from lib.jobs.model import Job, JobSpec, JobStatus, OnDisconnect, Progress
from tests.fakes.clock import settle
from tests.fakes.jobs import JobWorld, build_jobs, spec


class PlainPayload:
    """Implements ``lib.fleet.runpod.bridge.Payload`` in the plainest way; ``seen`` is what it was given to read."""

    def __init__(self) -> None:
        self.seen: list[Mapping[str, Any]] = []

    def read(self, job: Mapping[str, Any]) -> JobSpec:
        self.seen.append(job)
        if job["input"] is None:
            raise InvalidRequest("Please provide input")
        return spec(job["id"], on_disconnect=OnDisconnect.KEEP, max_wait_s=1.0, ttl_s=5.0, repeatable=True)

    def progress(self, job: Job) -> Mapping[str, Any] | None:
        return {"percent": job.progress.percent} if job.status is JobStatus.RUNNING else None

    def answer(self, job: Job) -> dict[str, Any]:
        if job.error is not None:
            return self.refusal(job.error)
        return {"images": [output.filename for output in job.outputs], "long": "x" * 100}

    def refusal(self, error: ServiceError) -> dict[str, Any]:
        return {"error": error.message}


class BridgeWorld:
    """A bridge over a job service, and what it told of progress."""

    def __init__(self, *, result_bytes: int = 10_000, interval_s: float = 0.0) -> None:
        self.jobs: JobWorld = build_jobs()
        self.payload = PlainPayload()
        self.ready = asyncio.Event()
        self.ready.set()
        self.broken = False
        self.told: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.bridge = Bridge(
            jobs=self.jobs.service,
            payload=self.payload,
            limits=BridgeLimits(patience_s=60.0, interval_s=interval_s, result_bytes=result_bytes),
            ready=self.ready,
            broken=lambda: self.broken,
            clock=self.jobs.clock,
            tasks=self.jobs.tasks,
        )

    def start(self, job: Mapping[str, Any]) -> "asyncio.Task[dict[str, Any]]":
        return self.jobs.tasks.spawn(self.bridge.run(job, self.tell), name="job")

    async def tell(self, news: Mapping[str, Any]) -> None:
        self.told.append(news)
        await self.gate.wait()

    @property
    def job(self) -> Job:
        (job,) = self.jobs.service.live_jobs
        return job

    def progressed(self, percent: float) -> None:
        (running,) = (entry for entry in self.jobs.engine.posted if entry.running)
        running.observer.progressed(Progress(percent=percent))


JOB = {"id": "abc-u1", "input": {"workflow": {}}, "webhook": "https://caller.example", "batchId": "b", "policy": {}}


async def test_the_answer_is_what_the_handler_returns() -> None:
    """The job runs under RunPod's id; the webhook stays RunPod's; nothing of the job survives this worker."""
    world = BridgeWorld()
    running = world.start(JOB)
    await settle()
    assert world.payload.seen == [{"id": "abc-u1", "input": {"workflow": {}}, "policy": {}}]
    made = world.job.spec
    assert (made.request_id, made.on_disconnect, made.repeatable) == ("abc-u1", OnDisconnect.CANCEL, False)
    assert (made.max_wait_s, made.ttl_s) == (None, None)
    world.jobs.engine.finish()
    assert (await running)["images"] == ["a.png"]


async def test_a_refused_input_is_an_error_at_once() -> None:
    """With the dialect's text, and without a job."""
    world = BridgeWorld()
    assert await world.start({"id": "a", "input": None}) == {"error": "Please provide input"}
    assert world.jobs.service.live_jobs == []


async def test_a_failed_job_is_an_error() -> None:
    """It asks for a new worker only when it found no ComfyUI, and the worker knows of none either."""
    lost, failed = EngineUnreachable("no ComfyUI"), ExecutionFailed("KSampler: no")
    for error, broken, more in (
        (failed, False, {}),
        (failed, True, {}),
        (lost, False, {}),
        (lost, True, {"refresh_worker": True}),
    ):
        world = BridgeWorld()
        world.broken = broken
        running = world.start(JOB)
        await settle()
        world.jobs.engine.finish(error)
        if error is lost:  # it waits for an engine
            world.jobs.engine.healthy = False
            await settle()
            world.jobs.service.engines_lost("gone")
        assert set(await running) == {"error", *more}
        await world.jobs.tasks.cancel()


async def test_a_stopped_job_leaves_the_gpu() -> None:
    """RunPod's stop cancels who waits here, and that cancels the job."""
    world = BridgeWorld()
    running = world.start(JOB)
    await settle()
    job_id = world.job.job_id
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await settle()
    assert len(world.jobs.engine.cancelled) == 1
    assert (await world.jobs.service.get(job_id)).status is JobStatus.CANCELLED


async def test_a_job_waits_for_a_worker_that_is_not_ready() -> None:
    """RunPod handed it out already, so it is not refused; it starts when the worker is ready."""
    world = BridgeWorld()
    world.ready.clear()
    world.jobs.blocked.append("ComfyUI is down")
    running = world.start(JOB)
    await settle()
    assert world.jobs.service.live_jobs == []
    world.jobs.blocked.clear()
    world.ready.set()
    await settle()
    world.jobs.engine.finish()
    assert (await running)["images"] == ["a.png"]


async def test_patience_ends() -> None:
    """A queue that stays full for long fails the job with the reason."""
    world = BridgeWorld()
    world.jobs.blocked.append("no room")
    running = world.start(JOB)
    await world.jobs.clock.advance(59)
    assert not running.done()
    await world.jobs.clock.advance(3)
    assert "no room" in (await running)["error"]


async def test_progress_is_told_in_order_and_one_at_a_time() -> None:
    """What is news while one is on its way is told as the newest only; the end waits for no pause."""
    world = BridgeWorld(interval_s=1.0)
    running = world.start(JOB)
    await settle()
    assert world.told == [{"percent": 0.0}]
    await world.jobs.clock.advance(1)
    world.gate.clear()
    world.progressed(10)
    await settle()
    world.progressed(20)
    world.progressed(30)
    await settle()
    assert world.told[1:] == [{"percent": 10}]
    world.gate.set()
    await world.jobs.clock.advance(1)
    assert world.told[2:] == [{"percent": 30}]
    world.progressed(40)
    world.jobs.engine.finish()
    await running
    assert len(world.told) == 3


async def test_an_answer_that_runpod_would_refuse_is_an_error() -> None:
    """It says how large it is and what to set; the answer itself would be lost without a word."""
    world = BridgeWorld(result_bytes=100)
    running = world.start(JOB)
    await settle()
    world.jobs.engine.finish()
    error = (await running)["error"]
    assert "100 at most" in error
    assert "BUCKET_ENDPOINT_URL" in error


async def test_a_drain_ends_in_an_error() -> None:
    """A job that did not end in time says that it was the worker; it is nobody's to take up again."""
    world = BridgeWorld()
    running = world.start(JOB)
    await settle()
    await world.jobs.service.drain(0.01)
    assert "shut" in (await running)["error"]
