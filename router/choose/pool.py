"""The workers of one endpoint, in order: idle ones by speed, busy ones by expected finish, all and by warm model.

The order is what makes a decision cheap: the best worker is found by looking at a few from the front (``search``).
"""

import math
from bisect import bisect_left, insort
from dataclasses import fields
from operator import attrgetter

from router.choose.seat import NEVER, Seat
from router.choose.tuning import Tuning
from router.choose.waits import Waits
from router.estimate import Speeds
from router.model import Assignment, Condition, Reason, WorkerView

Entry = tuple[float, int, Seat]
EVERYONE = ""
STEP = math.log(1.3)
ROOMS = 16
"""Busy workers among which the next one with room is looked for: the first may be overdue."""
_FIGURES = attrgetter(*(one.name for one in fields(WorkerView) if one.name != "heard_at"))


class Shelf:
    """Idle seats by pace (seconds per unit); busy ones by step of pace, then by the time at which an engine is free."""

    __slots__ = ("busy", "idle")

    def __init__(self) -> None:
        self.idle: list[Entry] = []
        self.busy: dict[int, list[Entry]] = {}

    def add(self, seat: Seat) -> None:
        """Put a seat in its place."""
        if seat.is_idle:
            insort(self.idle, (seat.pace, seat.order, seat))
        else:
            insort(self.busy.setdefault(step(seat.pace), []), (seat.free_at, seat.order, seat))

    def remove(self, seat: Seat) -> None:
        """Take out a seat that has not changed since."""
        if seat.is_idle:
            del self.idle[bisect_left(self.idle, (seat.pace, seat.order))]
            return
        number = step(seat.pace)
        del self.busy[number][bisect_left(self.busy[number], (seat.free_at, seat.order))]
        if not self.busy[number]:
            del self.busy[number]


def step(pace: float) -> int:
    """Paces are alike within a step."""
    return math.floor(math.log(pace) / STEP)


class Pool:
    """Seats of an endpoint. Each change of a seat goes through here, so that the order stays true.

    ``capacity`` is units per second of all ready workers that don't rest; ``version`` changes with members and speeds;
    ``least_paces`` are the lower ends of steps.
    """

    def __init__(self, tuning: Tuning, speeds: Speeds) -> None:
        self.tuning = tuning
        self.speeds = speeds
        self.seats: dict[str, Seat] = {}
        self.capacity = 0.0
        self.version = 0
        self.lead_s = 0.0
        self.waits = Waits()
        self._shelves: dict[str, Shelf] = {EVERYONE: Shelf()}
        self.least_paces: dict[int, float] = {}
        self._rooms: list[Entry] = []
        self._least_swaps: dict[str, float] = {}
        self._orders = 0

    @property
    def everyone(self) -> Shelf:
        """All ready workers."""
        return self._shelves[EVERYONE]

    @property
    def empty(self) -> Reason | None:
        """The reason to wait if there is no worker at all."""
        return None if self.seats else Reason.NO_WORKER

    def warm(self, model: str) -> Shelf | None:
        """Those that are expected to have a model resident."""
        return self._shelves.get(model)

    def least_swap_s(self, models: tuple[str, ...]) -> float:
        """A lower bound of what any cold worker needs to load one of these."""
        otherwise = self.tuning.swap_s
        return min((self._least_swaps.get(model, otherwise) for model in models), default=0.0)

    def put(self, view: WorkerView) -> Seat:
        """Add a worker, or take its report over."""
        seat, known = self.seats.get(view.worker), None
        if seat is None:
            self._orders += 1
            tuning = self.tuning
            seat = Seat(view, order=self._orders, s_per_dollar=tuning.s_per_dollar, overdue=tuning.overdue)
            self.seats[view.worker] = seat
            self.version += 1
        else:
            self.version += seat.view.perf != view.perf
            self._count(seat, -1)
            self._take_off(seat)
            known = seat.view
            seat.update(view, s_per_dollar=self.tuning.s_per_dollar, factor=self.speeds.general(view.worker))
        self._count(seat, +1)
        for model, seconds in view.swap_s.items():
            self._least_swaps[model] = min(seconds, self._least_swaps.get(model, self.tuning.swap_s))
        self.lead_s = max(self.lead_s, view.lead_s)
        self._put_on(seat)
        if known is None or _differs(known, view):
            self.waits.freed(seat)
        return seat

    def drop(self, worker: str) -> tuple[Assignment, ...]:
        """Forget a worker; what it held."""
        seat = self.seats.pop(worker)
        self.version += 1
        self._count(seat, -1)
        self._take_off(seat)
        return tuple(seat.held.values())

    def assign(self, seat: Seat, assignment: Assignment) -> None:
        """Count a request against a seat."""
        self._take_off(seat)
        seat.assign(assignment)
        self._put_on(seat)

    def settle(self, seat: Seat, request_id: str, now: float) -> Assignment | None:
        """A request of a seat is over."""
        self._take_off(seat)
        assignment = seat.settle(request_id, now)
        self._put_on(seat)
        self.waits.freed(seat)
        return assignment

    def started(self, seat: Seat, request_id: str, now: float) -> None:
        """A request of a seat runs."""
        self._take_off(seat)
        seat.started(request_id, now)
        self._put_on(seat)

    def rest(self, workers: frozenset[str]) -> None:
        """Keep these free, and only these."""
        for seat in self.seats.values():
            if seat.resting is not (seat.view.worker in workers):
                self._count(seat, -1)
                seat.resting = not seat.resting
                self._count(seat, +1)
                self.waits.freed(seat)

    def next_room_at(self, now: float) -> float | None:
        """When the next busy worker may be handed one more, or one that is awaited was to be free."""
        rooms = (max(now + seat.wait(now) - seat.view.lead_s, seat.place_at, now) for _, _, seat in self._rooms[:ROOMS])
        awaited = self.waits.next_start()
        return min((moment for moment in (*rooms, awaited) if moment is not None), default=None)

    def has_room(self, now: float) -> bool:
        """Whether any worker may be handed a request now."""
        if any(seat.has_room(now) for _, _, seat in self.everyone.idle):
            return True
        due = bisect_left(self._rooms, (now, self._orders + 1))
        return any(seat.has_room(now) for _, _, seat in self._rooms[:due])

    def _count(self, seat: Seat, sign: int) -> None:
        """Keep the capacity of ready workers."""
        if _is_ready(seat) and not seat.resting:
            self.capacity = max(self.capacity + sign * seat.view.perf, 0.0)

    def _put_on(self, seat: Seat) -> None:
        if not _is_ready(seat):
            return
        seat.correct(self.speeds.general(seat.view.worker))
        number = step(seat.pace)
        if number not in self.least_paces:
            self.least_paces[number] = math.exp(number * STEP)
        seat.shelves = (EVERYONE, *seat.warm)
        seat.is_idle = seat.is_free()
        if not seat.is_idle and seat.place_at < NEVER:
            seat.room_at = max(seat.free_at - seat.view.lead_s, seat.place_at)
            insort(self._rooms, (seat.room_at, seat.order, seat))
        for name in seat.shelves:
            shelf = self._shelves.get(name)
            if shelf is None:
                shelf = self._shelves[name] = Shelf()
            shelf.add(seat)

    def _take_off(self, seat: Seat) -> None:
        if not seat.shelves:
            return
        if seat.room_at is not None:
            del self._rooms[bisect_left(self._rooms, (seat.room_at, seat.order))]
            seat.room_at = None
        for name in seat.shelves:
            shelf = self._shelves[name]
            shelf.remove(seat)
            if name and not shelf.idle and not shelf.busy:
                del self._shelves[name]
        seat.shelves = ()


def _differs(known: WorkerView, view: WorkerView) -> bool:
    """Whether a report says more than that the worker lives."""
    return _FIGURES(known) != _FIGURES(view)


def _is_ready(seat: Seat) -> bool:
    return seat.view.condition is Condition.READY and seat.speed > 0
