"""The work on each live job: a task takes it through the pipeline, to an end that is recorded first and then told."""

import asyncio
import logging

from lib.clock import Clock
from lib.errors import ServiceError
from lib.jobs.copies import changed
from lib.jobs.journal import Journal
from lib.jobs.live import LiveJob, draining, last_version
from lib.jobs.model import JobStatus
from lib.jobs.pipeline import Delivered, Pipeline
from lib.jobs.ports import LoadLedger
from lib.jobs.recovery import parked
from lib.jobs.registry import LiveJobs
from lib.jobs.requests import lightened
from lib.jobs.transitions import advance, outcome_of
from lib.lifecycle import Tasks
from lib.telemetry.logs import job_context

log = logging.getLogger(__name__)


class Lives:
    """``durable``: the store outlives the worker, so that kept jobs may be left in it."""

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        journal: Journal,
        live: LiveJobs,
        ledger: LoadLedger,
        clock: Clock,
        tasks: Tasks,
        durable: bool,
    ) -> None:
        self._pipeline = pipeline
        self._journal = journal
        self._live = live
        self._ledger = ledger
        self._clock = clock
        self._tasks = tasks
        self._durable = durable

    def start(self, live: LiveJob) -> None:
        """Set a job to work that counts among the live ones."""
        self._pipeline.accept(live)
        live.task = self._tasks.spawn(self._work(live), name=f"job:{live.job.job_id}")

    def parks(self, live: LiveJob) -> bool:
        """Whether it is left to the worker's next life when this one ends."""
        return self._durable and live.kept and not live.job.spec.internal

    async def _work(self, live: LiveJob) -> None:
        live.begun, spec = True, live.job.spec
        try:
            with job_context(live.job.job_id, request_id=spec.request_id, dialect=spec.dialect, owner=spec.owner):
                delivered = await self._pipeline.run(live)
        except asyncio.CancelledError:
            await self._cut_short(live)
            raise
        except ServiceError as error:
            await self._finish(live, outcome_of(error), error)
        except Exception:
            log.exception("job failed by a defect of ours", extra={"event": "job.defect"})
            await self._finish(live, JobStatus.FAILED, ServiceError("The worker failed; its log has the trace."))
        else:
            await self._finish(live, JobStatus.COMPLETED, None, delivered)

    async def _cut_short(self, live: LiveJob) -> None:
        """Cancelled by somebody; or put aside, and so it is when the worker ends without asking."""
        if live.ending or not self.parks(live):
            await self._finish(live, outcome_of(live.cancel_error), live.cancel_error)
        elif await live.is_recorded():
            live.job = parked(live.job)
            self._journal.update(live)
            self._live.drop(live)
            live.leave(draining())

    async def _finish(
        self, live: LiveJob, status: JobStatus, error: ServiceError | None, delivered: Delivered | None = None
    ) -> None:
        """Make it terminal: recorded with its messages first, then told."""
        live.over = True
        live.stay()
        if not await live.is_recorded():
            return
        now = self._clock.now()
        made, message = delivered or live.job, "Processing complete." if error is None else error.message
        changes = {"timings": changed(made.timings, finished_at=now), "outputs": made.outputs, "stopping": False}
        if error is None:
            changes["progress"] = changed(live.job.progress, percent=100.0)
        job = advance(live.job, status, error=error, message=message, **changes)
        try:
            await self._journal.finish(job)
            self._pipeline.forget(job)
        finally:
            if job.spec.files:  # the store has them if they are wanted again
                job = job.with_(spec=lightened(job.spec))
            live.job, live.version = job, max(live.version, last_version(now) - 1)
            self._live.drop(live)
            if not job.spec.internal:
                self._ledger.finished(job)
            live.tell()
            live.done.set_result(job)
