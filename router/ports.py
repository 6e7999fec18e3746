"""What the router keeps, as protocols; ``router.store`` has two implementations, one contract suite for both.

``SharedState`` is what replicas must agree on: workers, requests, reservations, numbers, news. ``JobStore`` holds jobs
that the relay accepted for callers who don't wait. One router alone keeps the first in memory and the second in SQLite;
several share a Redis-protocol server.

Times are epoch seconds (``time.time``), since replicas and restarts must agree on them.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from lib.errors import ServiceError
from router.model import Assignment, Priority


class StoreDown(ServiceError):
    """The store does not answer. Synchronous routing goes on from what is known; nothing new is recorded."""


class Damaged(StoreDown):
    """One record can't be read any more; the others can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """A worker as it last reported: ``report`` is the body of ``/worker_status/`` (unknown keys kept), ``worker`` its
    key, ``<endpoint>/<id>``. ``first_at`` is when it began, as far as is known, ``refused_at`` when it last refused a
    request that we sent it."""

    worker: str
    endpoint: str
    id: int
    group: str
    url: str
    report: Mapping[str, Any]
    heard_at: float
    first_at: float
    refused_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """A request of direct mode by its ``request_idx``. ``worker`` is the one that it was given (empty while it waits),
    ``refused_by`` those that it must not get again, with the moment until when."""

    request_idx: int
    endpoint: str
    tenant: str
    cost: float
    created_at: float
    polled_at: float
    replay_timeout_s: float
    worker: str = ""
    assigned_at: float = 0.0
    reqnum: int = 0
    refused_by: Mapping[str, float] = field(default_factory=dict)
    ended_at: float = 0.0
    """When its worker told that it is over; 0 = not yet."""


class NewsKind(StrEnum):
    """What replicas tell each other."""

    WORKER = "worker"
    ASSIGNED = "assigned"
    SETTLED = "settled"
    JOB = "job"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """One piece of news. ``origin`` is the replica that tells it; it hears its own news too. ``body`` is JSON."""

    kind: NewsKind
    origin: str
    body: Mapping[str, Any]


class SharedState(Protocol):
    """What all replicas see. Each method raises StoreDown when the store does not answer in time."""

    async def next_number(self, name: str) -> int:
        """Return the next number of this counter, from 1, never twice, also after a restart."""
        ...

    async def put_worker(self, record: WorkerRecord, *, ttl_s: float) -> None: ...

    async def drop_worker(self, worker: str) -> None: ...

    async def workers(self) -> Sequence[WorkerRecord]: ...

    async def put_request(self, record: RequestRecord, *, ttl_s: float) -> None: ...

    async def request(self, request_idx: int) -> RequestRecord | None: ...

    async def reserve(self, assignment: Assignment, *, slots: int, ttl_s: float) -> bool:
        """Count this assignment against its worker if that has fewer than ``slots``; atomic over all replicas. False:
        it has not, nothing is changed. Counting the same request on the same worker again only gives it ``ttl_s``
        anew; on another one it moves there."""
        ...

    async def settle(self, request_id: str) -> None:
        """The assignment of this request is over."""
        ...

    async def assignments(self) -> Sequence[Assignment]:
        """All that are not settled and not past their time."""
        ...

    async def lead(self, name: str, holder: str, *, ttl_s: float) -> str:
        """Hold an office, or go on holding it, for ``ttl_s`` from now, if nobody else holds it; answer who does. With
        ``ttl_s`` 0 its holder gives it up."""
        ...

    async def put_note(self, name: str, body: Mapping[str, Any], *, ttl_s: float) -> None:
        """Leave a JSON object for the other replicas, instead of the last one of this name."""
        ...

    async def notes(self) -> Mapping[str, Mapping[str, Any]]:
        """All notes whose time is not over, by name."""
        ...

    async def tell(self, news: News) -> None: ...

    def news(self) -> AbstractAsyncContextManager[AsyncIterator[News]]:
        """Everybody's news from the moment of entering on. Ends with StoreDown when the connection is lost: look at
        everything again then."""
        ...


class JobState(StrEnum):
    """Where a relayed job is. ``DEAD``: it failed for good on our side, after its attempts; a dead letter."""

    WAITING = "waiting"
    LEASED = "leased"
    DONE = "done"
    DEAD = "dead"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        return self in (JobState.DONE, JobState.DEAD, JobState.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try of a job on one worker; ``ended`` says why it is over, empty while it goes on."""

    number: int
    worker: str
    begun_at: float
    ended: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayJob:
    """A job that the relay accepted. ``dialect`` and ``path`` say how a worker is to be asked, ``body`` is the request
    as it came (sealed at rest), ``headers`` those that matter to the worker. ``remote_id`` is the worker's own name of
    the job of the current attempt. ``fence`` grows with each lease: what an older holder writes is refused.

    ``input_bytes`` is the size of the body, ``hooked`` whether it names somebody who is to be told of the end.
    ``result`` is the worker's final answer (status, body), kept as long as the job. ``number`` is what workers and
    dispatcher know it by, 0 until it is first given one; ``run`` counts how often it was begun anew by its owner. It is
    forgotten at ``forget_at`` (0 = with its result). Who has to be told of its end by us is at ``notice_at`` (0 =
    nobody, or done), after ``notices`` tries.
    """

    job_id: str
    request_id: str
    tenant: str
    endpoint: str
    dialect: str
    path: str
    body: bytes = field(repr=False)
    created_at: float
    state: JobState = JobState.WAITING
    priority: Priority = Priority.HIGH
    cost: float = 100.0
    size: float = 100.0
    shape: str = ""
    models: tuple[str, ...] = ()
    input_bytes: int = 0
    hooked: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    idempotency_key: str = ""
    fence: int = 0
    lease_until: float = 0.0
    holder: str = ""
    attempts: tuple[Attempt, ...] = ()
    remote_id: str = ""
    worker: str = ""
    cancel_wanted: bool = False
    finished_at: float = 0.0
    result_status: int = 0
    result: bytes | None = field(default=None, repr=False)
    reason: str = ""
    number: int = 0
    run: int = 1
    forget_at: float = 0.0
    notice_at: float = 0.0
    notices: int = 0


class LeaseLost(ServiceError):
    """Somebody else holds the job by now: stop, and write nothing."""


class JobStore(Protocol):
    """Jobs that survive routers and workers. Raises StoreDown; ``add`` only returns once the job is recorded."""

    async def add(self, job: RelayJob) -> RelayJob:
        """Record a new job. With an idempotency key that is known for its tenant, return the job of then instead."""
        ...

    async def get(self, job_id: str) -> RelayJob | None: ...

    async def find(self, request_id: str, *, tenant: str) -> RelayJob | None:
        """The newest job of this name."""
        ...

    async def lease(
        self, holder: str, *, limit: int, until: float, now: float, apart: Collection[str] = ()
    ) -> Sequence[RelayJob]:
        """Take waiting jobs, those of the tenants ``apart`` excepted, and leased ones whose lease is over, oldest and
        high ones first; each gets a new ``fence``. They come without their bodies, which may be large. What can't be
        read is dead: nobody can do it."""
        ...

    async def held(self, holder: str) -> Mapping[str, int]:
        """The jobs that are leased by this holder, with their fences: an answer of ``lease`` may have been lost."""
        ...

    async def renew(self, fences: Mapping[str, int], *, until: float) -> Mapping[str, bool]:
        """Lengthen the leases of these jobs, each held with this fence. Answers those that still are, and whether they
        are to be cancelled."""
        ...

    async def save(self, job: RelayJob) -> None:
        """Write a job that this caller leased: it goes on, back to its place in the line (``WAITING``), or is over.
        ``cancel_wanted``, once set, stays. Raises: LeaseLost when ``job.fence`` is not the newest, or the job is over
        otherwise or forgotten."""
        ...

    async def want_cancel(self, job_id: str) -> RelayJob | None:
        """Mark it; a waiting one is cancelled at once."""
        ...

    async def counts(self, *, tenant: str | None = None) -> Mapping[JobState, int]:
        """How many there are, everybody's or a tenant's."""
        ...

    async def listed(
        self, *, tenant: str | None, states: Collection[JobState] = tuple(JobState), before: str = "", limit: int
    ) -> Sequence[RelayJob]:
        """Jobs without body and result, the newest first; those that came before the job ``before``, where that is
        named (none, if it is forgotten). ``tenant`` None: everybody's."""
        ...

    async def due(self, *, before: float, limit: int) -> Sequence[RelayJob]:
        """Jobs whose ``notice_at`` is before this moment, the longest overdue first, without body and result."""
        ...

    async def prove(self) -> None:
        """Write something, and nothing: a store that can only be read is down."""
        ...

    async def dead(self, *, tenant: str | None, limit: int) -> Sequence[RelayJob]:
        """Dead letters, the latest first; ``tenant`` None: everybody's."""
        ...

    async def revive(self, job_id: str, *, tenant: str | None, states: Collection[JobState] = (JobState.DEAD,)) -> bool:
        """Let a dead letter (a job that is over in one of ``states``) wait again, as new (no attempts). False: there is
        none of this name."""
        ...

    async def expire(self, *, older_than: float) -> int:
        """Forget finished jobs that ended before this moment; return how many."""
        ...
