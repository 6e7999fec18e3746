"""Policies that choose at arrival, so that requests queue at workers: proportional random, power of two, least work.

They are for comparison, and for operators who want what they know. A worker is full for them when its queue time
reaches ``max_queue_s``, or when it would itself refuse.
"""

import random
from bisect import bisect_right
from itertools import accumulate

from router.choose.hybrid import Verdict
from router.choose.pool import Pool
from router.choose.search import Score, Search
from router.choose.seat import Seat
from router.model import Ask, Policy, Reason

DRAWS = 32
"""Draws by speed before all workers are looked at."""


class Draw:
    """Random workers of a pool, with a chance proportional to their speed."""

    def __init__(self, pool: Pool, *, chance: random.Random, max_queue_s: float) -> None:
        self._pool = pool
        self._chance = chance
        self._max_queue_s = max_queue_s
        self._seats: list[Seat] = []
        self._sums: list[float] = []
        self._state: object = None

    def one(self, ask: Ask, now: float) -> Seat | None:
        """A worker that may have this ask; None: there is none."""
        self._renew()
        if not self._sums or self._sums[-1] <= 0:
            return None
        for _ in range(DRAWS):
            seat = self._seats[bisect_right(self._sums, self._chance.random() * self._sums[-1])]
            if self.may_have(seat, ask, now):
                return seat
        fitting = [seat for seat in self._seats if self.may_have(seat, ask, now)]
        weights = [seat.view.perf for seat in fitting]
        return self._chance.choices(fitting, weights)[0] if fitting else None

    def may_have(self, seat: Seat, ask: Ask, now: float) -> bool:
        """Whether it fits and is not full."""
        view = seat.view
        if view.admit_s is not None and seat.cost > view.admit_s * view.perf:
            return False
        return not seat.resting and seat.exclusion(ask) is None and seat.wait(now) < self._max_queue_s

    def _renew(self) -> None:
        if self._state != self._pool.version:
            self._state = self._pool.version
            self._seats = list(self._pool.seats.values())
            self._sums = list(accumulate(max(seat.view.perf, 0.0) for seat in self._seats))


def choose(policy: Policy, ask: Ask, *, now: float, search: Search, draw: Draw) -> Verdict:
    """Choose for one ask. ``search`` and ``draw`` look at the same pool."""
    match policy:
        case Policy.PROPORTIONAL:
            seat = draw.one(ask, now)
            return _verdict(search.score(seat) if seat else None, Reason.RANDOM_BY_SPEED)
        case Policy.POWER_OF_TWO:
            drawn = [seat for _ in range(2) if (seat := draw.one(ask, now)) is not None]
            return _verdict(min(map(search.score, drawn), key=_total, default=None), Reason.BETTER_OF_TWO)
        case _:
            found = search.run()
            fitting = (one for one in found.looked if draw.may_have(one.seat, ask, now))
            return _verdict(next(fitting, None), Reason.EARLIEST_FINISH)


def _verdict(score: Score | None, reason: Reason) -> Verdict:
    return Verdict(reason=reason if score else Reason.ALL_BUSY, taken=score)


def _total(score: Score) -> float:
    return score.total
