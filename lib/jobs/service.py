"""JobService: submit, wait, get, cancel, listen. All that a dialect ever calls."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

from lib.clock import Clock
from lib.errors import (
    Draining,
    EngineUnreachable,
    JobAlreadyFinished,
    JobCancelled,
    JobConflict,
    JobNotFound,
    ServiceError,
)
from lib.jobs.admission import Situation, decide
from lib.jobs.live import LiveJob
from lib.jobs.model import Job, JobSpec, JobStatus, OnDisconnect, Timings, new_job_id
from lib.jobs.pipeline import Pipeline
from lib.jobs.ports import CostModel, Delivery, JobListener, JobStore, LoadLedger
from lib.jobs.queue import SlotQueue
from lib.jobs.speed import SpeedGauge
from lib.lifecycle import Tasks
from lib.telemetry.logs import job_context

log = logging.getLogger(__name__)

REPLAY_S = 300.0
"""So long a completed job answers a router's retry (same tag, same body) instead of running again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLimits:
    """``in_flight`` in jobs, ``backlog_bytes`` of undelivered output."""

    in_flight: int
    backlog_bytes: int


class JobService:
    """Owns every accepted job until its terminal state. Handlers only wait on it.

    ``readiness`` answers ``None`` when jobs may come in, else the reason why not.
    """

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        queue: SlotQueue,
        store: JobStore,
        delivery: Delivery,
        cost_model: CostModel,
        ledger: LoadLedger,
        speed: SpeedGauge,
        clock: Clock,
        tasks: Tasks,
        limits: ServiceLimits,
        readiness: Callable[[], str | None],
    ) -> None:
        self._pipeline = pipeline
        self._queue = queue
        self._store = store
        self._delivery = delivery
        self._cost_model = cost_model
        self._ledger = ledger
        self._speed = speed
        self._clock = clock
        self._tasks = tasks
        self._limits = limits
        self._readiness = readiness
        self._live: dict[str, LiveJob] = {}
        self._by_request: dict[str, str] = {}
        self._by_tag: dict[tuple[int, str], str] = {}
        self._listeners: list[JobListener] = []
        self._sequence = count(1)
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self.load = 0.0
        """Workload of all jobs that are not finished."""

    # -- what dialects call ------------------------------------------------------------------------------------

    async def submit(self, spec: JobSpec) -> Job:
        """Accept a job, or attach to the same one that is live (or, by tag, lately completed).

        Raises: Overloaded, NotReady, Draining, JobConflict.
        """
        if (known := await self._known(spec)) is not None:
            return known
        if not spec.internal:
            decide(self._situation(), max_wait_s=spec.max_wait_s)
        job = await self._new_job(spec)
        live = LiveJob(job, self._publish)
        self._live[job.job_id] = live
        self._by_request[spec.request_id] = job.job_id
        self._idle.clear()
        self.load += job.cost
        self._pipeline.accept(job)
        await self._store.add(job)
        if not spec.internal:
            self._ledger.received(job)
        live.task = self._tasks.spawn(self._work(live), name=f"job:{job.job_id}")
        self._publish(job)
        if spec.tag:
            self._by_tag[spec.tag, spec.body_hash] = job.job_id
        return live.job

    async def wait(self, job_id: str) -> Job:
        """Return the terminal snapshot. Whoever leaves early (cancelled) as the last one leaves the job to its
        ``on_disconnect``. Raises: JobNotFound."""
        live = self._live.get(job_id)
        if live is None:
            return await self._replay(await self.get(job_id))
        live.waiter_count += 1
        if live.grace is not None:
            live.grace.cancel()
            live.grace = None
        try:
            return await asyncio.shield(live.done)
        finally:
            live.waiter_count -= 1
            if live.waiter_count == 0 and not live.done.done():
                self._abandoned(live)

    async def get(self, job_id: str) -> Job:
        """Return the newest snapshot. Raises: JobNotFound."""
        if (live := self._live.get(job_id)) is not None:
            return live.job
        if (job := await self._store.get(job_id)) is None:
            raise JobNotFound("No such job; results are kept for a limited time.")
        return job

    async def latest(self, request_id: str) -> Job:
        """Return the newest run of a request id. Raises: JobNotFound."""
        if (live := self._live.get(self._by_request.get(request_id, ""))) is not None:
            return live.job
        if (job := await self._store.latest(request_id)) is None:
            raise JobNotFound("No such request; results are kept for a limited time.")
        return job

    async def cancel(self, job_id: str, *, reason: str) -> Job:
        """Cancel a live job and return once it is off the GPU. Raises: JobNotFound, JobAlreadyFinished."""
        live = self._live.get(job_id)
        if live is None:
            job = await self.get(job_id)
            raise JobAlreadyFinished(f"The job is already {job.status}", details={"status": str(job.status)})
        self._cancel(live, JobCancelled(reason))
        return await asyncio.shield(live.done)

    def listen(self, listener: JobListener) -> None:
        """Have ``listener`` called with each new snapshot of any job."""
        self._listeners.append(listener)

    # -- what the assembly calls -------------------------------------------------------------------------------

    @property
    def in_flight_count(self) -> int:
        return len(self._live)

    @property
    def live_jobs(self) -> list[Job]:
        """Snapshots of all jobs that are not finished, in the order of acceptance."""
        return [live.job for live in self._live.values()]

    def predicted_wait_s(self) -> float | None:
        """Seconds that a job accepted now would wait before it starts; ``None`` when the speed is unknown."""
        if self._speed.seconds_per_unit is None:
            return None
        ahead_s = self._speed.expected_s(self._pipeline.executing_cost) - self._queue.elapsed_s()
        return max(ahead_s, 0.0) / self._queue.serving_count

    async def drain(self, timeout_s: float) -> None:
        """Admit nothing more, wait for what is there, then end the rest: our failure, so that callers go elsewhere."""
        self._draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            for live in list(self._live.values()):
                self._cancel(
                    live, Draining("The worker is shutting down; send the request to another one.", retry_after_s=5)
                )
            await self._idle.wait()

    def engines_lost(self, reason: str) -> None:
        """No engine came back in time: fail every job that waits for one."""
        self._queue.fail_waiting(EngineUnreachable(f"No ComfyUI to run the job: {reason}", retry_after_s=30))

    # -- inside ------------------------------------------------------------------------------------------------

    async def _known(self, spec: JobSpec) -> Job | None:
        """The job that this request repeats, if there is one. A job that is being cancelled is waited for and not
        attached to: a caller who left and came back wants the work, not the end of the earlier attempt."""
        while (live := self._repeated(spec)) is not None:
            if not live.ending:
                return live.job
            await asyncio.shield(live.done)
        if not spec.tag or (job_id := self._by_tag.get((spec.tag, spec.body_hash))) is None:
            return None
        job = await self._store.get(job_id)
        return job if job is not None and job.status is JobStatus.COMPLETED else None

    def _repeated(self, spec: JobSpec) -> LiveJob | None:
        if (live := self._live.get(self._by_request.get(spec.request_id, ""))) is not None:
            if live.job.spec.body_hash != spec.body_hash:
                raise JobConflict(
                    "This request_id is in use by a job that is not finished, with another body; choose another id.",
                    details={"request_id": spec.request_id, "status": str(live.job.status)},
                )
            return live
        return self._live.get(self._by_tag.get((spec.tag, spec.body_hash), "")) if spec.tag else None

    async def _new_job(self, spec: JobSpec) -> Job:
        previous = await self._store.latest(spec.request_id)
        return Job(
            job_id=new_job_id(),
            spec=spec,
            sequence=next(self._sequence),
            cost=self._cost_model.cost(spec.cost, spec.workflow),
            timings=Timings(accepted_at=self._clock.now()),
            run=1 if previous is None else previous.run + 1,
        )

    def _situation(self) -> Situation:
        reason = self._readiness()
        return Situation(
            ready=reason is None,
            not_ready_reason=reason or "",
            draining=self._draining,
            in_flight_count=len(self._live),
            in_flight_limit=self._limits.in_flight,
            executing_count=self._pipeline.executing_count,
            engine_count=self._queue.serving_count,
            wait_s=self.predicted_wait_s(),
            backlog_bytes=self._pipeline.backlog_bytes,
            backlog_limit_bytes=self._limits.backlog_bytes,
        )

    async def _work(self, live: LiveJob) -> None:
        live.begun = True
        try:
            with job_context(live.job.job_id):
                await self._pipeline.run(live)
        except asyncio.CancelledError:
            await self._finish(live, _outcome(live.cancel_error), live.cancel_error)
            raise
        except ServiceError as error:
            await self._finish(live, _outcome(error), error)
        except Exception:
            log.exception("job failed by a defect of ours", extra={"event": "job.defect"})
            await self._finish(live, JobStatus.FAILED, ServiceError("The worker failed; its log has the trace."))
        else:
            await self._finish(live, JobStatus.COMPLETED, None)

    async def _finish(self, live: LiveJob, status: JobStatus, error: ServiceError | None) -> None:
        message = "Processing complete." if error is None else error.message
        timings = replace(live.job.timings, finished_at=self._clock.now())
        job = live.advance(status, error=error, message=message, timings=timings)
        await self._store.finish(_slim(job))
        del self._live[job.job_id]
        self.load = self.load - job.cost if self._live else 0.0
        if self._by_request.get(job.spec.request_id) == job.job_id:
            del self._by_request[job.spec.request_id]
        if not job.spec.internal:
            self._ledger.finished(job)
        self._forget_tag_later(job)
        live.done.set_result(job)
        if not self._live:
            self._idle.set()

    def _forget_tag_later(self, job: Job) -> None:
        if job.spec.tag:
            key = (job.spec.tag, job.spec.body_hash)
            keep_s = REPLAY_S if job.status is JobStatus.COMPLETED else 0.0
            asyncio.get_running_loop().call_later(keep_s, self._forget_tag, key, job.job_id)  # ids: no job stays alive

    def _forget_tag(self, key: tuple[int, str], job_id: str) -> None:
        if self._by_tag.get(key) == job_id:
            del self._by_tag[key]

    async def _replay(self, job: Job) -> Job:
        """Put back what the store does not keep: inlined files are read again from disk."""
        if job.status is not JobStatus.COMPLETED or not job.spec.delivery.inline_base64:
            return job
        inline_only = replace(job.spec, delivery=replace(job.spec.delivery, s3=None))
        again = await self._delivery.deliver(job.with_(spec=inline_only), job.outputs)
        return job.with_(outputs=again)

    def _abandoned(self, live: LiveJob) -> None:
        spec = live.job.spec
        if spec.on_disconnect is OnDisconnect.KEEP:
            return
        error = JobCancelled("Request cancelled due to client disconnection")
        if spec.disconnect_grace_s <= 0:
            self._cancel(live, error)
            return
        loop = asyncio.get_running_loop()
        live.grace = loop.call_later(spec.disconnect_grace_s, self._cancel, live, error)

    @staticmethod
    def _cancel(live: LiveJob, error: ServiceError) -> None:
        if live.task is None or live.done.done():
            return
        if not live.ending:
            live.cancel_error, live.ending = error, True
        if live.begun:
            live.task.cancel()
        else:  # a task that is cancelled before its first step would never run, and never record the outcome
            live.cancel_early = True

    def _publish(self, job: Job) -> None:
        for listener in self._listeners:
            listener(job)


def _outcome(error: ServiceError) -> JobStatus:
    return JobStatus.CANCELLED if isinstance(error, JobCancelled) else JobStatus.FAILED


def _slim(job: Job) -> Job:
    """What is worth remembering: no workflow bytes, no inlined files (those are on disk)."""
    outputs = tuple(replace(output, data_base64=None) for output in job.outputs)
    return job.with_(spec=replace(job.spec, workflow=b""), outputs=outputs)
