"""Exact load accounting: what came in, what became of it, what is still owed. Implements ``jobs.ports.LoadLedger``.

Counters since the last report are reduced by what that report said, never set to zero, so that nothing which happens
while a report is on its way gets lost. Internal jobs (benchmark, warm-up) are not the router's business: not counted.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import datetime
from math import fsum

from lib.clock import Clock
from lib.jobs.model import Job, JobStatus
from lib.protocol.status import DeletedRequest, RequestOutcome

log = logging.getLogger(__name__)

REMEMBERED_NUMBERS = 4096
"""So many request numbers are remembered to tell new ones from known ones."""
MOST_UNDELIVERED = 10_000
"""So many finished requests wait for an autoscaler that does not answer; then the oldest are dropped."""

_OUTCOMES = {
    JobStatus.COMPLETED: RequestOutcome.SUCCESS,
    JobStatus.FAILED: RequestOutcome.ERROR,
    JobStatus.CANCELLED: RequestOutcome.CANCELLED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """Workload units, by what happened to them."""

    received: float = 0.0
    served: float = 0.0
    failed: float = 0.0
    cancelled: float = 0.0
    rejected: float = 0.0

    def plus(
        self,
        *,
        received: float = 0.0,
        served: float = 0.0,
        failed: float = 0.0,
        cancelled: float = 0.0,
        rejected: float = 0.0,
    ) -> "Amounts":
        return Amounts(
            received=self.received + received,
            served=self.served + served,
            failed=self.failed + failed,
            cancelled=self.cancelled + cancelled,
            rejected=self.rejected + rejected,
        )

    def minus(self, other: "Amounts") -> "Amounts":
        names = (item.name for item in fields(self))
        return Amounts(**{name: max(getattr(self, name) - getattr(other, name), 0.0) for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFigures:
    """One consistent look at the ledger; ``since_report`` goes back to ``delivered`` once it has arrived."""

    load: float
    since_report: Amounts
    working_count: int
    seen_count: int
    working_tags: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Open:
    """An accepted, unfinished job or an open session; ``in_session`` = its session's cost stands for it. ``joined``
    are the numbers of further requests for it."""

    cost: float
    tag: int | None
    opened_at: datetime
    in_session: bool = False
    joined: tuple[int, ...] = ()

    @property
    def tags(self) -> tuple[int, ...]:
        """The numbers that are free when it is over."""
        return (self.tag, *self.joined) if self.tag else self.joined


class Ledger:
    """The worker's books. All calls are synchronous and come from the event loop."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._jobs: dict[str, _Open] = {}
        self._sessions: dict[str, _Open] = {}
        self._since_report = Amounts()
        self._totals = Amounts()
        self._numbers: OrderedDict[int, None] = OrderedDict()
        self._seen_count = 0
        self._deleted: deque[DeletedRequest] = deque()
        self._listeners: list[Callable[[], None]] = []

    def listen(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called after each change; it must not block."""
        self._listeners.append(listener)

    @property
    def totals(self) -> Amounts:
        """Everything since the start: received = served + failed + cancelled + what is still open."""
        return self._totals

    @property
    def open_cost(self) -> float:
        """Cost of all open jobs and sessions, jobs inside sessions included."""
        return fsum(item.cost for item in (*self._jobs.values(), *self._sessions.values()))

    # -- LoadLedger: jobs ---------------------------------------------------------------------------------------

    def received(self, job: Job) -> None:
        if job.spec.internal or job.job_id in self._jobs:
            return
        self._jobs[job.job_id] = _Open(cost=job.cost, tag=job.spec.tag, opened_at=job.timings.accepted_at)
        self._count(received=job.cost)

    def finished(self, job: Job) -> None:
        known = self._jobs.pop(job.job_id, None)
        if known is None:
            return
        for tag in known.tags:
            self._delete_job(job, tag)
        match job.status:
            case JobStatus.COMPLETED:
                self._count(served=known.cost)
            case JobStatus.FAILED:
                self._count(failed=known.cost)
            case _:
                self._count(cancelled=known.cost)

    # -- LoadLedger: the door -----------------------------------------------------------------------------------

    def seen(self, number: int) -> None:
        if number in self._numbers:
            return
        self._seen_count += 1
        self._numbers[number] = None
        if len(self._numbers) > REMEMBERED_NUMBERS:
            self._numbers.popitem(last=False)

    def rejected(self, *, cost: float, tag: int | None) -> None:
        if not self._works_on(tag):
            self._delete(tag, RequestOutcome.REJECTED, entered_at=self._clock.now())
        self._count(rejected=cost)

    def invalid(self, *, tag: int | None) -> None:
        if self._works_on(tag):
            return
        now = self._clock.now()
        self._delete(tag, RequestOutcome.ERROR, entered_at=now, completed_at=now)
        self._count()

    def joined(self, job: Job, *, tag: int | None) -> None:
        known = self._jobs.get(job.job_id)
        if known is None:  # it ended meanwhile
            self.replayed(job, tag=tag)
        elif tag and tag not in (known.tag, *known.joined):
            self._jobs[job.job_id] = replace(known, joined=(*known.joined, tag))
            self._count()

    def replayed(self, job: Job, *, tag: int | None) -> None:
        self._delete_job(job, tag)
        self._count()

    def answered(self, *, tag: int | None) -> None:
        if self._works_on(tag):
            return
        now = self._clock.now()
        self._delete(tag, RequestOutcome.SUCCESS, entered_at=now, started_at=now, completed_at=now)
        self._count()

    # -- LoadLedger: sessions -----------------------------------------------------------------------------------

    def session_opened(self, session_id: str, *, cost: float, tag: int | None) -> None:
        self._sessions[session_id] = _Open(cost=cost, tag=tag, opened_at=self._clock.now())
        self._count(received=cost)

    def session_joined(self, session_id: str, job_id: str) -> None:
        item = self._jobs.get(job_id)
        if session_id in self._sessions and item is not None and not item.tag:  # else it began outside
            self._jobs[job_id] = replace(item, in_session=True)

    def session_closed(self, session_id: str) -> None:
        known = self._sessions.pop(session_id, None)
        if known is None:
            return
        self._delete(
            known.tag,
            RequestOutcome.SUCCESS,
            entered_at=known.opened_at,
            started_at=known.opened_at,
            completed_at=self._clock.now(),
        )
        self._count(served=known.cost)

    # -- what the reporter reads --------------------------------------------------------------------------------

    def figures(self) -> LoadFigures:
        """Return what a report says now."""
        working = (*(job for job in self._jobs.values() if not job.in_session), *self._sessions.values())
        return LoadFigures(
            load=fsum(item.cost for item in working),
            since_report=self._since_report,
            working_count=len(working),
            seen_count=self._seen_count,
            working_tags=self._working_tags(),
        )

    def delivered(self, figures: LoadFigures) -> None:
        """A report with these figures has arrived: take off what it said."""
        self._since_report = self._since_report.minus(figures.since_report)

    def deleted(self, most: int) -> tuple[DeletedRequest, ...]:
        """Return the oldest finished requests that the autoscaler has not been told about."""
        return tuple(item for _, item in zip(range(most), self._deleted, strict=False))

    def deletes_delivered(self, items: tuple[DeletedRequest, ...]) -> None:
        """Forget these, the oldest ones; some may have been dropped for lack of room meanwhile."""
        said = {id(item) for item in items}
        while self._deleted and id(self._deleted[0]) in said:
            self._deleted.popleft()

    # -- inside -------------------------------------------------------------------------------------------------

    def _works_on(self, tag: int | None) -> bool:
        """Whether work under this number goes on: it is not free then, whatever becomes of another request for it."""
        return bool(tag) and any(tag in item.tags for item in (*self._jobs.values(), *self._sessions.values()))

    def _working_tags(self) -> tuple[int, ...]:
        items = (*self._jobs.values(), *self._sessions.values())
        return tuple(dict.fromkeys(tag for item in items for tag in item.tags))

    def _count(self, **amounts: float) -> None:
        if amounts:
            self._since_report = self._since_report.plus(**amounts)
            self._totals = self._totals.plus(**amounts)
        for listener in self._listeners:
            listener()

    def _delete_job(self, job: Job, tag: int | None) -> None:
        outcome = _OUTCOMES.get(job.status, RequestOutcome.CANCELLED)
        completed = outcome in (RequestOutcome.SUCCESS, RequestOutcome.ERROR)
        self._delete(
            tag,
            outcome,
            entered_at=job.timings.accepted_at,
            started_at=job.timings.execution_started_at,
            completed_at=(job.timings.finished_at or self._clock.now()) if completed else None,
        )

    def _delete(
        self,
        tag: int | None,
        outcome: RequestOutcome,
        *,
        entered_at: datetime,
        started_at: datetime | None = None,
        completed_at: datetime | None = None,
    ) -> None:
        if not tag:
            return
        if len(self._deleted) >= MOST_UNDELIVERED:
            dropped = self._deleted.popleft()
            log.warning(
                "the autoscaler takes no finished requests, the oldest is dropped",
                extra={"event": "ledger.delete_dropped", "request_idx": dropped.request_idx},
            )
        self._deleted.append(
            DeletedRequest(
                request_idx=tag,
                success=outcome in (RequestOutcome.SUCCESS, RequestOutcome.CANCELLED),
                status=outcome,
                entered_queue_at=entered_at.timestamp(),
                work_started_at=_epoch(started_at),
                work_completed_at=_epoch(completed_at),
            )
        )


def _epoch(moment: datetime | None) -> float:
    return 0.0 if moment is None else moment.timestamp()
