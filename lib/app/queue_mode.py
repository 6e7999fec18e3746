"""Inside RunPod: the jobs of its queue, and the one job of ``--test_input``."""

import asyncio
import importlib.util
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import orjson

from lib.app.condition import Condition
from lib.clock import Clock
from lib.dialects.runpod import render
from lib.dialects.runpod.translate import RunPodPayload
from lib.errors import JobCancelled, ServiceError
from lib.fleet.runpod.bridge import Answer, Bridge, BridgeLimits
from lib.fleet.runpod.queue import RunPodQueue
from lib.jobs.model import Job, JobSpec
from lib.jobs.service import JobService
from lib.lifecycle import Tasks
from lib.settings import RunPodSettings, Settings, child_environment

SDK = "runpod"
LOCAL_TEST = "local_test"


class QueuePayload:
    """Implements ``lib.fleet.runpod.bridge.Payload`` with the RunPod dialect."""

    def __init__(self, payload: RunPodPayload) -> None:
        self._payload = payload

    def read(self, job: Mapping[str, Any]) -> JobSpec:
        asked = self._payload.read(job, request_id=str(job["id"]))
        if asked.refused is not None:
            raise asked.refused
        return asked.spec

    def progress(self, job: Job) -> Mapping[str, Any] | None:
        return render.progress(job)

    def answer(self, job: Job) -> Answer:
        shown = self._payload.render(job)
        if "error" in shown:
            return {**shown.get("output", {}), "error": shown["error"]}
        if "output" in shown:
            return dict(shown["output"])
        return self.refusal(job.error or JobCancelled(job.message))

    def refusal(self, error: ServiceError) -> Answer:
        facts = {"details": [error.message], "code": error.code, "retryable": error.retryable}
        return {**facts, "error": error.message}


def build_bridge(
    settings: Settings, *, jobs: JobService, payload: RunPodPayload, condition: Condition, tasks: Tasks, clock: Clock
) -> Bridge:
    """Return what runs jobs in the form of RunPod's queue."""
    return Bridge(
        jobs=jobs,
        payload=QueuePayload(payload),
        limits=BridgeLimits(
            patience_s=settings.engine.startup_timeout_s,
            interval_s=settings.runpod.stream_interval_s,
            result_bytes=settings.runpod.max_result_bytes,
        ),
        ready=condition.ready,
        broken=lambda: bool(condition.error) and not condition.draining,
        clock=clock,
        tasks=tasks,
    )


async def enter_queue_mode(
    settings: Settings,
    *,
    bridge: Bridge,
    condition: Condition,
    stack: AsyncExitStack,
    tasks: Tasks,
    stop: Callable[[], None],
) -> None:
    """Take jobs from RunPod's queue from the moment on when the worker is ready; ``stop`` ends the worker.

    Raises: ServiceError when RunPod's SDK is not installed."""
    if importlib.util.find_spec(SDK) is None:
        raise ServiceError(
            "RUNPOD_WEBHOOK_GET_JOB is set, and RunPod's SDK is not installed. Install it: "
            f"{sys.executable} -m pip install -r requirements-runpod.txt"
        )
    runpod = settings.runpod
    queue = RunPodQueue(
        run=bridge.run,
        tasks=tasks,
        environment=_environment(runpod),
        concurrency=runpod.concurrency,
        refresh=runpod.refresh_worker,
        on_end=stop,
    )
    await stack.enter_async_context(queue)

    def follow() -> None:
        if condition.draining:
            queue.drain()
        else:
            queue.follow(ready=condition.reason is None, trouble=condition.error)

    condition.listen(follow)
    follow()


async def run_test_job(job: Mapping[str, Any], *, bridge: Bridge, say: Callable[[bytes], object]) -> int:
    """Do one job, say its result as JSON as RunPod's SDK has it (``output``, ``error``), and return the exit status."""
    answer = await bridge.run({"id": LOCAL_TEST, **job}, _nowhere)
    answer.pop("refresh_worker", None)
    error = answer.pop("error", None)
    shown = {"output": answer} if error is None else {"error": error, "output": answer}
    await asyncio.to_thread(say, orjson.dumps(shown, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return 0 if error is None else 1


async def _nowhere(news: Mapping[str, Any]) -> None:
    """Nobody asks how far the one job of a test is."""


def _environment(runpod: RunPodSettings) -> dict[str, str]:
    """The SDK needs the key to RunPod's queue, and none of the worker's other secrets."""
    key = {} if runpod.job_key is None else {"RUNPOD_AI_API_KEY": runpod.job_key.get_secret_value()}
    return child_environment(key | {"RUNPOD_LOG_LEVEL": runpod.sdk_log_level})
