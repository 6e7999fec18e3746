"""How jobs come to live: requests through the door, and what an earlier life of the worker left behind."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from lib.clock import Clock
from lib.errors import NotReady, ServiceError
from lib.jobs.admission import Situation, decide
from lib.jobs.ahead import Ahead
from lib.jobs.ids import new_job_id
from lib.jobs.journal import Journal
from lib.jobs.live import LiveJob, first_version
from lib.jobs.model import Estimate, Job, JobSpec, Timings
from lib.jobs.ports import JobStore, LoadLedger
from lib.jobs.recovery import orphan, revived
from lib.jobs.registry import LiveJobs
from lib.jobs.repeats import Repeats
from lib.lifecycle import Tasks

log = logging.getLogger(__name__)

UNKNOWN_COST = 100.0
"""Workload of a job of which nothing is known: that of the reference workflow."""


class Intake:
    """Decides who comes in, numbers the jobs, has them recorded and started.

    ``situation`` is what admission looks at; ``start`` sets a job to work, while it is being recorded.
    """

    def __init__(
        self,
        *,
        live: LiveJobs,
        store: JobStore,
        journal: Journal,
        ledger: LoadLedger,
        ahead: Ahead,
        clock: Clock,
        tasks: Tasks,
        situation: Callable[[], Situation],
        publish: Callable[[LiveJob], None],
        start: Callable[[LiveJob], None],
    ) -> None:
        self._live = live
        self._store = store
        self._journal = journal
        self._ledger = ledger
        self._ahead = ahead
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

    async def admit(self, spec: JobSpec) -> LiveJob | Job:
        """Return the job that this request repeats, or a new one that is being recorded. One request at a time goes
        through the door, as the store may be asked.

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
                    return self._accept(spec)
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
        situation = self._situation()
        if not spec.internal:
            situation = replace(situation, draining=self.draining)
            decide(situation, max_wait_s=spec.max_wait_s, size_bytes=len(spec.workflow))
        self._last_sequence += 1
        now, size = self._clock.now(), _size(spec)
        job = Job(
            job_id=new_job_id(),
            spec=spec,
            sequence=self._last_sequence,
            cost=size.units if spec.cost is None else spec.cost,
            timings=Timings(accepted_at=now),
            expected_s=self._ahead.predicted_s(size),
            expected_wait_s=situation.wait_s,
        )
        live = LiveJob(job, self._publish, size=size, version=first_version(now))
        self._live.add(live)
        if spec.internal:
            self._admitted(live)
        else:
            self._tasks.spawn(self._record(live), name=f"record:{job.job_id}")
        self._start(live)
        return live

    def _revive(self, job: Job) -> LiveJob:
        live = LiveJob(revived(job), self._publish, size=_size(job.spec), version=first_version(self._clock.now()))
        live.recovered = True
        if not live.kept and job.spec.disconnect_grace_s <= 0:
            orphan(live)
        self._live.add(live)
        self._admitted(live)
        self._start(live)
        return live

    async def _record(self, live: LiveJob) -> None:
        """Have the store take an accepted job; without that it never was."""
        error: ServiceError = NotReady("The worker could not record the job; its log has the reason.", retry_after_s=5)
        try:
            await self._journal.add(live)
        except ServiceError as failure:
            log.error("job could not be recorded", extra={"event": "job.unrecorded", "cause": failure.message})
            error = NotReady(failure.message, retry_after_s=failure.retry_after_s or error.retry_after_s)
            error.__cause__ = failure
        else:
            self._admitted(live)
        finally:
            if not live.recorded.done():
                self._live.drop(live)
                live.refuse(error)

    def _admitted(self, live: LiveJob) -> None:
        """It is recorded, so it counts."""
        if not live.job.spec.internal:
            self._ledger.received(live.job)
        live.recorded.set_result(None)
        live.tell()


def _size(spec: JobSpec) -> Estimate:
    if spec.estimate is not None:
        return spec.estimate
    return Estimate(units=UNKNOWN_COST if spec.cost is None else spec.cost, shape="")
