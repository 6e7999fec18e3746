"""Direct mode: clients ask for a worker and call it themselves. Here is the memory that goes with a ``request_idx``.

A caller who comes back with its number either polls (it has no worker yet) or was let down by its worker; then it gets
another one, or waits. It is sent back to the same worker only where that is known to have its job still.
"""

import asyncio
import logging
import math
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from lib.clock import Clock
from lib.errors import Overloaded
from lib.protocol.status import DeletedRequest, RequestOutcome
from router.alarm import Alarm
from router.cases import Ending, Outcome
from router.dispatch import Dispatcher
from router.endpoints import Bearer
from router.model import Assignment, Condition
from router.ports import RequestRecord
from router.refusals import Refusal
from router.registry import Epoch, Worker
from router.storelink import StoreLink

log = logging.getLogger(__name__)

ANSWER_S = 9.5
"""Whatever happens, there is an answer by then: the SDK gives up after 10 s."""
LONGEST_REPLAY_S = 3600.0
MOST_IDX = 2**53
"""Numbers have to survive JSON parsers that know doubles only."""
PATIENT_TRIES = 3
"""After so many workers that let a request down, the next answer comes later and later: no caller shall spin."""
FIRST_DELAY_S, LONGEST_DELAY_S = 0.1, 4.0
STAY_S = 2.0
"""A caller who is back sooner was not waiting for a job that its worker still does."""
POLLED_S = 10.0
"""Who has not polled for so long waits no more (the SDK's longest pause is 5 s)."""
MOST_REQUESTS = 200_000
"""Requests that are remembered, the oldest forgotten first."""
REQUESTS = "request_idx"
REQNUMS_A_SECOND = 100
"""More requests in a second no worker gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """The answer to one ``/route/``. ``worker`` None: WAITING."""

    request_idx: int
    cost: float
    worker: Worker | None = None
    reqnum: int = 0
    expected_finish_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class _Request:
    """Moments are monotonic; ``lines`` is how many calls are being answered just now."""

    request_idx: int
    endpoint: str
    tenant: str
    cost: float
    arrived_at: float
    polled_at: float
    replay_timeout_s: float
    worker: str = ""
    assigned_at: float = 0.0
    reqnum: int = 0
    tries: int = 0
    lines: int = 0

    @property
    def id(self) -> str:
        return str(self.request_idx)


class DirectRequests:
    """All numbered requests of this replica; where replicas share a store, they are found there too."""

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        link: StoreLink,
        alarm: Alarm,
        clock: Clock,
        shared: bool,
        replay_timeout_s: float = 60.0,
    ) -> None:
        self._dispatcher = dispatcher
        self._link = link
        self._alarm = alarm
        self._clock = clock
        self._epoch = Epoch(clock)
        self._shared = shared
        self._replay_timeout_s = replay_timeout_s
        self._requests: dict[int, _Request] = {}
        self._between: dict[int, _Request] = {}
        self._reqnums: dict[str, int] = {}
        dispatcher.count_absent(self.absent)

    def __len__(self) -> int:
        return len(self._requests)

    async def route(
        self,
        endpoint: str,
        bearer: Bearer,
        *,
        cost: float,
        request_idx: int = 0,
        replay_timeout_s: float | None = None,
        wait_s: float,
    ) -> Routed:
        """Give the caller a worker, or tell it to come again, after ``wait_s`` at most. Raises: UnknownEndpoint."""
        answer_by = asyncio.get_running_loop().time() + ANSWER_S
        request, again = await self._request(endpoint, bearer, cost=cost, request_idx=request_idx)
        if replay_timeout_s is not None and 0 < replay_timeout_s <= LONGEST_REPLAY_S:
            request.replay_timeout_s = replay_timeout_s
        request.polled_at = self._clock.monotonic()
        self._between.pop(request.request_idx, None)
        request.lines += 1
        try:
            async with asyncio.timeout_at(answer_by):
                return await self._routed(request, bearer, wait_s=wait_s, again=again)
        except TimeoutError:
            log.warning("a route took too long", extra={"event": "route.late", "request_idx": request.request_idx})
            return self._waits(request)
        finally:
            request.lines -= 1
            request.polled_at = self._clock.monotonic()

    async def ended(self, worker: str, items: Iterable[DeletedRequest]) -> None:
        """A worker (its key) is done with requests, one way or another."""
        now = self._clock.monotonic()
        for item in items:
            request_id = str(item.request_idx)
            if (known := self._requests.get(item.request_idx)) is not None and known.worker == worker:
                known.polled_at = now  # its caller may have missed the answer, and come back for it
            match item.status:
                case RequestOutcome.REJECTED:
                    await self._turned_away(item.request_idx, worker)
                    await self._dispatcher.refused(request_id, worker, Refusal.FULL)
                case RequestOutcome.ERROR:
                    await self._dispatcher.refused(request_id, worker, Refusal.FAILED)
                case RequestOutcome.CANCELLED:
                    await self._dispatcher.settle(request_id, Outcome(ending=Ending.CANCELLED, worker=worker))
                case _:
                    outcome = Outcome(ending=Ending.SUCCESS, worker=worker, run_s=_run_s(item))
                    await self._dispatcher.settle(request_id, outcome)

    def absent(self, endpoint: str) -> tuple[int, float]:
        """How many requests wait although nobody holds the line just now, between two polls; and their units."""
        limit = self._clock.monotonic() - POLLED_S
        for idx in [idx for idx, request in self._between.items() if request.polled_at < limit]:
            del self._between[idx]
        costs = [request.cost for request in self._between.values() if request.endpoint == endpoint]
        return len(costs), sum(costs)

    # -- numbers ------------------------------------------------------------------------------------------------------

    async def _request(self, endpoint: str, bearer: Bearer, *, cost: float, request_idx: int) -> tuple[_Request, bool]:
        """The request of this number and whether it is known; somebody else's number (of a relayed request, too), or
        none, gets a new one."""
        sane = 0 < request_idx < MOST_IDX
        known = await self._find(request_idx) if sane else None
        if known is not None and (known.endpoint, known.tenant) == (endpoint, bearer.tenant):
            known.cost = cost
            return known, True
        free = sane and known is None and not self._dispatcher.has(str(request_idx))
        number = request_idx if free else await self.new_number()
        now = self._clock.monotonic()
        request = _Request(
            request_idx=number,
            endpoint=endpoint,
            tenant=bearer.tenant,
            cost=cost,
            arrived_at=now,
            polled_at=now,
            replay_timeout_s=self._replay_timeout_s,
        )
        self._add(request)
        return request, False

    def _add(self, request: _Request) -> None:
        if len(self._requests) >= MOST_REQUESTS:
            self._forget(next(iter(self._requests.values())))
        self._requests[request.request_idx] = request
        self._alarm.at(self._clock.monotonic() + request.replay_timeout_s, self._expire, request.id)

    async def new_number(self) -> int:
        while True:
            number = await self._link.attempt(lambda state: state.next_number(REQUESTS), otherwise=0)
            number = number or int(self._epoch.now()) * 2**20 + secrets.randbelow(2**20)
            if number not in self._requests:
                return number

    async def _find(self, request_idx: int) -> _Request | None:
        here = self._requests.get(request_idx)
        if not self._shared:
            return here
        record = await self._link.attempt(lambda state: state.request(request_idx), otherwise=None, writes=False)
        if record is None:
            return here
        request = here or self._from(record)
        request.worker, request.reqnum = record.worker, record.reqnum
        request.assigned_at = self._epoch.monotonic(record.assigned_at)
        refused = {worker: self._epoch.monotonic(until) for worker, until in record.refused_by.items()}
        self._dispatcher.refusals.restore(request.id, refused, self._clock.monotonic())
        if here is None:
            self._add(request)
        return request

    def _from(self, record: RequestRecord) -> _Request:
        return _Request(
            request_idx=record.request_idx,
            endpoint=record.endpoint,
            tenant=record.tenant,
            cost=record.cost,
            arrived_at=self._epoch.monotonic(record.created_at),
            polled_at=self._epoch.monotonic(record.polled_at),
            replay_timeout_s=record.replay_timeout_s,
        )

    async def _keep(self, request: _Request) -> None:
        """For the other replicas."""
        if not self._shared:
            return
        until = self._dispatcher.refusals.until(request.id)
        record = RequestRecord(
            request_idx=request.request_idx,
            endpoint=request.endpoint,
            tenant=request.tenant,
            cost=request.cost,
            created_at=self._epoch.of(request.arrived_at),
            polled_at=self._epoch.of(request.polled_at),
            replay_timeout_s=request.replay_timeout_s,
            worker=request.worker,
            assigned_at=self._epoch.of(request.assigned_at),
            reqnum=request.reqnum,
            refused_by={worker: self._epoch.of(moment) for worker, moment in until.items()},
        )
        ttl_s = request.replay_timeout_s + POLLED_S
        await self._link.attempt(lambda state: state.put_request(record, ttl_s=ttl_s), otherwise=None)

    def _expire(self, request_id: str) -> None:
        request = self._requests.get(int(request_id))
        if request is None:
            return
        now = self._clock.monotonic()
        busy = request.lines > 0 or self._dispatcher.assignment(request_id) is not None
        due = max(request.polled_at, now if busy else 0.0) + request.replay_timeout_s
        if due > now:
            self._alarm.at(due, self._expire, request_id)
            return
        self._forget(request)

    def _forget(self, request: _Request) -> None:
        del self._requests[request.request_idx]
        self._between.pop(request.request_idx, None)
        self._dispatcher.refusals.forget(request.id)

    # -- answers ------------------------------------------------------------------------------------------------------

    async def _routed(self, request: _Request, bearer: Bearer, *, wait_s: float, again: bool) -> Routed:
        if request.worker and (stays := await self._let_down(request)) is not None:
            return await self._ready(request, stays, finish_at=0.0)
        wait_s -= await self._delay(request, most_s=wait_s)
        assignment = await self._assign(request, bearer, wait_s=wait_s, again=again)
        worker = self._dispatcher.worker(assignment.worker) if assignment else None
        if assignment is None or worker is None:
            await self._keep(request)
            return self._waits(request)
        request.tries += 1
        return await self._ready(request, worker, finish_at=assignment.expected_finish_at)

    def _waits(self, request: _Request) -> Routed:
        self._between[request.request_idx] = request
        return Routed(request_idx=request.request_idx, cost=request.cost)

    async def _assign(self, request: _Request, bearer: Bearer, *, wait_s: float, again: bool) -> Assignment | None:
        ask = self._dispatcher.learning.ask(
            request.id,
            endpoint=request.endpoint,
            arrived_at=request.arrived_at,
            cost=request.cost,
            tenant=request.tenant,
            priority=bearer.priority,
        )
        try:
            return await self._dispatcher.assign(
                ask, wait_s=max(wait_s, 0.0), ttl_s=request.replay_timeout_s, again=again
            )
        except Overloaded:  # the protocol has no word for it: such a caller waits outside
            return None

    async def _ready(self, request: _Request, worker: Worker, *, finish_at: float) -> Routed:
        request.worker, request.assigned_at = worker.key, self._clock.monotonic()
        try:
            request.reqnum = await self.next_reqnum(worker.key)
            await self._keep(request)
        except asyncio.CancelledError:  # the caller is gone, nobody takes the place up
            request.worker = ""
            await self._dispatcher.settle(request.id, Outcome(ending=Ending.CANCELLED))
            raise
        return Routed(
            request_idx=request.request_idx,
            cost=request.cost,
            worker=worker,
            reqnum=request.reqnum,
            expected_finish_s=max(finish_at - self._clock.monotonic(), 0.0),
        )

    async def next_reqnum(self, worker: str) -> int:
        """Dense and growing for each worker, over restarts too: old ones refuse what lies far behind the highest, all
        of them count a number that comes twice as one request. A router alone starts at the time of day."""
        before = self._reqnums.get(worker) or int(self._epoch.now() * REQNUMS_A_SECOND)
        number = before + 1
        if self._shared:
            name = f"reqnum/{worker}"
            number = await self._link.attempt(lambda state: state.next_number(name), otherwise=0) or number
        self._reqnums[worker] = number
        return number

    async def _turned_away(self, request_idx: int, worker: str) -> None:
        """The worker itself says why its caller will be back; there is nothing worse to be thought of it then."""
        request = await self._find(request_idx)
        if request is not None and request.worker == worker:
            request.worker = ""
            await self._keep(request)

    async def _let_down(self, request: _Request) -> Worker | None:
        """The caller had a worker and is back. Answer that one if it still does the job: it takes the caller back."""
        worker, now = self._dispatcher.worker(request.worker), self._clock.monotonic()
        given = self._dispatcher.assignment(request.id)
        if (
            worker is not None
            and given is not None
            and worker.is_ours
            and worker.condition in (Condition.READY, Condition.DRAINING)
            and request.id in worker.working
            and now - request.assigned_at >= STAY_S
        ):
            return worker
        reason = Refusal.UNKNOWN if given is not None else Refusal.FAILED
        if request.worker not in self._dispatcher.refusals.of(request.id, now):
            await self._dispatcher.refused(request.id, request.worker, reason)
        request.worker = ""
        return None

    async def _delay(self, request: _Request, *, most_s: float) -> float:
        if request.tries < PATIENT_TRIES:
            return 0.0
        delay_s = min(FIRST_DELAY_S * 2.0 ** min(request.tries - PATIENT_TRIES, 10), LONGEST_DELAY_S, most_s)
        await self._clock.sleep(delay_s)
        return delay_s


def _run_s(item: DeletedRequest) -> float | None:
    """How long it ran; both moments are the worker's clock's."""
    run_s = item.work_completed_at - item.work_started_at
    return run_s if item.work_started_at > 0 and run_s > 0 and math.isfinite(run_s) else None
