"""One worker as the policies account for it: what it was given, when it will be free, which models it will have.

Every assignment counts from the moment it is made, whatever the reports say; they only add what others gave. Workers
tell of ends late, stock ones once a second: until they speak, what should be over is taken to be over.
"""

from collections.abc import Sequence
from heapq import heapify, heapreplace

from router.model import Ask, Assignment, Condition, Exclusion, WorkerView

TRUST_S, GAPS, FADING = 3.0, 1.5, 0.9
"""A worker that has something to tell is believed to be at work for so long, or so many times the longest that it was
silent lately; then it may be dead."""
NEVER = float("inf")


class Seat:
    """Mutable; owned by ``Pool``, which keeps it in order whenever it changes."""

    __slots__ = (
        *("cost", "cost_factor", "free_at", "gap_s", "held", "is_idle", "order", "overdue", "pace", "place_at"),
        "resting",
        *("room_at", "shelves", "since", "speed", "starts", "view", "warm"),
    )

    def __init__(self, view: WorkerView, *, order: int, s_per_dollar: float, overdue: float) -> None:
        self.order = order
        self.overdue = overdue
        self.held: dict[str, Assignment] = {}
        self.starts: dict[str, float] = {}
        self.since = view.heard_at
        self.gap_s = 0.0
        self.place_at = 0.0
        self.resting = False
        self.warm: list[str] = []
        self.shelves: tuple[str, ...] = ()
        self.is_idle = False
        self.room_at: float | None = None
        self.update(view, s_per_dollar=s_per_dollar, factor=1.0)

    def update(self, view: WorkerView, *, s_per_dollar: float, factor: float) -> None:
        """Take a report over; own assignments stay."""
        self.view = view
        self.cost_factor = s_per_dollar * view.price / 3600
        self.correct(factor)
        if view.warm is not None:
            self.warm = list(view.warm)
            for assignment in self.held.values():
                self._use(assignment.models)
        self.reckon()

    def correct(self, factor: float) -> None:
        """Its speed is that of its benchmark times ``factor``; ``pace`` is what a unit takes and costs, in seconds."""
        self.speed = factor * self.view.perf / max(self.view.engines, 1)
        self.pace = (1 + self.cost_factor) / self.speed if self.speed > 0 else float("inf")

    def assign(self, assignment: Assignment) -> None:
        """It was given a request."""
        self.held[assignment.request_id] = assignment
        if len(self.starts) < self.view.engines:
            self.starts[assignment.request_id] = assignment.at
        self._use(assignment.models)
        self.reckon()

    def settle(self, request_id: str, now: float) -> Assignment | None:
        """A request of its is over; the next one, if any, begins."""
        assignment = self.held.pop(request_id, None)
        if assignment is not None:
            self.gap_s = max(now - max(self.view.heard_at, assignment.at), FADING * self.gap_s)
            if self.starts.pop(request_id, None) is not None and len(self.held) > len(self.starts):
                self.starts[next(one for one in self.held if one not in self.starts)] = now
            self.reckon()
        return assignment

    def started(self, request_id: str, now: float) -> None:
        """A request is known to run since now."""
        if request_id in self.held:
            if request_id not in self.starts and len(self.starts) >= self.view.engines:
                del self.starts[next(iter(self.starts))]
            self.starts[request_id] = now
            self.reckon()

    def reckon(self) -> None:
        """Find when an engine is free (``since`` when its job runs), when there is a place, and how much cost was
        promised to it."""
        view, held = self.view, self.held
        self.cost = view.foreign_load + sum([one.cost for one in held.values()])
        self.place_at = self._place_at() if len(held) >= view.slots else 0.0
        foreign_s = view.foreign_load / view.perf if view.perf > 0 else 0.0
        ends = [(self._end(start, held[one]), start) for one, start in self.starts.items()]
        if len(ends) < view.engines:
            self.free_at, self.since = view.heard_at + foreign_s, view.heard_at
            return
        heapify(ends)
        for request_id, assignment in held.items():
            if request_id not in self.starts:
                heapreplace(ends, (ends[0][0] + _duration(assignment), ends[0][0]))
        self.free_at, self.since = ends[0][0] + foreign_s, ends[0][1]

    def wait(self, now: float) -> float:
        """Seconds until an engine is free, as expected now: never over for one that is busy."""
        left = self.free_at - now
        least = self.overdue * (now - self.since) if len(self.starts) >= self.view.engines else 0.0
        return left if left > least else least

    def has_room(self, now: float) -> bool:
        """Whether it may be handed a request now."""
        return self.has_place(now) and self.wait(now) <= self.view.lead_s

    def has_place(self, now: float) -> bool:
        """Whether it may hold one more request, as soon as it is free."""
        view = self.view
        if self.place_at > now:
            return False
        return view.admit_s is None or self.cost <= 0 or self.cost <= view.admit_s * view.perf

    def is_free(self) -> bool:
        """Whether an engine has nothing to do, as far as we know."""
        return len(self.starts) < self.view.engines and self.view.foreign_load <= 0

    def swap_s(self, models: tuple[str, ...], otherwise: float) -> float:
        """Time to load what of these it will not have resident."""
        total = 0.0
        for model in models:
            if model not in self.warm:
                total += self.view.swap_s.get(model, otherwise)
        return total

    def loss_s(self, models: tuple[str, ...], otherwise: float) -> float:
        """Time to load again, some day, what these will push out."""
        cold = sum(model not in self.warm for model in models)
        room = max(self.view.room, len(models))
        pushed_out = self.warm[: max(len(self.warm) + cold - room, 0)]
        return sum(self.view.swap_s.get(model, otherwise) for model in pushed_out if model not in models)

    def exclusion(self, ask: Ask) -> Exclusion | None:
        """Why it can't have this ask at any time soon; None: it can."""
        view = self.view
        if view.condition is not Condition.READY:
            return Exclusion.NOT_READY
        if self.speed <= 0:
            return Exclusion.NO_SPEED
        if view.worker in ask.refused_by:
            return Exclusion.REFUSED
        if ask.vram_gib and view.vram_gib is not None and view.vram_gib < ask.vram_gib:
            return Exclusion.VRAM
        if view.models is not None and not view.models.issuperset(ask.models):
            return Exclusion.MODEL
        if ask.dialect and view.dialects is not None and ask.dialect not in view.dialects:
            return Exclusion.DIALECT
        return None

    def _end(self, start: float, assignment: Assignment) -> float:
        """When it should be over; after a report that shows that it is not, a share of its age later."""
        end, heard_at = start + _duration(assignment), self.view.heard_at
        return end if end > heard_at else heard_at + self.overdue * (heard_at - start)

    def _place_at(self) -> float:
        """When enough of what it holds should be over; never, if it would have to be silent for too long until then."""
        heard_at, held = self.view.heard_at, self.held.values()
        ends = sorted(one.expected_finish_at for one in held if one.expected_finish_at > heard_at)
        more = len(held) - self.view.slots
        if more >= len(ends):
            return NEVER
        spoke_at = min([ends[0], *(one.at for one in held if one.at > heard_at)])
        return ends[more] if ends[more] <= spoke_at + max(TRUST_S, GAPS * self.gap_s) else NEVER

    def _use(self, models: Sequence[str]) -> None:
        """These will be resident; what was not used for longest makes room."""
        for model in models:
            if model in self.warm:
                self.warm.remove(model)
            self.warm.append(model)
        del self.warm[: max(len(self.warm) - max(self.view.room, len(models)), 0)]


def _duration(assignment: Assignment) -> float:
    return assignment.expected_finish_at - assignment.expected_start_at
