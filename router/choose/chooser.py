"""The policies' one face to the dispatcher: workers and outcomes come in, placements go out. Deterministic."""

import random
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from router.choose import hybrid
from router.choose.early import Draw, choose
from router.choose.explain import SHOWN, Decision, exclusions, explanation
from router.choose.hybrid import Verdict
from router.choose.pool import Pool
from router.choose.search import Score, Search
from router.choose.tuning import Tuning
from router.estimate import OfferedLoad, Speeds, expected_wait
from router.model import Ask, Assignment, Explanation, Placement, Policy, Reason, Wait, WorkerView

WORKERS_PER_ASK = 40
"""A pass looks at one more waiting request for so many workers."""
SOON_S = 0.01
"""Nobody needs to plan again earlier than this."""


@dataclass(slots=True, kw_only=True)
class _Pass:
    """One endpoint in one planning pass."""

    pool: Pool
    draw: Draw
    at: float
    load: float
    theta: float
    window: int
    seen: int = 0
    closed: bool = False


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
        passes: dict[str, _Pass] = {}
        placements: list[Placement] = []
        for ask in asks:
            current = passes.get(ask.endpoint)
            if current is None:
                current = passes[ask.endpoint] = self._begin(ask.endpoint, now)
            if current.closed:
                if len(passes) >= len(self._pools) and all(one.closed for one in passes.values()):
                    break
            else:
                current.seen += 1
                if not self._stands(current, ask):
                    placements.append(self._place(current, ask))
                elif current.seen >= current.window:
                    current.closed = True
        return placements

    def explain(self, ask: Ask, now: float) -> Explanation:
        """What would be decided for this ask now, with every worker that it could have."""
        current = self._begin(ask.endpoint, now)
        pool = current.pool
        search = Search(pool, ask, at=now, theta=current.theta)
        seats = [seat for seat in pool.seats.values() if seat.exclusion(ask) is None and not seat.resting]
        scores = sorted(map(search.score, seats), key=lambda score: score.total)
        verdict = hybrid.decide(search.run(), theta=current.theta)
        placement = Placement(
            ask=ask,
            reason=_empty(pool) or (Reason.LATER if verdict.taken else verdict.reason),
            awaited=verdict.awaited.seat.view.worker if verdict.awaited else None,
        )
        decision = self._decision(current, placement, scores)
        return explanation(decision, self.policy, exclusions(pool, ask))

    def explained(self, request_id: str) -> Explanation | None:
        """One of the last assignments, with the figures that it was made on."""
        decision = self._decisions.get(request_id)
        return explanation(decision, self.policy, {}) if decision else None

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

    # -- one pass -----------------------------------------------------------------------------------------------------

    def _begin(self, endpoint: str, now: float) -> _Pass:
        load = self.load(endpoint, now)
        pool = self._pools.get(endpoint) or Pool(self._tuning, self.speeds)
        draw = self._draws.get(endpoint) or Draw(pool, chance=self._chance, max_queue_s=self._tuning.max_queue_s)
        current = _Pass(
            pool=pool,
            draw=draw,
            at=now,
            load=load,
            theta=hybrid.theta(load, self._tuning),
            window=max(self._tuning.window, len(pool.seats) // WORKERS_PER_ASK),
        )
        pool.waits.purge(now)
        self._close(current)
        return current

    def _stands(self, current: _Pass, ask: Ask) -> bool:
        """Whether the ask goes on waiting for the same worker: none that got room since would do it earlier."""
        waits = current.pool.waits
        promise = waits.standing(ask, current.at)
        if promise is None:
            return False
        if promise.serial == waits.serial:
            return True
        search, left_s = Search(current.pool, ask, at=current.at, theta=current.theta), promise.finish_at - current.at
        return not any(
            seat.has_room(current.at) and search.may_win(seat, left_s) and seat.exclusion(ask) is None
            for seat in waits.news(promise)
        )

    def _place(self, current: _Pass, ask: Ask) -> Placement:
        verdict, looked = self._verdict(current, ask)
        if verdict.taken is None:
            return self._wait(current, ask, verdict)
        assignment = _assignment(ask, verdict.taken, current.at)
        placement = Placement(ask=ask, reason=verdict.reason, assignment=assignment)
        current.pool.assign(verdict.taken.seat, assignment)
        current.pool.waits.drop(ask.request_id)
        self._holders[assignment.request_id] = assignment.worker
        self._remember(self._decision(current, placement, looked[:SHOWN]))
        self._close(current)
        return placement

    def _verdict(self, current: _Pass, ask: Ask) -> tuple[Verdict, list[Score]]:
        if self.policy is not Policy.HYBRID:
            search = Search(current.pool, ask, at=current.at, theta=0.0)
            verdict = choose(self.policy, ask, now=current.at, search=search, draw=current.draw)
            return verdict, [verdict.taken] if verdict.taken else []
        found = Search(current.pool, ask, at=current.at, theta=current.theta).run()
        return hybrid.decide(found, theta=current.theta), found.looked

    def _wait(self, current: _Pass, ask: Ask, verdict: Verdict) -> Placement:
        pool, later = current.pool, verdict.awaited
        if later is None:
            pool.waits.drop(ask.request_id)
        else:
            finish_s = later.transfer + later.swap + later.run
            pool.waits.keep(ask, later.seat, at=current.at, wait_s=later.wait, finish_s=finish_s, total_s=later.total)
        self._close(current)
        awaited = later.seat.view.worker if later else None
        return Placement(ask=ask, reason=_empty(pool) or verdict.reason, awaited=awaited)

    def _close(self, current: _Pass) -> None:
        """End the endpoint's pass where nothing more can come of it."""
        late = self.policy is Policy.HYBRID
        full = bool(current.pool.seats) and not current.pool.has_room(current.at)
        current.closed = current.seen >= current.window or (late and full)

    def _decision(self, current: _Pass, placement: Placement, looked: list[Score]) -> Decision:
        return Decision(
            placement=placement,
            at=current.at,
            load=current.load,
            theta=current.theta,
            workers=len(current.pool.seats),
            looked=looked,
        )

    def _remember(self, decision: Decision) -> None:
        self._decisions[decision.placement.ask.request_id] = decision
        if len(self._decisions) > self._tuning.remembered:
            self._decisions.popitem(last=False)


def _empty(pool: Pool) -> Reason | None:
    return None if pool.seats else Reason.NO_WORKER


def _assignment(ask: Ask, score: Score, now: float) -> Assignment:
    start = now + score.wait
    return Assignment(
        request_id=ask.request_id,
        worker=score.seat.view.worker,
        endpoint=ask.endpoint,
        at=now,
        cost=ask.cost,
        size=ask.size,
        family=ask.family,
        models=ask.models,
        input_mb=ask.input_mb,
        expected_start_at=start,
        expected_finish_at=start + score.transfer + score.swap + score.run,
    )
