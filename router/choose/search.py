"""Find the best workers for an ask without looking at all: from the front of each order, until no later one can win."""

from dataclasses import dataclass
from operator import attrgetter

from router.choose.pool import Entry, Pool, Shelf
from router.choose.seat import NEVER, Seat
from router.model import Ask

PUSHED_OUT = 2.0
"""Times that the load of a model counts that is pushed out: it will be loaded again, and push out another one then."""


class Score:
    """What a worker would need for an ask, in seconds; ``total`` is compared.

    ``cost`` is its price, and ``loss`` what others will need to load models that it pushes out.
    """

    __slots__ = ("cost", "loss", "run", "seat", "swap", "total", "transfer", "wait")

    def __init__(self, seat: Seat, wait: float, transfer: float, swap: float, run: float, loss: float) -> None:
        self.seat = seat
        self.wait = wait
        self.transfer = transfer
        self.swap = swap
        self.run = run
        self.cost = cost = run * seat.cost_factor
        self.loss = loss
        self.total = wait + transfer + swap + run + cost + loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The best worker that can take the ask now, and the best of those that can't yet; all that was looked at.

    ``first``: no busy worker is expected to finish it earlier than ``now``.
    """

    now: Score | None
    later: Score | None
    first: bool
    looked: list[Score]


class Search:
    """One ask's look at a pool, at one moment."""

    __slots__ = (
        *(
            "_ask",
            "_at",
            "_bound",
            "_later",
            "_left_out",
            "_limit",
            "_looked",
            "_now",
            "_otherwise",
            "_pool",
            "_promised",
            "_rank",
            "_resting",
            "_seen",
            "_special",
        ),
        "_theta",
    )

    def __init__(self, pool: Pool, ask: Ask, *, at: float, theta: float) -> None:
        self._pool = pool
        self._ask = ask
        self._at = at
        self._theta = theta
        self._rank = pool.waits.rank(ask.request_id)
        self._promised = pool.waits.promised
        self._special = pool.speeds.special
        self._otherwise = pool.tuning.swap_s
        self._bound = ask.size / pool.speeds.ceiling(ask.family)
        self._limit = NEVER
        self._left_out = False
        self._resting = False
        self._seen: set[int] = set()
        self._now: Score | None = None
        self._later: Score | None = None
        self._looked: list[Score] = []

    def run(self) -> Found:
        """Look; workers that rest are considered where nobody else can do it."""
        self._look()
        if self._now is None and self._later is None:
            self._resting = True
            self._look()
        self._looked.sort(key=attrgetter("total"))
        first = not self._left_out and _total(self._now) <= _total(self._later)
        return Found(now=self._now, later=self._later, first=first, looked=self._looked)

    def worth_waiting(self, score: Score) -> float:
        """Seconds below which waiting for another worker is better than this one, which has room."""
        return score.total - self._theta * (score.run + score.cost)

    def may_win(self, seat: Seat, left_s: float) -> bool:
        """Whether this worker, which has room, is better than another one that ends in ``left_s``."""
        least_s = (1 - self._theta) * self._bound * seat.pace
        return least_s <= left_s and self.worth_waiting(self.score(seat)) <= left_s

    def score(self, seat: Seat) -> Score:
        """The figures of one worker."""
        return self._scored(seat, seat.wait(self._at))

    def _scored(self, seat: Seat, wait: float) -> Score:
        ask, view = self._ask, seat.view
        missing = ask.models
        if seat.order in self._promised:
            ahead_s, missing = self._pool.waits.before(seat, rank=self._rank, now=self._at, models=missing)
            wait += ahead_s
        swap = loss = 0.0
        if missing and (swap := seat.swap_s(missing, self._otherwise)):
            loss = PUSHED_OUT * seat.loss_s(missing, self._otherwise)
        run = ask.size / (seat.speed * self._special(view.worker, ask.family))
        return Score(seat, wait, view.latency_s + view.s_per_mb * ask.input_mb, swap, run, loss)

    def _look(self) -> None:
        models = self._ask.models
        for model in models:
            if (shelf := self._pool.warm(model)) is not None:
                self._look_at(shelf, least_swap_s=0.0)
        self._look_at(self._pool.everyone, least_swap_s=self._pool.least_swap_s(models))

    def _look_at(self, shelf: Shelf, *, least_swap_s: float) -> None:
        """No worker further on can be better than ``least_swap_s`` and its own pace (or the best pace) allow."""
        for pace, _, seat in shelf.idle:
            if least_swap_s + self._bound * pace >= _total(self._now):
                break
            self._consider(seat, seat.wait(self._at))
        for number, entries in shelf.busy.items():
            self._look_at_busy(entries, self._pool.least_paces[number], least_swap_s)

    def _look_at_busy(self, entries: list[Entry], least_pace: float, least_swap_s: float) -> None:
        """Busy ones matter while they could beat the best of their kind, and what would be taken now."""
        at, bound = self._at, self._bound
        for free_at, _, seat in entries[: self._pool.tuning.scan]:
            soonest_s = (free_at - at if free_at > at else 0.0) + least_swap_s + bound * least_pace
            if soonest_s >= self._limit:
                now_s = _total(self._now)
                if soonest_s >= now_s or free_at > at + self._pool.lead_s:
                    self._left_out = self._left_out or soonest_s < now_s < NEVER
                    break
            wait = seat.wait(at)
            least_s = wait + least_swap_s + bound * seat.pace
            if wait > seat.view.lead_s and least_s >= min(_total(self._later), _total(self._now)):
                continue  # it can't be now, and later others are as good
            self._consider(seat, wait)

    def _consider(self, seat: Seat, wait: float) -> None:
        if seat.order in self._seen or seat.resting is not self._resting or seat.exclusion(self._ask) is not None:
            return
        self._seen.add(seat.order)
        score = self._scored(seat, wait)
        self._looked.append(score)
        if wait <= seat.view.lead_s and seat.has_place(self._at):
            if score.total < _total(self._now):
                self._now = score
                self._limit = min(self._limit, self.worth_waiting(score))
        elif score.total < _total(self._later):
            self._later = score
            self._limit = min(self._limit, score.total)


def _total(score: Score | None) -> float:
    return NEVER if score is None else score.total
