"""The policies' one face to the dispatcher: workers and outcomes come in, placements go out. Deterministic."""

import random
from collections import OrderedDict
from collections.abc import Iterable
from operator import attrgetter

from router.choose.early import Draw
from router.choose.explain import SHOWN, Decision, exclusions, explanation
from router.choose.hybrid import decide
from router.choose.passes import Pass
from router.choose.pool import Pool
from router.choose.search import Search
from router.choose.tuning import Tuning
from router.estimate import OfferedLoad, Speeds, expected_wait
from router.model import Ask, Assignment, Exclusion, Explanation, Placement, Policy, Reason, Wait, WorkerView

SOON_S = 0.01
"""Nobody needs to plan again earlier than this."""


class Chooser:
    """Places asks on workers. What it placed counts against the worker until ``settle``."""

    def __init__(
        self,
        policy: Policy,
        *,
        chance: random.Random,
        speeds: Speeds,
        load: OfferedLoad,
        tuning: Tuning | None = None,
    ) -> None:
        self.policy = policy
        self.speeds = speeds
        self._chance = chance
        self._load = load
        self._tuning = tuning or Tuning()
        self._pools: dict[str, Pool] = {}
        self._draws: dict[str, Draw] = {}
        self._endpoints: dict[str, str] = {}
        self._holders: dict[str, str] = {}
        self._decisions: OrderedDict[str, Decision] = OrderedDict()

    # -- what is known ------------------------------------------------------------------------------------------------

    def put(self, view: WorkerView, now: float) -> None:
        """A worker is new, or reported. One that moved to another endpoint leaves what it held behind."""
        if self._endpoints.get(view.worker, view.endpoint) != view.endpoint:
            self.drop(view.worker)
        pool = self._pools.get(view.endpoint)
        if pool is None:
            pool = self._pools[view.endpoint] = Pool(self._tuning, self.speeds)
            self._draws[view.endpoint] = Draw(pool, chance=self._chance, max_queue_s=self._tuning.max_queue_s)
        pool.put(view)
        self._endpoints[view.worker] = view.endpoint

    def drop(self, worker: str) -> tuple[Assignment, ...]:
        """A worker is gone; what it still held."""
        endpoint = self._endpoints.pop(worker, None)
        if endpoint is None:
            return ()
        held = self._pools[endpoint].drop(worker)
        for assignment in held:
            self._holders.pop(assignment.request_id, None)
        return held

    def note(self, assignment: Assignment) -> None:
        """Another replica assigned this; one that is known already is left as it is."""
        pool = self._pools.get(assignment.endpoint)
        seat = pool.seats.get(assignment.worker) if pool else None
        if pool is not None and seat is not None and assignment.request_id not in self._holders:
            pool.assign(seat, assignment)
            self._holders[assignment.request_id] = assignment.worker

    def started(self, request_id: str, now: float) -> None:
        """A request is known to run since now."""
        if (worker := self._holders.get(request_id)) is not None:
            pool = self._pools[self._endpoints[worker]]
            pool.started(pool.seats[worker], request_id, now)

    def settle(self, request_id: str, now: float) -> Assignment | None:
        """A request is over, was refused, or its reservation was not granted."""
        worker = self._holders.pop(request_id, None)
        if worker is None:
            return None
        pool = self._pools[self._endpoints[worker]]
        return pool.settle(pool.seats[worker], request_id, now)

    def rest(self, endpoint: str, workers: frozenset[str]) -> None:
        """Keep these workers of an endpoint free for release, and only these."""
        if endpoint in self._pools:
            self._pools[endpoint].rest(workers)

    # -- decisions ----------------------------------------------------------------------------------------------------

    def plan(self, asks: Iterable[Ask], now: float) -> list[Placement]:
        """Decide for waiting asks in their order, until no worker has room or the window ends."""
        passes: dict[str, Pass] = {}
        placements: list[Placement] = []
        for ask in asks:
            current = passes.get(ask.endpoint)
            if current is None:
                current = passes[ask.endpoint] = self._begin(ask.endpoint, now)
            if current.closed:
                if len(passes) >= len(self._pools) and all(one.closed for one in passes.values()):
                    break
            elif current.is_open_to(ask):
                placements.append(placement := current.place(ask))
                self._remember(placement, current)
        return placements

    def explain(
        self, ask: Ask, now: float, *, because: Reason | None = None, free: Reason = Reason.LATER
    ) -> Explanation:
        """What would be decided for this ask now, with every worker that it could have. ``because`` is known to be the
        reason why it waits; ``free`` is, if it could have a worker."""
        current = self._begin(ask.endpoint, now)
        pool = current.pool
        search = Search(pool, ask, at=now, theta=current.theta)
        seats = [seat for seat in pool.seats.values() if seat.exclusion(ask) is None and not seat.resting]
        scores = sorted(map(search.score, seats), key=attrgetter("total"))
        verdict = decide(search.run(), theta=current.theta)
        placement = Placement(
            ask=ask,
            reason=because or pool.empty or (free if verdict.taken else verdict.reason),
            awaited=verdict.awaited.seat.view.worker if verdict.awaited else None,
        )
        return explanation(current.decision(placement, scores), self.policy, exclusions(pool, ask))

    def explained(self, request_id: str) -> Explanation | None:
        """One of the last assignments, with the figures that it was made on."""
        decision = self._decisions.get(request_id)
        if decision is None:
            return None
        refused_by = decision.placement.ask.refused_by
        return explanation(decision, self.policy, {Exclusion.REFUSED: len(refused_by)} if refused_by else {})

    def asked(self, request_id: str) -> Ask | None:
        """What one of the last assignments was made for."""
        decision = self._decisions.get(request_id)
        return decision.placement.ask if decision else None

    def wait(self, ask: Ask, *, ahead: float, now: float) -> Wait | None:
        """Expected start of an ask with ``ahead`` units queued before it; None where no worker can do it."""
        pool = self._pools.get(ask.endpoint)
        seats = [seat for seat in pool.seats.values() if seat.exclusion(ask) is None] if pool else []
        engines = [(seat.wait(now), seat.speed) for seat in seats for _ in range(seat.view.engines)]
        return expected_wait(engines, ahead=ahead, spread=ask.size_p90 / ask.size if ask.size > 0 else 1.0)

    def next_change(self, endpoint: str, now: float) -> float | None:
        """When to plan again though nothing happened: the next moment a busy worker may be handed one more."""
        pool = self._pools.get(endpoint)
        if pool is None:
            return None
        at = pool.next_room_at(now)
        return None if at is None else max(at, now + SOON_S)

    # -- what others ask ----------------------------------------------------------------------------------------------

    def assignment(self, request_id: str) -> Assignment | None:
        """Who has a request."""
        worker = self._holders.get(request_id)
        return self._pools[self._endpoints[worker]].seats[worker].held[request_id] if worker is not None else None

    def held(self, worker: str) -> tuple[Assignment, ...]:
        """What a worker has of ours, in the order in which it got it."""
        endpoint = self._endpoints.get(worker)
        return () if endpoint is None else tuple(self._pools[endpoint].seats[worker].held.values())

    def capacity(self, endpoint: str) -> float:
        """Units per second of its ready workers."""
        pool = self._pools.get(endpoint)
        return pool.capacity if pool else 0.0

    def load(self, endpoint: str, now: float) -> float:
        """Offered work over capacity; 1 without capacity."""
        capacity = self.capacity(endpoint)
        return self._load.rate(endpoint, now) / capacity if capacity > 0 else 1.0

    # -- inside -------------------------------------------------------------------------------------------------------

    def _begin(self, endpoint: str, now: float) -> Pass:
        pool = self._pools.get(endpoint) or Pool(self._tuning, self.speeds)
        draw = self._draws.get(endpoint) or Draw(pool, chance=self._chance, max_queue_s=self._tuning.max_queue_s)
        return Pass(self.policy, pool, draw, at=now, load=self.load(endpoint, now))

    def _remember(self, placement: Placement, current: Pass) -> None:
        """Keep an assignment: who holds the request, and the figures that it was made on."""
        request_id, assignment = placement.ask.request_id, placement.assignment
        if assignment is not None:
            self._holders[request_id] = assignment.worker
            self._decisions[request_id] = current.decision(placement, current.looked[:SHOWN])
            if len(self._decisions) > self._tuning.remembered:
                self._decisions.popitem(last=False)
