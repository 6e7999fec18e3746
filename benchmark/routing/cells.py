"""The cells of the simulation: which scenario, which policies, how many jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from benchmark.routing.fleets import FLEETS
from benchmark.routing.recorded import Recorded
from benchmark.routing.sites import UNBOUND, Counted, Rules
from benchmark.routing.traces import Arrivals, Scenario, SizesDrawn
from router.choose.tuning import Tuning
from router.model import Policy

PROPORTIONAL, LEAST_WORK, CENTRAL, HYBRID = "proportional random", "least work", "central queue", "hybrid"
ORACLE = "clairvoyant least work"
THRIFTY, MISERLY = "hybrid, 2,000 s a dollar", "hybrid, 20,000 s a dollar"

POLICIES: Mapping[str, Rules] = {
    rules.name: rules
    for rules in (
        Rules(name=PROPORTIONAL, policy=Policy.PROPORTIONAL, tuning=UNBOUND),
        Rules(name="power of two", policy=Policy.POWER_OF_TWO),
        Rules(name="shortest queue", counting=Counted.REQUESTS),
        Rules(name="shortest delay", counting=Counted.DELAY),
        Rules(name=LEAST_WORK, policy=Policy.LEAST_WORK),
        Rules(name=CENTRAL, tuning=Tuning(spare_until=-2.0, full_from=-1.0), blind=True),
        Rules(name=HYBRID),
        Rules(name=ORACLE, policy=Policy.LEAST_WORK, clairvoyant=True),
        Rules(name=THRIFTY, tuning=replace(UNBOUND, s_per_dollar=2_000.0)),
        Rules(name=MISERLY, tuning=replace(UNBOUND, s_per_dollar=20_000.0)),
    )
}
RIVALS = (PROPORTIONAL, LEAST_WORK, CENTRAL, HYBRID)
LOADS = (0.3, 0.5, 0.7, 0.85, 0.95)
RECORDED_LOADS = (0.3, 0.5, 0.7, 0.85)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One row of a table. ``share`` of the usual number of jobs is drawn."""

    group: str
    name: str
    scenario: Scenario
    policies: tuple[str, ...] = RIVALS
    share: float = 0.5


def cells() -> tuple[Cell, ...]:
    """All of them."""
    groups = (_loads, _errors, _affinity, _replicas, _late, _traffic, _fleets, _trouble, _prices)
    return tuple(cell for group in groups for cell in group())


def recorded_cells(recorded: Sequence[Recorded]) -> tuple[Cell, ...]:
    """A recording at several loads: its times are stretched."""
    return tuple(
        Cell(
            group="recorded",
            name=f"recorded, load {load}",
            scenario=Scenario(recorded=tuple(recorded), models=len({one.model for one in recorded} - {""}), load=load),
            share=1.0,
        )
        for load in RECORDED_LOADS
    )


def grid_name(sizes: SizesDrawn, load: float) -> str:
    """The name of a cell in the grid of loads."""
    return f"{sizes}, load {load}"


def _loads() -> list[Cell]:
    everyone = tuple(name for name in POLICIES if name not in (ORACLE, THRIFTY, MISERLY))
    return [
        Cell(
            group="load",
            name=grid_name(sizes, load),
            scenario=Scenario(sizes=sizes, load=load),
            policies=everyone,
            share=1.0 if load == 0.7 else 0.5,
        )
        for sizes in (SizesDrawn.SAME, SizesDrawn.MIXED)
        for load in LOADS
    ]


def _errors() -> list[Cell]:
    wrong = {"scores off by 20 %": 0.0, "scores 20 %, sizes off by 0.5": 0.5}
    found = [
        Cell(
            group="errors",
            name=f"{sizes}, {name}",
            scenario=Scenario(sizes=sizes, score_error=0.2, size_error=size_error),
            policies=(*RIVALS, ORACLE),
            share=0.5 if size_error or sizes is SizesDrawn.MIXED else 1.0,
        )
        for sizes in (SizesDrawn.SAME, SizesDrawn.MIXED)
        for name, size_error in wrong.items()
    ]
    learned = Scenario(sizes=SizesDrawn.MIXED, score_error=0.2, learned=True)
    return [*found, Cell(group="errors", name="mixed sizes, all learned from jobs", scenario=learned)]


def _affinity() -> list[Cell]:
    aware = (LEAST_WORK, HYBRID)
    return [
        Cell(group="models", name="8 models, 8 s, load 0.2", scenario=Scenario(models=8, load=0.2), share=0.2),
        *(
            Cell(
                group="models",
                name=f"8 models, {swap_s:g} s, load {load}",
                scenario=Scenario(models=8, load=load, swap_s=swap_s),
                policies=aware,
            )
            for swap_s, load in ((1.0, 0.7), (3.0, 0.6), (8.0, 0.6), (8.0, 0.85), (60.0, 0.6))
        ),
    ]


def _replicas() -> list[Cell]:
    shared = [(f"{count} replicas, shared state", Scenario(replicas=count)) for count in (1, 3, 5)]
    apart = [
        (f"3 replicas, reports every {report_s:g} s", Scenario(replicas=3, shared=False, report_s=report_s))
        for report_s in (1.0, 5.0, 10.0)
    ]
    mixed = Scenario(replicas=3, sizes=SizesDrawn.MIXED)
    return [
        *(Cell(group="replicas", name=name, scenario=one, policies=(HYBRID,), share=1.0) for name, one in shared),
        Cell(
            group="replicas",
            name="3 replicas, shared state, mixed sizes",
            scenario=mixed,
            policies=(HYBRID,),
            share=1.0,
        ),
        *(Cell(group="replicas", name=name, scenario=one, policies=(HYBRID,)) for name, one in apart),
    ]


def _late() -> list[Cell]:
    return [
        Cell(group="late", name=f"ends told every {told_s:g} s", scenario=Scenario(told_s=told_s))
        for told_s in (1.0, 2.0, 5.0, 10.0)
    ]


def _prices() -> list[Cell]:
    return [
        Cell(
            group="prices",
            name=f"{SizesDrawn.SAME}, load {load}, prices",
            scenario=Scenario(load=load),
            policies=(HYBRID, THRIFTY, MISERLY),
        )
        for load in (0.3, 0.5, 0.7)
    ]


def _traffic() -> list[Cell]:
    return [
        Cell(group="traffic", name="bursts of 10 x", scenario=Scenario(arrivals=Arrivals.BURSTY, load=0.5)),
        Cell(group="traffic", name="diurnal, +-80 %", scenario=Scenario(arrivals=Arrivals.DIURNAL, load=0.6)),
        Cell(group="traffic", name="closed loop, 25 users", scenario=Scenario(arrivals=Arrivals.CLOSED)),
        Cell(group="traffic", name="heavy tail of sizes", scenario=Scenario(sizes=SizesDrawn.HEAVY)),
        Cell(group="traffic", name="4 tenants, mixed sizes", scenario=Scenario(sizes=SizesDrawn.MIXED, tenants=4)),
    ]


def _fleets() -> list[Cell]:
    return [
        *(
            Cell(group="fleets", name=f"fleet: {name}", scenario=Scenario(fleet=fleet))
            for name, fleet in FLEETS.items()
            if name != "mix"
        ),
        Cell(group="fleets", name="30 % of jobs need 24 GiB", scenario=Scenario(big_share=0.3, load=0.6)),
    ]


def _trouble() -> list[Cell]:
    spot = Scenario(mtbf_s=1800.0, load=0.6, sizes=SizesDrawn.MIXED)
    return [
        Cell(group="trouble", name="workers die every 30 min each", scenario=spot),
        Cell(group="trouble", name="workers die every 4 h each", scenario=Scenario(mtbf_s=14400.0, load=0.6)),
        Cell(group="trouble", name="20 % of workers at 40 % speed", scenario=Scenario(slowed=0.2, load=0.6)),
    ]
