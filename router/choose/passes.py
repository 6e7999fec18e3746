"""One planning pass over an endpoint: which waiting requests are looked at, and what becomes of each."""

from collections.abc import Sequence

from router.choose import hybrid
from router.choose.early import Draw, choose
from router.choose.explain import Decision
from router.choose.hybrid import Verdict
from router.choose.pool import Pool
from router.choose.search import Score, Search
from router.choose.waits import Promise
from router.model import Ask, Assignment, Placement, Policy, Reason

WORKERS_A_SEARCH, WORKERS_A_VISIT = 40, 10
VISITS, VISITS_OF_ALL = 128, 20_000
"""How far a pass goes: more with many workers, since many wait; and with few, since little happens then."""
Kind = tuple[float, str, tuple[str, ...], frozenset[str]]
"""What decides which workers can have an ask."""


class Pass:
    """Asks are given in their order to ``is_open_to``, then to ``place``, until it is ``closed``.

    ``looked``: the figures of the last verdict.
    """

    __slots__ = (
        "_at",
        "_draw",
        "_full",
        "_load",
        "_nothing_since",
        "_policy",
        "_searches",
        "_shut",
        "_visits",
        "closed",
        "looked",
        "pool",
        "theta",
    )

    def __init__(self, policy: Policy, pool: Pool, draw: Draw, *, at: float, load: float) -> None:
        workers = len(pool.seats)
        self.pool = pool
        self.theta = hybrid.theta(load, pool.tuning)
        self.looked: Sequence[Score] = ()
        self._policy = policy
        self._draw = draw
        self._at = at
        self._load = load
        self._searches = max(pool.tuning.window, workers // WORKERS_A_SEARCH)
        self._visits = max(VISITS, workers // WORKERS_A_VISIT, VISITS_OF_ALL // max(workers, 1))
        self._shut: set[Kind] = set()
        self._full: set[int] = set()
        self._nothing_since = pool.waits.serial
        pool.waits.purge(at)
        self.closed = self._is_over()

    def is_open_to(self, ask: Ask) -> bool:
        """Whether a verdict may come out differently from the one that stands."""
        if self._shut and _kind(ask) in self._shut:
            return False
        waits = self.pool.waits
        promise = waits.standing(ask, self._at)
        if promise is None or (promise.serial != waits.serial and self._is_beaten(promise)):
            return True
        if promise.alone:
            self._shut.add(_kind(ask))
        self._visits -= 1
        self.closed = self._visits <= 0
        return False

    def place(self, ask: Ask) -> Placement:
        """Give it to a worker, or let it wait."""
        self._searches -= 1
        verdict = self._verdict(ask)
        if verdict.taken is None:
            placement = self._wait(ask, verdict)
        else:
            assignment = _assignment(ask, verdict.taken, self._at)
            placement = Placement(ask=ask, reason=verdict.reason, assignment=assignment)
            self.pool.assign(verdict.taken.seat, assignment)
            self.pool.waits.drop(ask.request_id)
        self.closed = self._is_over()
        return placement

    def decision(self, placement: Placement, looked: Sequence[Score]) -> Decision:
        """What is kept of a verdict."""
        return Decision(
            placement=placement,
            at=self._at,
            load=self._load,
            theta=self.theta,
            workers=len(self.pool.seats),
            looked=looked,
        )

    def _verdict(self, ask: Ask) -> Verdict:
        if self._policy is not Policy.HYBRID:
            search = Search(self.pool, ask, at=self._at, theta=0.0)
            verdict = choose(self._policy, ask, now=self._at, search=search, draw=self._draw)
            self.looked = [verdict.taken] if verdict.taken else []
            return verdict
        found = Search(self.pool, ask, at=self._at, theta=self.theta).run()
        self.looked = found.looked
        return hybrid.decide(found, theta=self.theta)

    def _wait(self, ask: Ask, verdict: Verdict) -> Placement:
        alone, later = verdict.reason in (Reason.ALL_BUSY, Reason.NONE_ELIGIBLE), verdict.awaited
        if alone and self._policy is Policy.HYBRID:
            self._shut.add(_kind(ask))  # nobody who has room can do it, so none of its kind is looked at any more
        if later is None:
            self.pool.waits.drop(ask.request_id)
            return Placement(ask=ask, reason=self.pool.empty or verdict.reason)
        promise = Promise(
            ask,
            later.seat,
            start_at=self._at + later.wait,
            finish_at=self._at + later.total,
            seconds=later.transfer + later.swap + later.run,
            alone=alone,
        )
        self.pool.waits.keep(promise)
        return Placement(ask=ask, reason=verdict.reason, awaited=later.seat.view.worker)

    def _is_beaten(self, promise: Promise) -> bool:
        """Whether a worker that got room since would do it earlier. One that is full stays so for the whole pass, and
        where all that came since some serial are full, nobody who looked last after that needs to look at all."""
        waits, serial = self.pool.waits, promise.serial
        if serial >= self._nothing_since:
            promise.serial = waits.serial
            return False
        full, at, search = self._full, self._at, None
        for seat in waits.news(promise):
            if seat.order in full:
                continue
            if not seat.has_room(at):
                full.add(seat.order)
                continue
            search = search or Search(self.pool, promise.ask, at=at, theta=self.theta)
            if search.may_win(seat, promise.finish_at - at) and seat.exclusion(promise.ask) is None:
                return True
        if search is None:
            self._nothing_since = serial
        return False

    def _is_over(self) -> bool:
        """Whether nothing more can come of it."""
        late = self._policy is Policy.HYBRID and bool(self.pool.seats)
        return self._searches <= 0 or self._visits <= 0 or (late and not self.pool.has_room(self._at))


def _kind(ask: Ask) -> Kind:
    return ask.vram_gib, ask.dialect, ask.models, ask.refused_by


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
