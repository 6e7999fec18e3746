"""What to do about an endpoint's workers: whom to keep free, release, resume, start. Pure.

Workers that nobody here can start or stop are counted first. Of the others the best speed per dollar stay; who is not
needed is kept free (rests), and is released when it has rested for a while with nothing to do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from router.model import Condition
from router.scaling.desire import TOLERANCE, Desired, Why
from router.scaling.ports import InstanceState


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One worker, or one that is to become one. ``state`` None: nobody here started it, so nobody stops it.
    ``condition`` None: it has not reported yet. ``rested``: it was kept free long enough that all routers know."""

    id: int
    key: str
    group: str
    perf: float
    price: float = 0.0
    state: InstanceState | None = None
    condition: Condition | None = None
    busy: bool = False
    rested: bool = False

    @property
    def is_active(self) -> bool:
        """Whether it serves, or will soon."""
        if self.state is None:
            return self.condition in (Condition.READY, Condition.STARTING)
        return self.state is InstanceState.RUNNING and self.condition in (None, Condition.READY, Condition.STARTING)

    @property
    def exists(self) -> bool:
        """Whether it counts against the cap."""
        return self.is_active or self.state in (InstanceState.STOPPED, InstanceState.RUNNING)

    @property
    def is_loaded(self) -> bool:
        return self.condition is Condition.READY


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A group whose workers can be started. ``room`` is how many more it may have; ``coming`` are being started."""

    name: str
    perf: float
    price: float = 0.0
    room: int = 0
    coming: int = 0
    keeps_stopped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Ids and counts. ``rest`` are keys of workers to be kept free."""

    rest: frozenset[str] = frozenset()
    stop: tuple[int, ...] = ()
    remove: tuple[int, ...] = ()
    resume: tuple[int, ...] = ()
    start: Mapping[str, int] = field(default_factory=dict)


def make_plan(desired: Desired, members: Sequence[Member], sources: Sequence[Source]) -> Plan:
    """Decide what to do now."""
    kept, spare = _split(desired, members, sources)
    stopped = sorted((one for one in members if one.state is InstanceState.STOPPED), key=_worth)
    capacity = sum(one.perf for one in kept) + sum(source.perf * source.coming for source in sources)
    active = len(kept) + sum(source.coming for source in sources)
    resume, capacity, active = _resumed(desired, stopped, capacity, active)
    existing = sum(one.exists for one in members) + sum(source.coming for source in sources)
    start = _started(desired, sources, capacity=capacity, active=active, room=desired.most - existing)
    over = existing - desired.total
    resumed = frozenset(one.id for one in resume)
    stop, remove = _released(spare, sources, over=over)
    surplus = [one for one in reversed(stopped) if one.id not in resumed][: max(over - len(remove), 0)]
    if not start and over < 0:
        start = _in_advance(members, sources, count=min(-over, desired.most - existing))
    return Plan(
        rest=frozenset(one.key for one in spare),
        stop=tuple(stop),
        remove=(*remove, *(one.id for one in surplus)),
        resume=tuple(one.id for one in resume),
        start=start,
    )


def _worth(one: Member) -> tuple[bool, bool, float, float, int]:
    """Best first: those that nobody can stop, those that are there, the cheapest for what they do, the fastest."""
    return (one.state is not None, not one.is_loaded, one.price / max(one.perf, 1e-9), -one.perf, one.id)


def _short(desired: Desired, *, capacity: float, active: int, perf: float) -> bool:
    return active < desired.least or (active < desired.most and capacity < desired.capacity - TOLERANCE * perf)


def _split(desired: Desired, members: Sequence[Member], sources: Sequence[Source]) -> tuple[list[Member], list[Member]]:
    """Active workers that are needed, and those that are not. While a wish is held nobody who fulfils it is let go,
    however fast the others turn out to be."""
    held = desired.workers if desired.why is Why.HELD else 0
    kept: list[Member] = []
    spare: list[Member] = []
    capacity = 0.0
    for one in sorted((one for one in members if one.is_active), key=_worth):
        if one.state is None or len(kept) < held or _short(desired, capacity=capacity, active=len(kept), perf=one.perf):
            kept.append(one)
            capacity += one.perf
        else:
            spare.append(one)
    return kept, spare


def _resumed(
    desired: Desired, stopped: Sequence[Member], capacity: float, active: int
) -> tuple[list[Member], float, int]:
    resume: list[Member] = []
    for one in stopped:
        if _short(desired, capacity=capacity, active=active, perf=one.perf):
            resume.append(one)
            capacity, active = capacity + one.perf, active + 1
    return resume, capacity, active


def _started(desired: Desired, sources: Sequence[Source], *, capacity: float, active: int, room: int) -> dict[str, int]:
    start: dict[str, int] = {}
    for source in sorted(sources, key=lambda one: (one.price / max(one.perf, 1e-9), -one.perf, one.name)):
        free = min(source.room, room - sum(start.values()))
        while free > 0 and _short(desired, capacity=capacity, active=active, perf=source.perf):
            start[source.name] = start.get(source.name, 0) + 1
            capacity, active, free = capacity + source.perf, active + 1, free - 1
    return start


def _released(spare: Sequence[Member], sources: Sequence[Source], *, over: int) -> tuple[list[int], list[int]]:
    """Who is idle and rested is stopped, or ended where it can't be kept or there are too many; one that is not loaded
    yet is ended only where there are too many: it is to become a stopped one."""
    keeping = {source.name for source in sources if source.keeps_stopped}
    stop: list[int] = []
    remove: list[int] = []
    for one in reversed(spare):
        kept = one.group in keeping
        if one.is_loaded and (one.busy or not one.rested):
            continue
        if not kept or over > len(remove):
            remove.append(one.id)
        elif one.is_loaded:
            stop.append(one.id)
    return stop, remove


def _in_advance(members: Sequence[Member], sources: Sequence[Source], *, count: int) -> dict[str, int]:
    """One at a time, so that stopped ones are there when they are wanted."""
    loading = any(one.is_active and one.state is not None and not one.is_loaded for one in members)
    if count < 1 or loading or any(source.coming for source in sources):
        return {}
    able = [source for source in sources if source.keeps_stopped and source.room > 0]
    best = min(able, key=lambda one: (one.price / max(one.perf, 1e-9), one.name), default=None)
    return {best.name: 1} if best else {}
