"""What wire, relay, scaling and page call: ask for a worker, say how it ended, look at the fleet.

``router.planner`` holds what waits and what was given, ``router.fleet`` the workers; this is their one face.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lib.clock import Clock
from router.bulletin import Bulletin
from router.cases import Decided, Ending, Outcome
from router.changes import Changes
from router.desk import Desk, come_again_s
from router.endpoints import Bearer, Endpoints, Scope
from router.estimate import slow_workers
from router.experience import Experience
from router.fleet import Fleet
from router.learning import Learning
from router.metrics import RouterMetrics
from router.model import Ask, Assignment, Condition, Explanation, Wait
from router.planner import TTL_S, Planner
from router.ports import WorkerRecord
from router.refusals import Refusal, Refusals
from router.registry import Registry, Worker
from router.storelink import StoreLink

USUAL_COST = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """An endpoint in numbers: work in units, speeds in units per second. ``rate`` is what comes in."""

    endpoint: str
    rate: float
    capacity: float
    waiting_count: int
    waiting_work: float
    given_count: int
    given_work: float
    foreign_load: float
    workers: dict[Condition, int]
    slow: dict[str, float]
    """Workers far below the median of their kind, with the share that they reach."""
    wait: Wait | None


class Dispatcher:
    """All of one replica, on one event loop."""

    def __init__(
        self,
        *,
        endpoints: Endpoints,
        registry: Registry,
        planner: Planner,
        fleet: Fleet,
        learning: Learning,
        experience: Experience,
        link: StoreLink,
        bulletin: Bulletin,
        metrics: RouterMetrics,
        clock: Clock,
    ) -> None:
        self.endpoints = endpoints
        self.learning = learning
        self._registry = registry
        self._planner = planner
        self._fleet = fleet
        self._experience = experience
        self._link = link
        self._bulletin = bulletin
        self._metrics = metrics
        self._clock = clock
        self._stopping = False
        self._absent: Callable[[str], tuple[int, float]] = lambda endpoint: (0, 0.0)

    # -- requests -----------------------------------------------------------------------------------------------------

    async def assign(
        self,
        ask: Ask,
        *,
        wait_s: float,
        kind: str = "",
        prior: float | None = None,
        ttl_s: float = TTL_S,
        again: bool = False,
    ) -> Assignment | None:
        """Give the request a worker; hold it for ``wait_s`` if there is none now. None: the time is over.

        Who leaves gives the place up; who has a worker gets the same answer again. ``kind`` and ``prior`` are those of
        ``Learning.ask``. ``ttl_s`` is how long the assignment counts while nothing is heard of it. ``again``: it is a
        retry or a poll, no new work. Raises: Overloaded (caps), UnknownEndpoint.
        """
        self.endpoints.find(ask.endpoint)
        if (given := self._planner.assignment(ask.request_id)) is not None:
            return given
        now, wait_s = self._clock.monotonic(), 0.0 if self._stopping else wait_s
        if not again:
            self.learning.load.arrived(ask.endpoint, size=ask.size, now=now)
        case = self._planner.open(
            ask, kind=kind, prior=ask.cost if prior is None else prior, ttl_s=ttl_s, deadline=now + wait_s
        )
        try:
            return await case.waiter
        except asyncio.CancelledError:
            self._planner.leave(case)
            raise

    async def settle(self, request_id: str, outcome: Outcome) -> Assignment | None:
        """The request is over on its worker; answer what was given. A word that comes late still teaches."""
        case = self._planner.cases.get(request_id)
        given = self._planner.release(request_id, worker=outcome.worker)
        if case is not None:
            self._experience.take(case, outcome, given)
        self._planner.forget(request_id)
        if given is not None:
            self._metrics.ended(outcome.ending)
            self._planner.plan(given.endpoint)
            elsewhere = case is None and outcome.ending is Ending.SUCCESS
            await self._bulletin.over(request_id, run_s=outcome.run_s if elsewhere else None)
        return given

    async def refused(self, request_id: str, worker: str, reason: Refusal) -> None:
        """The worker did not do it: it is not given this request for a while, and is probed if it may be dead."""
        self.refusals.add(request_id, worker, reason, self._clock.monotonic())
        self._metrics.refused(reason)
        given = self._planner.release(request_id, worker=worker)
        self._fleet.refused(worker, reason)
        if given is not None:
            self._planner.plan(given.endpoint)
            await self._bulletin.over(request_id)

    def keep(self, request_id: str) -> None:
        """Its worker is at it: the assignment counts for another ``ttl_s``."""
        self._planner.keep(request_id)

    def assignment(self, request_id: str) -> Assignment | None:
        """Who has a request now."""
        return self._planner.assignment(request_id)

    def has(self, request_id: str) -> bool:
        """Whether a request of this name waits at this replica, or was given a worker by it."""
        return request_id in self._planner.cases

    def explain(self, request_id: str) -> Explanation | None:
        """Why a request is where it is; None: nothing is known of it any more."""
        now = self._clock.monotonic()
        found = (desk.explain(request_id, now) for desk in self._planner.desks.values())
        return next((one for one in found if one is not None), None)

    def may_know(self, request_id: str, bearer: Bearer) -> bool:
        """Whether a request is this caller's: a tenant's own, or of an endpoint's key."""
        found = (desk.asked(request_id) for name, desk in self._planner.desks.items() if bearer.reaches(name))
        ask = next((one for one in found if one is not None), None)
        return ask is not None and (bearer.scope is not Scope.TENANT or ask.tenant == bearer.tenant != "")

    def retry_after_s(self, ask: Ask) -> float:
        """When it makes sense to come again with a request that found no worker."""
        return come_again_s(self.desk(ask.endpoint).forecast(ask, self._clock.monotonic()))

    def stop_waiting(self) -> None:
        """The router stops: who waits is told to come again, and nobody waits from now on."""
        self._stopping = True
        self._planner.send_away()

    # -- workers ------------------------------------------------------------------------------------------------------

    async def heard(self, record: WorkerRecord) -> None:
        """A worker reported to this replica (``router.registry.record_of`` makes the record)."""
        self._metrics.reported()
        await self._fleet.heard(record)

    def workers(self, endpoint: str | None = None) -> Sequence[Worker]:
        """The fleet, or one endpoint's workers."""
        return tuple(self._registry) if endpoint is None else self._registry.of(endpoint)

    def worker(self, key: str) -> Worker | None:
        """One worker by its key, ``<endpoint>/<id>``."""
        return self._registry.get(key)

    def held(self, worker: str) -> Sequence[Assignment]:
        """What a worker has been given."""
        return self._planner.held(worker)

    def rest(self, endpoint: str, workers: frozenset[str]) -> None:
        """Keep these workers of an endpoint free for release, and only these."""
        self.desk(endpoint).chooser.rest(endpoint, workers)
        self._planner.plan(endpoint)

    def stopped(self, worker: str) -> None:
        """The operator's provider stopped it: it gets nothing until it reports again."""
        self._fleet.stopped(worker)

    async def drop(self, worker: str) -> None:
        """It will not come back."""
        await self._fleet.drop(worker)

    # -- figures ------------------------------------------------------------------------------------------------------

    @property
    def changes(self) -> Changes:
        """Tells of whatever changes."""
        return self._planner.changes

    @property
    def refusals(self) -> Refusals:
        """Who must not get what."""
        return self._planner.refusals

    @property
    def decisions(self) -> Sequence[Decided]:
        """The last decisions, the oldest first."""
        return tuple(self._planner.decisions)

    @property
    def degraded(self) -> str | None:
        """Why the store can't be used now; None: it can."""
        return self._link.trouble

    def desk(self, endpoint: str) -> Desk:
        """Queue and chooser of an endpoint, to look at. Raises: UnknownEndpoint."""
        self.endpoints.find(endpoint)
        return self._planner.desks[endpoint]

    def count_absent(self, absent: Callable[[str], tuple[int, float]]) -> None:
        """Who knows of requests that wait between two polls: their number and units, by endpoint."""
        self._absent = absent

    def figures(self, endpoint: str) -> Figures:
        """An endpoint in numbers. Raises: UnknownEndpoint."""
        desk, now = self.desk(endpoint), self._clock.monotonic()
        workers = self._registry.of(endpoint)
        absent_count, absent_work = self._absent(endpoint)
        given = [one for worker in workers for one in desk.chooser.held(worker.key)]
        conditions = Counter(worker.condition for worker in workers)
        usual = self.learning.ask("", endpoint=endpoint, arrived_at=now, cost=USUAL_COST)
        return Figures(
            endpoint=endpoint,
            rate=self.learning.load.rate(endpoint, now),
            capacity=desk.chooser.capacity(endpoint),
            waiting_count=len(desk.queue) + absent_count,
            waiting_work=desk.queue.work + absent_work,
            given_count=len(given),
            given_work=sum(one.size for one in given),
            foreign_load=sum(worker.view.foreign_load for worker in workers),
            workers={one: conditions[one] for one in Condition},
            slow=self._slow(workers),
            wait=desk.forecast(usual, now),
        )

    def _slow(self, workers: Sequence[Worker]) -> dict[str, float]:
        """Cards that are throttled, shared or broken: by what their jobs show, against others of their kind."""
        ready = [worker for worker in workers if worker.condition is Condition.READY]
        factor = self.learning.speeds.factor
        perfs = {worker.key: worker.view.perf * factor(worker.key, "") for worker in ready}
        return slow_workers({worker.key: worker.kind for worker in ready}, perfs)
