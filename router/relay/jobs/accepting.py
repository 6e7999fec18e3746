"""From a request to a recorded job: read, named, told apart from those that came before, recorded, announced."""

import asyncio
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from lib.clock import Clock
from lib.errors import IdempotencyMismatch, InvalidRequest, JobConflict, NotReady, Overloaded
from router.desk import LONGEST_RETRY_S
from router.dispatch import Dispatcher, Figures
from router.model import Ask
from router.ports import JobState, JobStore, RelayJob, StoreDown
from router.relay.jobs import requests
from router.relay.jobs.forms import KEY_HEADER, Dialect
from router.relay.jobs.naming import owner_of
from router.relay.ports import Visitor, Work

CARRIED = ("X-Return-Outputs-As-Base64", "X-Include-ComfyUI-Response", "traceparent", "tracestate")
"""Headers of the request that change what a worker does."""
MOST_KEY_CHARS = 255
RETRY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A recorded job. ``replayed``: it came before, with the same ``Idempotency-Key``, and is over; ``behind``: so many
    jobs of its owner wait in the store."""

    job: RelayJob
    replayed: bool = False
    behind: int = 0


class Accepting:
    """``announce`` tells everybody that there is a job to do."""

    def __init__(
        self, jobs: JobStore, *, dispatcher: Dispatcher, clock: Clock, announce: Callable[[RelayJob], None]
    ) -> None:
        self._jobs = jobs
        self._dispatcher = dispatcher
        self._clock = clock
        self._announce = announce

    async def accept(
        self,
        request: web.Request,
        *,
        visitor: Visitor,
        dialect: Dialect,
        path: str,
        body: bytes,
        work: Work,
        awaited: bool = False,
    ) -> Accepted:
        """Record it. Raises: InvalidRequest, JobConflict, IdempotencyMismatch, Overloaded, NotReady (the store is down:
        nothing is accepted that can't be recorded)."""
        key = idempotency_key(request.headers)
        big = len(body) >= requests.BIG_BODY_BYTES
        reading = asyncio.to_thread(requests.read, dialect, body, awaited=awaited) if big else None
        asked = await reading if reading is not None else requests.read(dialect, body, awaited=awaited)
        now = self._clock.now().timestamp()
        job = RelayJob(
            job_id=str(uuid.uuid4()),
            request_id=asked.name,
            tenant=owner_of(visitor),
            endpoint=visitor.endpoint,
            dialect=dialect,
            path=path,
            body=asked.body,
            created_at=now,
            priority=work.priority or visitor.priority,
            cost=work.cost,
            size=self._usual(visitor, work).size,
            input_bytes=len(asked.body),
            hooked=asked.hooked,
            shape=work.kind,
            models=work.models,
            headers={name: request.headers[name] for name in CARRIED if name in request.headers},
            idempotency_key=f"{path} {key}" if key else "",
            forget_at=now + asked.live_s if asked.live_s else 0.0,
        )
        try:
            return await self._recorded(job, visitor, work=work, given=body)
        except StoreDown as error:
            raise NotReady("Jobs can't be recorded now; send it again.", retry_after_s=RETRY_S) from error

    def expected_s(self, visitor: Visitor, work: Work, *, behind: int = 0) -> float | None:
        """When a job like this would start, if ``behind`` like it wait in the store; None: no worker can do it."""
        ask, desk = self._usual(visitor, work), self._dispatcher.desk(visitor.endpoint)
        wait, capacity = desk.forecast(ask, ask.arrived_at), desk.chooser.capacity(visitor.endpoint)
        return None if wait is None or capacity <= 0 else wait.likely_s + behind * ask.size / capacity

    def _usual(self, visitor: Visitor, work: Work) -> Ask:
        return self._dispatcher.learning.ask(
            "",
            endpoint=visitor.endpoint,
            arrived_at=self._clock.monotonic(),
            cost=work.cost,
            kind=work.kind,
            prior=work.prior,
        )

    def figures(self, endpoint: str) -> Figures:
        """An endpoint in numbers."""
        return self._dispatcher.figures(endpoint)

    async def _recorded(self, job: RelayJob, visitor: Visitor, *, work: Work, given: bytes) -> Accepted:
        if (live := await self._live(job, given)) is not None:
            return Accepted(job=live)
        behind = await self._check_room(job, visitor, work)
        try:
            recorded = await self._jobs.add(job)
        except StoreDown as error:
            recorded = await self._looked_up(job, error)
        if recorded.job_id == job.job_id:
            self._announce(recorded)
            return Accepted(job=recorded, behind=behind)
        if not _same(recorded, job, given):
            raise IdempotencyMismatch(
                f"This {KEY_HEADER} was used before, with another body; choose another key.", details=_named(recorded)
            )
        if not recorded.state.over:
            raise JobConflict(
                f"The job of this {KEY_HEADER} is not finished; ask for its result.", details=_named(recorded)
            )
        return Accepted(job=recorded, replayed=True)

    async def _looked_up(self, job: RelayJob, trouble: StoreDown) -> RelayJob:
        """What is recorded although nobody heard of it: the connection may have broken off behind the request. Raises:
        StoreDown (``trouble``: nothing is), NotReady (nobody knows)."""
        try:
            known = await self._jobs.get(job.job_id)
        except StoreDown as error:
            text = f"The store fell silent: job {job.job_id} may be recorded. Ask for it before you send it again."
            raise NotReady(text, details=_named(job), retry_after_s=RETRY_S) from error
        if known is None:
            raise trouble
        return known

    async def _live(self, job: RelayJob, given: bytes) -> RelayJob | None:
        """The same job, where it is not over. Raises: JobConflict for another one of its name."""
        if job.dialect == Dialect.RUNPOD:
            return None
        known = await self._jobs.find(job.request_id, tenant=job.tenant)
        if known is None or known.state.over or known.cancel_wanted:
            return None
        if job.idempotency_key and known.idempotency_key == job.idempotency_key:
            return None  # the key decides
        if not _same(known, job, given):
            raise JobConflict(
                "This request_id is in use by a job that is not finished, with another body; choose another one.",
                details=_named(known),
            )
        return known

    async def _check_room(self, job: RelayJob, visitor: Visitor, work: Work) -> int:
        """How many of a tenant wait in the store. Raises: Overloaded where it has as many waiting as it may."""
        endpoint = self._dispatcher.endpoints.find(visitor.endpoint)
        tenant = endpoint.tenant(visitor.tenant)
        caps = (endpoint.settings.max_waiting, tenant.max_waiting if tenant else None)
        most = min(cap for cap in caps if cap is not None)
        counts = await self._jobs.counts(tenant=job.tenant)
        waiting, leased = counts[JobState.WAITING], counts[JobState.LEASED]
        if waiting + leased < most:
            return waiting
        held = await self._jobs.listed(tenant=job.tenant, states=(JobState.LEASED,), limit=max(leased, 1))
        if waiting + sum(not one.worker for one in held) >= most:
            first_s = self.expected_s(visitor, work)
            after_s = LONGEST_RETRY_S if first_s is None else min(max(first_s, RETRY_S), LONGEST_RETRY_S)
            raise Overloaded(f"{most} jobs wait already; retry shortly", retry_after_s=after_s)
        return waiting


def idempotency_key(headers: Mapping[str, str]) -> str:
    """The caller's key, "" for none. Raises: InvalidRequest."""
    key = headers.get(KEY_HEADER)
    if key is None or (0 < len(key) <= MOST_KEY_CHARS and key.isascii() and key.isprintable()):
        return key or ""
    text = f"{KEY_HEADER} must be 1 to {MOST_KEY_CHARS} printable ASCII characters"
    raise InvalidRequest(
        text, details={"errors": [{"type": "value_error", "loc": ["header", KEY_HEADER], "msg": text}]}
    )


def _same(known: RelayJob, job: RelayJob, given: bytes) -> bool:
    """Whether both come of the same request; where it has no name, each got one of its own."""
    return known.body in (given, job.body) or known.body == requests.renamed(job, known.request_id)


def _named(job: RelayJob) -> dict[str, str]:
    return {"job_id": job.job_id, "request_id": job.request_id}
