"""JobService: submit, refuse, wait, watch, find, cancel, shorten, listen. All that a dialect ever calls."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace

from lib.clock import Clock
from lib.errors import EngineUnreachable, JobAlreadyFinished, JobCancelled, NotReady, ServiceError
from lib.jobs.admission import Situation
from lib.jobs.ahead import Ahead
from lib.jobs.events import Watchers, last_view
from lib.jobs.intake import Intake
from lib.jobs.journal import Journal
from lib.jobs.lifetimes import Lifetimes
from lib.jobs.live import LiveJob, draining
from lib.jobs.lives import Lives
from lib.jobs.lookup import Lookup, missing
from lib.jobs.mailboxes import Reader
from lib.jobs.model import DeliverySpec, Job, JobFilter, JobSpec, JobStatus, JobView, OnDisconnect
from lib.jobs.patience import Patience
from lib.jobs.pipeline import Pipeline, PipelineLimits
from lib.jobs.ports import Announcer, Delivery, JobListener, JobStore, LoadLedger, Preparer
from lib.jobs.queue import SlotQueue
from lib.jobs.registry import LiveJobs, QueueCounts
from lib.jobs.speed import SpeedGauge
from lib.lifecycle import Tasks

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLimits:
    """``in_flight`` in jobs, ``request_bytes`` of their requests, ``backlog_bytes`` of undelivered output.

    Watchers learn where their jobs stand in the line every ``watch_interval_s`` at most."""

    in_flight: int
    backlog_bytes: int
    pipeline: PipelineLimits
    request_bytes: int = 512 * 1024 * 1024
    watch_interval_s: float = 0.5


class JobService:
    """Owns every accepted job until its terminal state. Handlers only wait on it.

    ``readiness`` answers ``None`` when jobs may come in, else the reason why not. Jobs that are ``patient`` come in too
    while ``starting``, and wait for ``until_ready``. ``durable``: the store outlives the worker, so that a drain may
    leave jobs in it.
    """

    def __init__(
        self,
        *,
        queue: SlotQueue,
        preparer: Preparer,
        delivery: Delivery,
        store: JobStore,
        announcer: Announcer,
        ledger: LoadLedger,
        speed: SpeedGauge,
        clock: Clock,
        tasks: Tasks,
        limits: ServiceLimits,
        readiness: Callable[[], str | None],
        durable: bool,
        starting: Callable[[], bool] = lambda: False,
        until_ready: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._queue, self._store, self._delivery = queue, store, delivery
        self._limits = limits
        self._readiness = readiness
        self._live = LiveJobs()
        self._lookup = Lookup(live=self._live, store=store)
        self._ahead = Ahead(queue=queue, speed=speed)
        self._patience = Patience(starting=starting, until_ready=until_ready, tasks=tasks)
        self._lifetimes = Lifetimes(clock=clock, cancel=self._cancel)
        self._journal = Journal(store=store, announcer=announcer)
        self._watchers = Watchers(line=lambda: self._live, ahead=self._ahead, interval_s=limits.watch_interval_s)
        self._pipeline = Pipeline(
            queue=queue,
            preparer=preparer,
            delivery=delivery,
            journal=self._journal,
            ahead=self._ahead,
            patience=self._patience,
            speed=speed,
            clock=clock,
            limits=limits.pipeline,
        )
        self._lives = Lives(
            pipeline=self._pipeline,
            journal=self._journal,
            live=self._live,
            ledger=ledger,
            clock=clock,
            tasks=tasks,
            durable=durable,
        )
        self._intake = self._door(ledger, clock, tasks)
        self._listeners: list[JobListener] = []

    def _door(self, ledger: LoadLedger, clock: Clock, tasks: Tasks) -> Intake:
        return Intake(
            live=self._live,
            store=self._store,
            journal=self._journal,
            ledger=ledger,
            ahead=self._ahead,
            patience=self._patience,
            clock=clock,
            tasks=tasks,
            situation=self._situation,
            publish=self._publish,
            start=self._start,
        )

    # -- what dialects call ------------------------------------------------------------------------------------

    async def submit(self, spec: JobSpec) -> Job:
        """Accept a job, or attach to the same one that is live (or, by tag or idempotency key, return the one that is
        over). The job is recorded when this returns.

        Raises: Overloaded, NotReady, Draining, JobConflict, IdempotencyMismatch.
        """
        return await self._entered(spec)

    async def refuse(self, spec: JobSpec, error: ServiceError) -> Job:
        """Record a job that ends before it begins: failed with ``error``, its webhooks told, no load for anybody. It
        repeats others as ``submit`` does, and comes in when that would take it.

        Raises: as ``submit``."""
        return await self._entered(spec, error)

    async def wait(self, job_id: str, *, at_most_s: float | None = None) -> Job:
        """Return the terminal snapshot; after ``at_most_s`` seconds the job as it is, kept from then on. Whoever leaves
        early (cancelled) as the last one leaves the job to its ``on_disconnect``.

        Raises: JobNotFound, Draining (it is left to the worker's next life), NotReady (not taken up yet)."""
        live = self._lookup.live(job_id)
        if live is None:
            job = await self.get(job_id)
            if not job.status.terminal:
                raise self._untouched()
            return await self._replay(job)
        live.waiter_count += 1
        live.stay()
        try:
            if not live.done.done():
                await asyncio.wait((live.done,), timeout=at_most_s)
            return live.done.result() if live.done.done() else await self.keep(job_id)
        finally:
            self._left(live)

    async def whole(self, job: Job) -> Job:
        """Return a completed job with its inlined files, which the store does not keep. Raises: JobNotFound."""
        told = all(item.data_base64 is not None or item.error is not None for item in job.outputs if item.filename)
        if told or job.status is not JobStatus.COMPLETED or not job.spec.delivery.inline_base64:
            return job
        return await self.wait(job.job_id)

    async def wait_for(self, job_id: str, timeout_s: float) -> Job:
        """Return the terminal snapshot, or the newest one after ``timeout_s`` seconds. Leaving means nothing to the
        job. Raises: JobNotFound."""
        live = self._lookup.live(job_id)
        if live is None:
            return await self.get(job_id)
        await asyncio.wait((live.done,), timeout=timeout_s)
        return live.job

    async def get(self, job_id: str) -> Job:
        """Return the newest snapshot. Raises: JobNotFound."""
        return await self._lookup.get(job_id)

    async def find(self, name: str, *, owner: str | None) -> Job:
        """Return the owner's job of this id, else the newest run of the owner's request id: a request may call itself
        by another job's id, and stands in nobody's way. ``None`` is the operator, who finds everybody's.
        Raises: JobNotFound."""
        return await self._lookup.find(name, owner=owner)

    async def listed(self, asked: JobFilter) -> list[Job]:
        """Jobs that fit, newest first, live ones as they are now."""
        return await self._lookup.listed(asked)

    def watch(
        self, job_id: str, *, previews: bool = False, reader: Reader | None = None
    ) -> AsyncGenerator[JobView, None]:
        """Yield the newest view, then each change; who is slow gets only the newest one. A ``reader`` is handed
        views, and gets here what it did not take, the first and the last one. Ends after the terminal view, or with
        the last view of a job that is left to the worker's next life. Close it (``contextlib.aclosing``) if you leave
        early. Raises, when it is iterated: JobNotFound."""
        live = self._lookup.live(job_id)
        return (
            self._stored_view(job_id) if live is None else self._watchers.watch(live, previews=previews, reader=reader)
        )

    async def keep(self, job_id: str) -> Job:
        """Have a job go on without its caller; that is recorded when this returns. Raises: JobNotFound."""
        if (live := self._lookup.live(job_id)) is None:
            return await self.get(job_id)
        live.stay()
        if not live.kept:
            live.change(spec=replace(live.job.spec, on_disconnect=OnDisconnect.KEEP))
            if await live.is_recorded() and not live.over:
                await self._journal.write(live)
        return live.job

    async def shorten(self, job_id: str, ttl_s: float) -> Job:
        """Have a job be forgotten so many seconds from now at the latest, and cancelled if it is not over by then; that
        is recorded when this returns. Raises: JobNotFound, StorageFailed."""
        live = self._lookup.live(job_id)
        if live is not None and live.over:
            await asyncio.wait((live.done,))
        elif live is not None:
            self._lifetimes.shorten(live, ttl_s)
            await live.is_recorded()
        if (job := await self._store.shorten(job_id, ttl_s)) is None:
            raise missing()
        return job if live is None or live.over else live.job

    async def cancel(self, job_id: str, *, reason: str, wait: bool = True) -> Job:
        """Cancel a live job and return once it is off the GPU, or, without ``wait``, while it is ``stopping``: then too
        it will not run again, whatever happens to the worker.

        Raises: JobNotFound, JobAlreadyFinished, Draining or NotReady (as ``wait``)."""
        live = self._lookup.live(job_id)
        if live is not None and not live.over:
            self._cancel(live, JobCancelled(reason))
            if wait or not await live.is_recorded() or live.over:
                return await asyncio.shield(live.done)
            await self._journal.write(live)
            return live.job
        job = await asyncio.shield(live.done) if live is not None else await self.get(job_id)
        if not job.status.terminal:
            raise self._untouched()
        raise JobAlreadyFinished(f"The job is already {job.status}", details={"status": str(job.status)})

    def listen(self, listener: JobListener) -> None:
        """Have ``listener`` called with each new snapshot of any job."""
        self._listeners.append(listener)

    # -- what the assembly calls -------------------------------------------------------------------------------

    @property
    def in_flight_count(self) -> int:
        return len(self._live)

    @property
    def load(self) -> float:
        """Workload of all jobs that are not finished."""
        return self._live.load

    @property
    def live_jobs(self) -> list[Job]:
        """Snapshots of all jobs that are not finished, in the order of acceptance."""
        return self._live.snapshots

    @property
    def watcher_count(self) -> int:
        return self._watchers.count

    def prompts_of(self, engine: str) -> set[str]:
        """Ids under which this engine may have prompts of live jobs; any other prompt of ours there is a stray."""
        return self._live.prompts_of(engine)

    def predicted_wait_s(self) -> float | None:
        """Seconds that a job accepted now would wait before it starts; ``None`` when the speed is unknown."""
        return self._ahead.wait_s()

    def usual_s(self) -> float | None:
        """Seconds that a job like those of late would run; ``None`` when the speed is unknown."""
        return self._ahead.usual_s()

    def queue_counts(self) -> QueueCounts:
        """How many jobs wait for what, and how many are worked on."""
        busy = self._pipeline
        return self._live.counts(preparing=busy.preparing_count, delivering=busy.delivering_count)

    async def recover(self) -> int:
        """Take up an earlier life's unfinished jobs, in their order; return how many. Engines are asked for prompts."""
        jobs = await self._intake.take_up()
        for live in jobs:
            if live.recovered and not live.kept and not live.orphaned:
                self._abandoned(live)
        return len(jobs)

    async def drain(self, timeout_s: float) -> None:
        """Admit nothing more. Kept jobs that have not started stay recorded for the worker's next life at once; the
        others may end within ``timeout_s``. Then kept ones are taken off the engines and stay recorded too, and those
        that a caller waits for fail: our failure, so that the caller goes elsewhere."""
        self._intake.draining = True
        for live in list(self._live):
            if self._lives.parks(live) and live.job.status is JobStatus.QUEUED:
                live.park()
        try:
            await asyncio.wait_for(self._live.idle.wait(), timeout_s)
        except TimeoutError:
            for live in list(self._live):
                if self._lives.parks(live):
                    live.park()
                else:
                    live.cancel(draining())
            await self._live.idle.wait()

    def engines_lost(self, reason: str) -> None:
        """No engine came (back) in time: fail every job that waits for one."""
        error = EngineUnreachable(f"No ComfyUI to run the job: {reason}", retry_after_s=30)
        self._queue.fail_waiting(error)
        self._patience.fail(error)

    # -- a job's life ------------------------------------------------------------------------------------------

    def _start(self, live: LiveJob) -> None:
        self._lives.start(live)
        self._lifetimes.begin(live)

    def _cancel(self, live: LiveJob, error: ServiceError) -> None:
        live.cancel(error)
        if live.job.stopping and live.recorded.done() and not live.over:
            self._journal.update(live)

    async def _entered(self, spec: JobSpec, refusal: ServiceError | None = None) -> Job:
        found = await self._intake.admit(spec, refusal)
        if isinstance(found, Job):
            return found
        if not found.recorded.done():
            await self._until_recorded(found)
        if found.refused is not None:
            raise found.refused
        return found.job

    async def _until_recorded(self, live: LiveJob) -> None:
        """Who leaves here leaves the job as one who waits for it would."""
        live.waiter_count += 1
        try:
            await live.is_recorded()
        except asyncio.CancelledError:
            self._left(live)
            raise
        live.waiter_count -= 1

    def _left(self, live: LiveJob) -> None:
        """One who waited is gone; the last one leaves the job to its ``on_disconnect``."""
        live.waiter_count -= 1
        if live.waiter_count == 0 and not live.done.done() and not live.kept:
            self._abandoned(live)

    def _abandoned(self, live: LiveJob) -> None:
        live.stay()
        error = JobCancelled("Request cancelled due to client disconnection")
        grace_s = live.job.spec.disconnect_grace_s
        if grace_s <= 0:
            self._cancel(live, error)
        else:
            live.grace = asyncio.get_running_loop().call_later(grace_s, self._cancel, live, error)

    def _situation(self, spec: JobSpec) -> Situation:
        reason = self._readiness()
        return Situation(
            ready=reason is None,
            not_ready_reason=reason or "",
            in_flight_count=len(self._live),
            in_flight_limit=self._limits.in_flight,
            request_bytes=self._live.request_bytes,
            request_limit_bytes=self._limits.request_bytes,
            executing_count=self._ahead.count(low=spec.low_priority),
            engine_count=self._queue.serving_count,
            wait_s=self._ahead.wait_s(low=spec.low_priority),
            backlog_bytes=self._pipeline.backlog_bytes,
            backlog_limit_bytes=self._limits.backlog_bytes,
        )

    def _untouched(self) -> ServiceError:
        """Why a recorded job that is not over can't be waited for."""
        text = "The job was accepted before the worker was restarted, and is not taken up again yet."
        return draining() if self._intake.draining else NotReady(text, retry_after_s=5)

    async def _stored_view(self, job_id: str) -> AsyncGenerator[JobView, None]:
        yield last_view(await self.get(job_id))

    async def _replay(self, job: Job) -> Job:
        """Put back what the store does not keep: inlined files are read again from disk."""
        if job.status is not JobStatus.COMPLETED or not job.spec.delivery.inline_base64:
            return job
        asked = job.spec.delivery
        inline = DeliverySpec(inline_base64=True, inline_large=asked.inline_large, include_temp=asked.include_temp)
        again = await self._delivery.deliver(job.with_(spec=replace(job.spec, delivery=inline)), job.outputs)
        return job.with_(outputs=again)

    def _publish(self, live: LiveJob) -> None:
        job = live.job
        if job.status is not live.shown_status:
            live.shown_status = job.status
            self._watchers.moved()
        for listener in self._listeners:
            try:
                listener(job)
            except Exception:
                log.exception("a listener failed", extra={"event": "job.listener", "job_id": job.job_id})
