"""How much capacity an endpoint should have. Pure: figures in, figures out.

The parameters have Vast's names and meanings. In the steady state the capacity is ``load / target_util``, of a load
that never counts as less than ``min_load``. On top comes what waits too long: what a worker that is started now would
find waiting when it is there, beyond ``target_queue_time``, is to be worked off in that time again (or in the time that
starting takes, where that is longer), by no more workers than requests wait. Scaling up is wanted at once, scaling down
only after a while (``Steady``), so that it does not flap.
"""

import math
from collections import deque
from dataclasses import dataclass, replace
from enum import StrEnum

from router.endpoint_settings import EndpointSettings

TOLERANCE = 0.05
"""A shortage of so much of one worker is none."""


class Why(StrEnum):
    """What decided the number of workers."""

    NOTHING = "nothing-to-do"
    LOAD = "load"
    MIN_LOAD = "min-load"
    QUEUE = "queue-time"
    BUSY = "work-in-hand"
    INACTIVITY = "inactivity-timeout"
    MOST = "max-workers"
    HELD = "scale-down-delay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What is asked of an endpoint: units per second lately and over the hour, what waits, what workers have
    (``given_work``: their sizes whole, begun or not), seconds since there was anything to do."""

    load: float = 0.0
    hour_load: float = 0.0
    waiting_count: int = 0
    waiting_work: float = 0.0
    given_count: int = 0
    given_work: float = 0.0
    idle_s: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """What is there: units per second of ready workers, their number; speed and seconds to start of one more;
    whether workers can be stopped and resumed, so that some may be kept cold."""

    capacity: float = 0.0
    workers: int = 0
    perf: float = 100.0
    boot_s: float = 60.0
    keeps_stopped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What should be there. ``workers`` are to be active, ``total`` to exist, stopped ones included; ``least`` is how
    many have to be active whatever their speed, ``most`` how many may exist."""

    capacity: float
    workers: int
    total: int
    least: int
    most: int
    queue_s: float
    why: Why


def desire(settings: EndpointSettings, demand: Demand, supply: Supply) -> Desired:
    """Decide."""
    load = max(demand.load, settings.min_load)
    steady = load / settings.target_util
    catching_up = _catching_up(settings, demand, supply, load=load)
    capacity = max(steady, supply.capacity + catching_up) if catching_up else steady
    floor = int(settings.min_load > 0)  # the smallest load needs somebody
    counted = max(_count(capacity, supply), floor)
    least, busy = _least(settings, demand)
    least = max(least, floor)
    if not supply.keeps_stopped:  # what can't be stopped and resumed is kept idle
        least = max(least, settings.cold_workers)
    workers = min(max(counted, least), settings.max_workers)
    total = max(workers, _cold(settings, demand, supply, load=load) if supply.keeps_stopped else 0)
    return Desired(
        capacity=capacity,
        workers=workers,
        total=min(total, settings.max_workers),
        least=min(least, settings.max_workers),
        most=settings.max_workers,
        queue_s=queue_s(demand, supply),
        why=_why(settings, demand, counted=counted, workers=workers, busy=busy, catching_up=catching_up),
    )


def queue_s(demand: Demand, supply: Supply) -> float:
    """What a request that comes now would wait for others to start, in seconds."""
    if not demand.waiting_count:
        return 0.0
    return _ahead(demand) / supply.capacity if supply.capacity > 0 else math.inf


def _ahead(demand: Demand) -> float:
    """Units before a request that comes now: of what runs, half is done on average."""
    return demand.waiting_work + demand.given_work / 2


def _catching_up(settings: EndpointSettings, demand: Demand, supply: Supply, *, load: float) -> float:
    if not demand.waiting_count:
        return 0.0
    later = _ahead(demand) + (load - supply.capacity) * supply.boot_s
    excess = later - supply.capacity * settings.target_queue_time
    if excess <= 0:
        return 0.0
    return min(excess / max(settings.target_queue_time, supply.boot_s), demand.waiting_count * supply.perf)


def _cold(settings: EndpointSettings, demand: Demand, supply: Supply, *, load: float) -> int:
    """How many workers should exist, running or stopped: for the load of the longer term."""
    capacity = max(max(load, demand.hour_load) * settings.cold_mult, settings.min_cold_load)
    return max(_count(capacity, supply), settings.cold_workers)


def _least(settings: EndpointSettings, demand: Demand) -> tuple[int, bool]:
    """How many workers there must be however little the load is, and whether that is because of work in hand."""
    if demand.waiting_count or demand.given_count:
        return 1, True
    timeout = settings.inactivity_timeout
    return int(timeout is not None and (timeout < 0 or demand.idle_s < timeout)), False


def _count(capacity: float, supply: Supply) -> int:
    """So many workers have this capacity: those that are there, as far as they are needed, then new ones."""
    if supply.workers and supply.capacity > 0 and capacity <= supply.capacity:
        return _whole(capacity / (supply.capacity / supply.workers))
    return supply.workers * (supply.capacity > 0) + _whole((capacity - supply.capacity) / max(supply.perf, 1e-9))


def _whole(workers: float) -> int:
    return max(math.ceil(workers - TOLERANCE), 0)


def _why(
    settings: EndpointSettings, demand: Demand, *, counted: int, workers: int, busy: bool, catching_up: float
) -> Why:
    if workers < counted:
        return Why.MOST
    if workers > counted:
        return Why.BUSY if busy else Why.INACTIVITY
    if not workers:
        return Why.NOTHING
    if catching_up:
        return Why.QUEUE
    return Why.LOAD if demand.load > settings.min_load else Why.MIN_LOAD


class Steady:
    """Remembers what was desired, and gives in to a smaller wish only when nobody wished for more for a while."""

    def __init__(self) -> None:
        self._wishes: deque[tuple[float, Desired]] = deque()

    def settle(self, desired: Desired, *, now: float, delay_s: float) -> Desired:
        """What to aim at now: the most that was desired in the last ``delay_s``, within the limits of now."""
        self._wishes.append((now, desired))
        while self._wishes[0][0] < now - delay_s:
            self._wishes.popleft()
        wishes = [wish for _, wish in self._wishes]
        workers = min(max(wish.workers for wish in wishes), desired.most)
        capacity = max(wish.capacity for wish in wishes)
        least = min(max(wish.least for wish in wishes), desired.most)
        return replace(
            desired,
            capacity=capacity,
            workers=workers,
            total=min(max(workers, *(wish.total for wish in wishes)), desired.most),
            least=least,
            why=Why.HELD if workers > desired.workers else desired.why,
        )
