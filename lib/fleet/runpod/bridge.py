"""One job of RunPod's queue, as a job of ours: from what the platform hands out to what its handler returns."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import orjson

from lib.clock import Clock
from lib.errors import EngineUnreachable, NotReady, Overloaded, ServiceError, StorageFailed
from lib.jobs.model import Job, JobSpec, OnDisconnect
from lib.jobs.service import JobService
from lib.lifecycle import Tasks

log = logging.getLogger(__name__)
Answer = dict[str, Any]
"""What a RunPod handler returns: the output, or ``{"error": text, "details": [...]}``."""
Tell = Callable[[Mapping[str, Any]], Awaitable[None]]
MOST_PAUSE_S = 5.0
"""A job that waits to be taken is offered again so often; a worker that is shut down refuses it then."""
FORWARDED = ("id", "input", "s3Config", "policy")
"""What of RunPod's job counts here. Its webhook does not: RunPod calls it, with the result that it has."""


class Payload(Protocol):
    """The RunPod dialect's words for jobs."""

    def read(self, job: Mapping[str, Any]) -> JobSpec:
        """Return what is asked for (keys of ``job``: ``id``, ``input``; perhaps ``s3Config``, ``policy``).
        Raises: ServiceError."""
        ...

    def progress(self, job: Job) -> Mapping[str, Any] | None:
        """Return ``{"type": "progress", "value", "max", "percent", "node"}``; ``None`` while there is none."""
        ...

    def answer(self, job: Job) -> Answer:
        """Return the output of a job that is over, or its error."""
        ...

    def refusal(self, error: ServiceError) -> Answer:
        """Return an error that is no job's."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeLimits:
    """A job waits ``patience_s`` seconds for a worker that can't take it now; ``interval_s`` passes between two pieces
    of its progress; RunPod refuses answers over ``result_bytes``."""

    patience_s: float
    interval_s: float
    result_bytes: int


class Bridge:
    """Runs jobs of RunPod's queue. ``ready`` is set while jobs are admitted; ``broken`` tells that the worker is in
    trouble: a job that found no ComfyUI in all its patience asks for a new worker then."""

    def __init__(
        self,
        *,
        jobs: JobService,
        payload: Payload,
        limits: BridgeLimits,
        ready: asyncio.Event,
        broken: Callable[[], bool],
        clock: Clock,
        tasks: Tasks,
    ) -> None:
        self._jobs = jobs
        self._payload = payload
        self._limits = limits
        self._ready = ready
        self._broken = broken
        self._clock = clock
        self._tasks = tasks

    async def run(self, job: Mapping[str, Any], tell: Tell) -> Answer:
        """Do one job and return its answer. Who leaves here (cancelled) cancels the job, which is taken off the GPU."""
        error: ServiceError | None
        try:
            over = await self._over(await self._accepted(self._spec(job)), tell)
            answer, error = self._payload.answer(over), over.error
        except ServiceError as refused:
            answer, error = self._payload.refusal(refused), refused
        answer = await asyncio.to_thread(self._deliverable, answer)
        if "error" in answer:
            facts = {"event": "runpod.failed", "request_id": str(job["id"]), "cause": answer["error"]}
            log.warning("a job of RunPod's failed", extra=facts)
        if isinstance(error, EngineUnreachable | NotReady) and self._broken():
            answer["refresh_worker"] = True
        return answer

    def _spec(self, job: Mapping[str, Any]) -> JobSpec:
        """RunPod keeps the job: when this worker goes it is not ours to take up again."""
        spec = self._payload.read({name: job[name] for name in FORWARDED if name in job})
        spec = replace(spec, on_disconnect=OnDisconnect.CANCEL, disconnect_grace_s=0.0, repeatable=False)
        return replace(spec, max_wait_s=None, ttl_s=None)

    async def _accepted(self, spec: JobSpec) -> Job:
        """RunPod has handed the job out already, so what would come again later waits here. Raises: ServiceError."""
        until = self._clock.monotonic() + self._limits.patience_s
        while True:
            try:
                return await self._jobs.submit(spec)
            except (NotReady, Overloaded) as error:
                left_s = until - self._clock.monotonic()
                if left_s <= 0:
                    raise
                await self._pause(error, left_s)

    async def _pause(self, error: ServiceError, most_s: float) -> None:
        pause_s = min(error.retry_after_s or 1.0, MOST_PAUSE_S, most_s)
        if self._ready.is_set():
            await self._clock.sleep(pause_s)
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ready.wait(), pause_s)

    async def _over(self, job: Job, tell: Tell) -> Job:
        news = self._tasks.spawn(self._follow(job.job_id, tell), name=f"runpod progress:{job.job_id}")
        try:
            return await self._jobs.wait(job.job_id)
        finally:
            news.cancel()

    async def _follow(self, job_id: str, tell: Tell) -> None:
        """Tell each news once, the newest when there were several, and none while one is on its way."""
        told: Mapping[str, Any] | None = None
        async with contextlib.aclosing(self._jobs.watch(job_id)) as views:
            async for view in views:
                if view.job.status.terminal:
                    return
                news = self._payload.progress(view.job)
                if news is not None and news != told:
                    await tell(news)
                    told = news
                    await self._clock.sleep(self._limits.interval_s)

    def _deliverable(self, answer: Answer) -> Answer:
        """An answer over RunPod's limit would be refused, and with it everything lost but a line in the log."""
        size, most = len(orjson.dumps(answer)), self._limits.result_bytes
        if size <= most:
            return answer
        text = (
            f"The result has {size} bytes, and RunPod takes {most} at most. Have files stored instead: set "
            "BUCKET_ENDPOINT_URL, BUCKET_ACCESS_KEY_ID and BUCKET_SECRET_ACCESS_KEY for the endpoint, or send s3Config "
            "with the request."
        )
        return self._payload.refusal(StorageFailed(text))
