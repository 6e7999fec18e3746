"""One job through prepare, execute, collect, deliver.

Prepare and deliver run beside the engines in pools of their own; only execute holds a slot. Raises what went wrong;
the service makes it an outcome.
"""

import asyncio
import logging
from dataclasses import dataclass, replace

import orjson

from lib.clock import Clock
from lib.errors import EngineDied, EngineUnreachable
from lib.jobs.live import LiveJob
from lib.jobs.model import Job, JobStatus, Preview, Progress, Stage, prompt_id_of
from lib.jobs.ports import Delivery, Execution, Prepared, Preparer, Withdrawn
from lib.jobs.queue import Lease, SlotQueue
from lib.jobs.speed import SpeedGauge

log = logging.getLogger(__name__)

MAX_LOSSES = 1
"""A job whose prompt ran when its engine died is resubmitted so many times, then failed with the cause."""
MAX_REFUSALS = 3
"""An engine that says it is healthy and can't be reached is believed so many times for one job."""

BIG_WORKFLOW_BYTES = 256 * 1024
"""Workflows above this (inputs inside) are decoded in a thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineLimits:
    """Pool sizes in jobs; ``timeout_s`` bounds one execution."""

    prepare_workers: int
    deliver_workers: int
    timeout_s: float | None = None


class Pipeline:
    """Moves jobs. ``backlog_bytes`` is the size of outputs that are collected and not delivered."""

    def __init__(
        self,
        *,
        queue: SlotQueue,
        preparer: Preparer,
        delivery: Delivery,
        speed: SpeedGauge,
        clock: Clock,
        limits: PipelineLimits,
    ) -> None:
        self._queue = queue
        self._preparer = preparer
        self._delivery = delivery
        self._speed = speed
        self._clock = clock
        self._limits = limits
        self._prepared_seats = asyncio.Semaphore(limits.prepare_workers + queue.slot_count)
        self._deliver_seats = asyncio.Semaphore(limits.deliver_workers)
        self._foreign_seats = asyncio.Semaphore(limits.deliver_workers)
        """Uploads to places that callers name have seats of their own: one that hangs holds up its like only."""
        self.backlog_bytes = 0
        self.executing_count = 0
        self.executing_cost = 0.0
        """Jobs that are accepted and have not left the engines yet, and their workload."""

    def accept(self, job: Job) -> None:
        """Count a job from its acceptance on: those that come at the same moment must find each other here."""
        self.executing_count += 1
        self.executing_cost += job.cost

    async def run(self, live: LiveJob) -> Job:
        """Work on an accepted job until its outputs are delivered; return its last snapshot, not yet terminal."""
        try:
            if live.cancel_early:
                raise asyncio.CancelledError
            execution = await self._to_outputs(live)
        finally:
            self.executing_count -= 1
            self.executing_cost -= live.job.cost
        if not live.job.spec.internal:
            self._speed.served(live.job.cost, execution.execute_s)
        return await self._deliver(live)

    async def _to_outputs(self, live: LiveJob) -> Execution:
        async with self._prepared_seats:
            prepared = await self._prepare(live)
            begun = self._clock.monotonic()
            lease = await self._turn(live)
        live.change(timings=replace(live.job.timings, wait_s=self._clock.monotonic() - begun))
        return await self._execute(live, prepared, lease)

    async def _prepare(self, live: LiveJob) -> Prepared:
        begun = self._clock.monotonic()
        body = live.job.spec.workflow
        big = len(body) >= BIG_WORKFLOW_BYTES
        workflow = await asyncio.to_thread(orjson.loads, body) if big else orjson.loads(body)
        prepared = await self._preparer.prepare(live.job, workflow)
        live.change(
            timings=replace(live.job.timings, prepare_s=self._clock.monotonic() - begun),
            inputs=prepared.fetched_inputs,
            warnings=live.job.warnings + prepared.warnings,
            stage=Stage.EXECUTE,
            message="Waiting for a GPU",
        )
        return prepared

    async def _turn(self, live: LiveJob) -> Lease:
        job = live.job
        return await self._queue.acquire(
            job.sequence, expected_s=self._speed.expected_s(job.cost), engine=job.spec.engine
        )

    async def _execute(self, live: LiveJob, prepared: Prepared, lease: Lease) -> Execution:
        losses = refusals = 0
        while True:
            try:
                execution = await self._once(live, prepared, lease)
                await self._collect(live, lease, execution)
                return execution
            except Withdrawn:
                log.debug("prompt moved to an idle engine", extra={"event": "job.moved"})
            except EngineDied as error:
                losses += error.started
                if losses > MAX_LOSSES:
                    raise
                self._requeue(live, error.message)
            except EngineUnreachable as error:
                refusals += 1
                if refusals >= MAX_REFUSALS:
                    raise
                self._requeue(live, error.message)
            lease = await self._turn(live)

    async def _once(self, live: LiveJob, prepared: Prepared, lease: Lease) -> Execution:
        live.change(engine=lease.engine.name, posts=live.job.posts + 1)
        try:
            return await lease.engine.execute(
                live.job,
                prepared,
                observer=_Observer(live, lease, self._queue, self._clock),
                withdraw=lease.withdraw,
                timeout_s=live.job.spec.timeout_s or self._limits.timeout_s,
                prompt_id=prompt_id_of(live.job.job_id, live.job.posts),
            )
        finally:
            self._queue.release(lease)

    async def _collect(self, live: LiveJob, lease: Lease, execution: Execution) -> None:
        live.change(stage=Stage.COLLECT, message="Collecting outputs")
        begun = self._clock.monotonic()
        try:
            collected = await lease.engine.collect(live.job, execution)
        except EngineUnreachable as error:  # it ended between the prompt's end and our look at its history
            raise EngineDied(error.message, started=True, details=error.details) from error
        collect_s = self._clock.monotonic() - begun
        live.change(
            timings=replace(live.job.timings, execute_s=execution.execute_s, collect_s=collect_s),
            outputs=collected.outputs,
            response=collected.response,
            warnings=live.job.warnings + collected.warnings,
            stage=Stage.DELIVER,
            message="Generation complete. Queued for post-processing.",
        )

    def _requeue(self, live: LiveJob, cause: str) -> None:
        log.warning("job is resubmitted", extra={"event": "job.resubmitted", "cause": cause})
        live.advance(
            JobStatus.QUEUED,
            stage=Stage.EXECUTE,
            message="ComfyUI ended; the job is resubmitted",
            warnings=(*live.job.warnings, f"resubmitted: {cause}"),
            prompt_id=None,
        )

    async def _deliver(self, live: LiveJob) -> Job:
        size = sum(output.size_bytes for output in live.job.outputs)
        self.backlog_bytes += size
        begun = self._clock.monotonic()
        target = live.job.spec.delivery.s3
        try:
            async with self._deliver_seats if target is None or target.operator else self._foreign_seats:
                outputs = await self._delivery.deliver(live.job, live.job.outputs)
        finally:
            self.backlog_bytes -= size
        timings = replace(live.job.timings, deliver_s=self._clock.monotonic() - begun)
        return live.change(timings=timings, outputs=outputs)


class _Observer:
    """Writes what an engine tells of a prompt into its job."""

    __slots__ = ("_clock", "_lease", "_live", "_queue")

    def __init__(self, live: LiveJob, lease: Lease, queue: SlotQueue, clock: Clock) -> None:
        self._live = live
        self._lease = lease
        self._queue = queue
        self._clock = clock

    def posted(self, prompt_id: str) -> None:
        self._live.change(prompt_id=prompt_id)

    def started(self) -> None:
        self._queue.started(self._lease)
        job = self._live.job
        self._live.advance(
            JobStatus.RUNNING,
            attempts=job.attempts + 1,
            message="Generation started",
            timings=replace(job.timings, execution_started_at=self._clock.now()),
        )

    def progressed(self, progress: Progress) -> None:
        self._live.progressed(progress)

    def previewed(self, preview: Preview) -> None:
        """Nobody looks at previews yet."""
