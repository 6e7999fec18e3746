"""Who waits for which busy worker: remembered from pass to pass, so that only what changed is thought over again.

A promise: nothing is held for it, but whoever comes later counts it as work that goes before. It lapses when it was to
start and nobody renewed it.
"""

from collections import deque
from collections.abc import Iterator

from router.choose.seat import NEVER, Seat
from router.model import Ask

LAPSE_S = 1.0
FREED = 128
"""Workers that got room lately; who last looked before them, looks at all."""


class Promise:
    """An ask that waits for a worker, as both were when it was decided.

    ``alone``: no worker that could do it had room. The worker is needed for ``seconds``.
    """

    __slots__ = ("alone", "ask", "finish_at", "free_at", "rank", "seat", "seconds", "serial", "stands_until")

    def __init__(self, ask: Ask, seat: Seat, *, start_at: float, finish_at: float, seconds: float, alone: bool) -> None:
        self.ask = ask
        self.seat = seat
        self.free_at = seat.free_at
        self.finish_at = finish_at
        self.seconds = seconds
        self.alone = alone
        self.rank = 0
        self.serial = 0
        if seat.place_at < NEVER:
            self.stands_until = max(start_at - seat.view.lead_s, seat.place_at)
        else:
            self.stands_until = start_at + seat.overdue * max(start_at - seat.since, 0.0)


class Waits:
    """Promises of one pool. Earlier ranks go first; ``serial`` counts workers that got room. ``promised`` has those of
    each seat, by its order."""

    def __init__(self) -> None:
        self._known: dict[str, Promise] = {}
        self.promised: dict[int, dict[str, Promise]] = {}
        self._freed: deque[tuple[int, Seat]] = deque(maxlen=FREED)
        self.serial = 0
        self._ranks = 0

    def __len__(self) -> int:
        return len(self._known)

    def rank(self, request_id: str) -> int:
        """The ask's place among those that wait; a new one's is the last."""
        known = self._known.get(request_id)
        if known is not None:
            return known.rank
        self._ranks += 1
        return self._ranks

    def keep(self, promise: Promise) -> None:
        """An ask waits; what it waited for before is forgotten, its rank is not."""
        request_id = promise.ask.request_id
        promise.rank, promise.serial = self.rank(request_id), self.serial
        self.drop(request_id)
        self._known[request_id] = promise
        self.promised.setdefault(promise.seat.order, {})[request_id] = promise

    def drop(self, request_id: str) -> None:
        """It waits no more, or for something else."""
        promise = self._known.pop(request_id, None)
        if promise is not None:
            of_seat = self.promised[promise.seat.order]
            del of_seat[request_id]
            if not of_seat:
                del self.promised[promise.seat.order]

    def purge(self, now: float) -> None:
        """Forget promises that nobody renewed."""
        while self._known:
            promise = next(iter(self._known.values()))
            if promise.stands_until + LAPSE_S >= now:
                break
            self.drop(promise.ask.request_id)

    def freed(self, seat: Seat) -> None:
        """A worker got room, or is better than it was."""
        self.serial += 1
        self._freed.append((self.serial, seat))

    def standing(self, ask: Ask, now: float) -> Promise | None:
        """The promise of an ask, if nothing about it and its worker has changed."""
        promise = self._known.get(ask.request_id)
        if promise is None or promise.ask is not ask or promise.serial < self.serial - FREED:
            return None
        seat = promise.seat
        if seat.free_at != promise.free_at or not seat.shelves or now >= promise.stands_until:
            return None
        return promise

    def news(self, promise: Promise) -> Iterator[Seat]:
        """Workers that got room since the promise was looked at."""
        if promise.serial != self.serial:
            for serial, seat in reversed(self._freed):
                if serial <= promise.serial:
                    break
                yield seat
            promise.serial = self.serial

    def before(self, seat: Seat, *, rank: int, now: float, models: tuple[str, ...]) -> tuple[float, tuple[str, ...]]:
        """How long what goes before an ask of this rank takes there, and which of its models that will not load."""
        ahead_s = 0.0
        for one in self.promised[seat.order].values():
            if one.rank < rank and one.stands_until + LAPSE_S >= now:
                ahead_s += one.seconds
                if models and (loaded := one.ask.models):
                    models = tuple([model for model in models if model not in loaded])
        return ahead_s, models

    def next_start(self) -> float | None:
        """When the first of them is to be thought over, because its worker did not become free."""
        return min((promise.stands_until for promise in self._known.values()), default=None)
