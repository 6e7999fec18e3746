"""How jobs come to live: requests through the door, and what an earlier life of the worker left behind."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from lib.clock import Clock
from lib.errors import NotReady, ServiceError
from lib.jobs.admission import Situation, decide
from lib.jobs.ahead import Ahead
from lib.jobs.ids import new_job_id
from lib.jobs.journal import Journal
from lib.jobs.live import LiveJob, first_version, last_version
from lib.jobs.model import Estimate, Job, JobSpec, JobStatus, Timings
from lib.jobs.patience import WAITING, Patience
from lib.jobs.ports import JobStore, LoadLedger
from lib.jobs.recovery import abandoned, orphan, revived
from lib.jobs.registry import LiveJobs
from lib.jobs.repeats import Repeats
from lib.jobs.requests import lightened, request_size
from lib.lifecycle import Tasks

log = logging.getLogger(__name__)

UNKNOWN_COST = 100.0
"""Workload of a job of which nothing is known: that of the reference workflow."""

Write = Callable[[LiveJob], Awaitable[None]]


class Intake:
    """Decides who comes in, numbers the jobs, has them recorded and started.

    ``situation`` is what admission looks at for a request; ``start`` sets a job to work, while it is being recorded.
    """

    def __init__(
        self,
        *,
        live: LiveJobs,
        store: JobStore,
        journal: Journal,
        ledger: LoadLedger,
        ahead: Ahead,
        patience: Patience,
        clock: Clock,
        tasks: Tasks,
        situation: Callable[[JobSpec], Situation],
        publish: Callable[[LiveJob], None],
        start: Callable[[LiveJob], None],
    ) -> None:
        self._live = live
        self._store = store
        self._journal = journal
        self._ledger = ledger
        self._ahead = ahead
        self._patience = patience
        self._clock = clock
        self._tasks = tasks
        self._situation = situation
        self._publish = publish
        self._start = start
        self._repeats = Repeats(live=live, store=store)
        self._door = asyncio.Lock()
        self._last_sequence = -1
        """Of the jobs accepted so far; -1 until the store was asked."""
        self.draining = False

    async def admit(self, spec: JobSpec, refusal: ServiceError | None = None) -> LiveJob | Job:
        """Return the job that this request repeats, or a new one that is being recorded. One request at a time goes
        through the door, as the store may be asked. With a ``refusal`` the new one is over at once: failed with it.

        A job that is being cancelled is waited for and not attached to: a caller who left and came back wants the
        work, not the end of the earlier attempt.
        """
        while True:
            async with self._door:
                found = await self._repeats.of(spec)
                if isinstance(found, Job):
                    return found
                if found is None:
                    await self._know_sequence()
                    return self._accept(spec) if refusal is None else self._turn_down(spec, refusal)
                if not found.ending:
                    return found
            await asyncio.wait((found.done,))

    async def take_up(self) -> list[LiveJob]:
        """Have what is recorded and not over live again, in its order."""
        async with self._door:
            await self._know_sequence()
            jobs = [job for job in await self._store.unfinished() if self._live.get(job.job_id) is None]
            if jobs:
                log.info("jobs of an earlier life are taken up", extra={"event": "jobs.recovered", "jobs": len(jobs)})
            return [self._revive(job) for job in jobs]

    async def _know_sequence(self) -> None:
        if self._last_sequence < 0:
            self._last_sequence = await self._store.last_sequence()

    def _accept(self, spec: JobSpec) -> LiveJob:
        """Make a job of a request and set it to work. Nothing here suspends. Raises: Overloaded, NotReady, Draining."""
        situation, waits = self._decided(spec)
        now, size = self._clock.now(), _size(spec)
        job = self._numbered(spec, size, Timings(accepted_at=now), expected_wait_s=situation.wait_s)
        live = LiveJob(job, self._publish, size=size, version=first_version(now))
        if waits:
            live.note(message=WAITING)
        self._live.add(live)
        if spec.internal:
            self._admitted(live)
        else:
            self._record(live, self._journal.add, self._admitted)
        self._start(live)
        return live

    def _turn_down(self, spec: JobSpec, error: ServiceError) -> LiveJob:
        """Make a job of a request that is over with it: it is nobody's load, and nobody finds it before it is recorded.
        Raises: as ``_accept``."""
        self._decided(spec)
        now, size = self._clock.now(), _size(spec)
        times = Timings(accepted_at=now, finished_at=now)
        job = self._numbered(spec, size, times, status=JobStatus.FAILED, error=error, message=error.message)
        live = LiveJob(job, self._publish, size=size, version=last_version(now))
        live.over = True
        self._record(live, self._journal.add_ended, self._turned_down)
        return live

    def _decided(self, spec: JobSpec) -> tuple[Situation, bool]:
        """Return in which situation a request is accepted, and whether its job waits for the worker to be ready."""
        situation, waits = self._situation(spec), spec.patient and self._patience.holds(spec)
        if not spec.internal:
            if self.draining or waits:
                situation = replace(situation, draining=self.draining, ready=situation.ready or waits)
            decide(situation, max_wait_s=spec.max_wait_s, size_bytes=request_size(spec))
        return situation, waits

    def _numbered(self, spec: JobSpec, size: Estimate, timings: Timings, **fields: Any) -> Job:
        self._last_sequence += 1
        return Job(
            job_id=new_job_id(),
            spec=spec,
            sequence=self._last_sequence,
            cost=size.units if spec.cost is None else spec.cost,
            timings=timings,
            expected_s=self._ahead.predicted_s(size),
            expires_at=None if spec.ttl_s is None else timings.accepted_at + timedelta(seconds=spec.ttl_s),
            **fields,
        )

    def _revive(self, job: Job) -> LiveJob:
        now = self._clock.now()
        live = LiveJob(revived(job), self._publish, size=_size(job.spec), version=first_version(now))
        live.recovered = True
        if (reason := abandoned(job, now)) is not None:
            orphan(live, reason)
        self._live.add(live)
        self._admitted(live)
        self._start(live)
        return live

    def _record(self, live: LiveJob, write: Write, then: Callable[[LiveJob], None]) -> None:
        self._tasks.spawn(self._recorded(live, write, then), name=f"record:{live.job.job_id}")

    async def _recorded(self, live: LiveJob, write: Write, then: Callable[[LiveJob], None]) -> None:
        """Have the store take a job; without that it never was."""
        error: ServiceError = NotReady("The worker could not record the job; its log has the reason.", retry_after_s=5)
        try:
            await write(live)
        except ServiceError as failure:
            log.error("job could not be recorded", extra={"event": "job.unrecorded", "cause": failure.message})
            error = NotReady(failure.message, retry_after_s=failure.retry_after_s or error.retry_after_s)
            error.__cause__ = failure
        else:
            then(live)
        finally:
            if not live.recorded.done():
                if live.job.job_id in self._live:
                    self._live.drop(live)
                live.refuse(error)

    def _turned_down(self, live: LiveJob) -> None:
        """It is recorded, and was over before: no load, but a router's number is free again."""
        if live.job.spec.tag:
            self._ledger.invalid(tag=live.job.spec.tag)
        live.note(spec=lightened(live.job.spec))
        live.recorded.set_result(None)
        live.done.set_result(live.job)
        live.tell()

    def _admitted(self, live: LiveJob) -> None:
        """It is recorded, so it counts."""
        if not live.job.spec.internal:
            self._ledger.received(live.job)
        if live.job.stopping:  # it was cancelled meanwhile, or in an earlier life
            self._journal.update(live)
        live.recorded.set_result(None)
        live.tell()


def _size(spec: JobSpec) -> Estimate:
    if spec.estimate is not None:
        return spec.estimate
    return Estimate(units=UNKNOWN_COST if spec.cost is None else spec.cost, shape="")
