"""What arrives when: traces of jobs, drawn from a seed and the same for every policy."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate

from benchmark.routing.fleets import MIX, UNITS, Gpu, capacity
from benchmark.routing.recorded import Recorded

THINK_S = (1.0, 5.0)
BURST, BURST_S, CALM_S = 10.0, 20.0, 180.0
DAY_S, SWING = 3600.0, 0.8


class Arrivals(StrEnum):
    """How requests come."""

    POISSON = "Poisson"
    BURSTY = "bursts of 10 x"
    DIURNAL = "diurnal"
    CLOSED = "closed loop"


class SizesDrawn(StrEnum):
    """How large jobs are: all 1; 70 % 1, 25 % 5, 5 % 40; or Pareto (1.5) from 0.4 to 100."""

    SAME = "same size"
    MIXED = "mixed sizes"
    HEAVY = "heavy tail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One cell of the simulation: a fleet, its load (offered work over capacity), and what goes wrong.

    Errors are standard deviations: of scores relative, of sizes in log space. ``learned``: sizes are not announced but
    learned by the router. ``models`` with Zipf popularity, ``room`` of them resident a worker. ``slowed``: that share
    of workers runs at 40 % from the middle of the run on. ``mtbf_s``: workers die and come back after ``boot_s``.
    ``big_share`` of jobs needs 24 GiB. ``replicas`` of the router share their state within ``bus_s``, or, unshared,
    hear reports every ``report_s``. ``told_s``: a worker tells of ends not more often than that; it holds one prepared
    job more then. ``recorded``: these arrivals instead of drawn ones, stretched to the load.
    """

    fleet: tuple[Gpu, ...] = MIX
    load: float = 0.7
    sizes: SizesDrawn = SizesDrawn.SAME
    arrivals: Arrivals = Arrivals.POISSON
    users: int = 25
    score_error: float = 0.0
    size_error: float = 0.0
    learned: bool = False
    models: int = 0
    room: int = 2
    swap_s: float = 8.0
    slowed: float = 0.0
    mtbf_s: float = 0.0
    boot_s: tuple[float, float] = (30.0, 120.0)
    big_share: float = 0.0
    tenants: int = 1
    replicas: int = 1
    shared: bool = True
    bus_s: float = 0.005
    report_s: float = 1.0
    told_s: float = 0.0
    recorded: tuple[Recorded, ...] = field(default=(), repr=False)


@dataclass(slots=True, kw_only=True)
class Job:
    """A request with what only the simulation knows of it: its true size."""

    number: int
    arrived_at: float
    size: float
    guess: float
    model: str = ""
    vram_gib: float = 0.0
    tenant: str = ""
    think_s: float = 0.0
    router: int = 0
    refused_by: frozenset[str] = frozenset()
    worker: str = ""
    started_at: float = math.nan
    finished_at: float = math.nan

    @property
    def response_s(self) -> float:
        """From arrival to end."""
        return self.finished_at - self.arrived_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Jobs in their order; in a closed loop ``arrived_at`` is set when a user is ready."""

    jobs: list[Job] = field(repr=False)
    users: int = 0


def draw(scenario: Scenario, *, jobs: int, seed: int) -> Trace:
    """Draw a trace. The random streams are apart, so that a change of one thing changes nothing else."""
    if scenario.recorded:
        return _replay(scenario, jobs=jobs, seed=seed)
    streams = [random.Random(f"{seed}/{name}") for name in ("size", "guess", "time", "model", "rest")]
    of_size, of_guess, of_time, of_model, of_rest = streams
    sizes = [UNITS * size for size in _sizes(scenario.sizes, jobs, of_size)]
    rate = scenario.load * capacity(scenario.fleet) / (sum(sizes) / jobs)
    times = _times(scenario.arrivals, rate, of_time)
    weights = list(accumulate(1 / (rank + 1) for rank in range(scenario.models)))
    drawn = [
        Job(
            number=number,
            arrived_at=next(times),
            size=size,
            guess=size * math.exp(of_guess.gauss(0.0, scenario.size_error)),
            model=f"model-{of_model.choices(range(scenario.models), cum_weights=weights)[0]}" if weights else "",
            vram_gib=24.0 if of_rest.random() < scenario.big_share else 0.0,
            tenant=f"tenant-{int(of_rest.random() ** 2 * scenario.tenants)}",
            think_s=of_time.uniform(*THINK_S),
            router=of_rest.randrange(scenario.replicas),
        )
        for number, size in enumerate(sizes)
    ]
    return Trace(jobs=drawn, users=scenario.users if scenario.arrivals is Arrivals.CLOSED else 0)


def _replay(scenario: Scenario, *, jobs: int, seed: int) -> Trace:
    """The first ``jobs`` of a recording, at the scenario's load; the seed says only who asks which replica."""
    chance = random.Random(f"{seed}/replay")
    recorded = scenario.recorded[:jobs]
    lasted_s = max(recorded[-1].at - recorded[0].at, 1e-9)
    work = UNITS * sum(one.size for one in recorded)
    stretch = work / (scenario.load * capacity(scenario.fleet)) / lasted_s
    names = {name: f"model-{number}" for number, name in enumerate(sorted({one.model for one in recorded} - {""}))}
    replayed = [
        Job(
            number=number,
            arrived_at=stretch * (one.at - recorded[0].at),
            size=UNITS * one.size,
            guess=UNITS * one.size,
            model=names.get(one.model, ""),
            vram_gib=one.vram_gib,
            tenant=one.tenant,
            router=chance.randrange(scenario.replicas),
        )
        for number, one in enumerate(recorded)
    ]
    return Trace(jobs=replayed)


def _sizes(kind: SizesDrawn, count: int, chance: random.Random) -> list[float]:
    match kind:
        case SizesDrawn.SAME:
            return [1.0] * count
        case SizesDrawn.MIXED:
            return chance.choices((1.0, 5.0, 40.0), (0.7, 0.25, 0.05), k=count)
        case SizesDrawn.HEAVY:
            return [min(0.4 * chance.paretovariate(1.5), 100.0) for _ in range(count)]


def _times(kind: Arrivals, rate: float, chance: random.Random) -> Iterator[float]:
    """Times of arrival with this mean rate, by thinning where the rate varies."""
    share = BURST_S / (BURST_S + CALM_S)
    calm = rate / (1 + (BURST - 1) * share)
    now, bursting, until = 0.0, False, chance.expovariate(1 / CALM_S)
    while True:
        match kind:
            case Arrivals.BURSTY:
                gap = chance.expovariate(calm * (BURST if bursting else 1))
                while now + gap > until:
                    now, bursting = until, not bursting
                    until = now + chance.expovariate(1 / (BURST_S if bursting else CALM_S))
                    gap = chance.expovariate(calm * (BURST if bursting else 1))
                now += gap
            case Arrivals.DIURNAL:
                while True:
                    now += chance.expovariate(rate * (1 + SWING))
                    wanted = (1 + SWING * math.sin(2 * math.pi * now / DAY_S)) / (1 + SWING)
                    if chance.random() < wanted:
                        break
            case _:
                now += chance.expovariate(rate)
        yield now
