"""The simulation's tables and gates."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from benchmark.routing.cells import CENTRAL, HYBRID, LEAST_WORK, LOADS, ORACLE, PROPORTIONAL, Cell, grid_name
from benchmark.routing.outcome import Outcome, interval
from benchmark.routing.traces import SizesDrawn
from benchmark.score import Interval
from benchmark.targets import Target, table, target_rows

SAME, MIXED = (grid_name(sizes, 0.7) for sizes in (SizesDrawn.SAME, SizesDrawn.MIXED))
SCORES = f"{SizesDrawn.SAME}, scores off by 20 %"
AT_THE_ENDS = {
    (SizesDrawn.SAME, 0.5): 0.52,
    (SizesDrawn.MIXED, 0.5): 0.25,
    (SizesDrawn.SAME, 0.85): 0.42,
    (SizesDrawn.MIXED, 0.85): 0.15,
}
"""Where the fleet is half idle, even a random choice seldom queues: the limit is looser there."""
GATED_LOADS = (0.5, 0.7, 0.85)
"""Loads at which the policy must not be worse than the better of its two limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One cell: outcomes of its policies, in the order of seeds."""

    cell: Cell
    outcomes: Mapping[str, Sequence[Outcome]]

    def mean(self, policy: str, figure: str = "mean") -> Interval:
        """A figure over the seeds."""
        return interval([getattr(one, figure) for one in self.outcomes[policy]])

    def ratio(self, policy: str, other: str, figure: str = "mean") -> Interval:
        """Paired by seed: both had the same trace."""
        pairs = zip(self.outcomes[policy], self.outcomes[other], strict=True)
        return interval([getattr(one, figure) / getattr(two, figure) for one, two in pairs])


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingReport:
    """All cells; ``jobs`` is the usual number in one."""

    jobs: int
    seeds: int
    measured: tuple[Measured, ...]

    def find(self, name: str) -> Measured | None:
        """A cell by its name."""
        return next((one for one in self.measured if one.cell.name == name), None)

    def targets(self) -> tuple[Target, ...]:
        """The gates; upper ends of 95 % intervals count, where there is one. Recorded traffic has but one."""
        recorded = all(one.cell.group == "recorded" for one in self.measured)
        return tuple(gate for gate in self._gates() if gate.met is not None or not recorded)

    def markdown(self) -> str:
        """The report as a page keeps it."""
        lines = [
            f"{self.seeds} seeds that nothing was tuned on, up to {self.jobs} jobs a cell and seed; "
            "first 10 % dropped; ± is the 95 % interval."
        ]
        for group, members in groupby(self.measured, key=lambda one: one.cell.group):
            lines += ["", f"### {HEADS[group]}", "", *_rows(list(members))]
        return "\n".join([*lines, "", "### Gates", "", *target_rows(self.targets())])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "jobs": self.jobs,
            "seeds": self.seeds,
            "cells": {
                one.cell.name: {name: [asdict(outcome) for outcome in runs] for name, runs in one.outcomes.items()}
                for one in self.measured
            },
            "targets": [asdict(target) for target in self.targets()],
        }

    def _gates(self) -> Iterator[Target]:
        against = "mean response / proportional random"
        yield self._ratio(f"{against}, same size, load 0.7", SAME, "mean", 0.42)
        yield self._ratio(f"{against}, same size, scores off by 20 %", SCORES, "mean", 0.45)
        yield self._ratio(f"{against}, mixed sizes, load 0.7", MIXED, "mean", 0.15)
        for (sizes, load), limit in AT_THE_ENDS.items():
            yield self._ratio(f"{against}, {sizes}, load {load}", grid_name(sizes, load), "mean", limit)
        against = "p99 response / proportional random"
        yield self._ratio(f"{against}, same size, load 0.7", SAME, "p99", 0.20)
        yield self._ratio(f"{against}, same size, scores off by 20 %", SCORES, "p99", 0.28)
        yield self._ratio(f"{against}, mixed sizes, load 0.7", MIXED, "p99", 0.28)
        for load in GATED_LOADS:
            for sizes in (SizesDrawn.SAME, SizesDrawn.MIXED):
                yield self._limits(grid_name(sizes, load))
        yield self._swaps()
        for suffix in ("", ", mixed sizes"):
            yield self._replicas(suffix)
        lost = [sum(run.lost for run in runs) for one in self.measured for runs in one.outcomes.values()]
        yield Target(what="jobs lost, all cells", promise="0", found=str(sum(lost)), met=sum(lost) == 0)

    def _ratio(self, what: str, name: str, figure: str, limit: float) -> Target:
        cell = self.find(name)
        return _below(what, cell.ratio(HYBRID, PROPORTIONAL, figure) if cell else None, limit)

    def _limits(self, name: str) -> Target:
        """Against whichever of the two is better in the mean over seeds."""
        cell = self.find(name)
        found = None
        if cell is not None:
            better = min((LEAST_WORK, CENTRAL), key=lambda policy: cell.mean(policy).value)
            found = cell.ratio(HYBRID, better)
        return _below(f"mean response / better of least work and central queue, {name}", found, 1.05)

    def _swaps(self) -> Target:
        cells = [one for one in self.measured if one.cell.group == "models"]
        worst = max((one.mean(HYBRID, "swaps") for one in cells), key=lambda found: found.high, default=None)
        return _below("model loads per job, worst cell with 8 models", worst, 0.02, digits=4)

    def _replicas(self, suffix: str) -> Target:
        three = self.find(f"3 replicas, shared state{suffix}")
        one = self.find(MIXED if suffix else "1 replicas, shared state")
        found = None
        if one and three:
            pairs = zip(three.outcomes[HYBRID], one.outcomes[HYBRID], strict=True)
            found = interval([many.mean / single.mean for many, single in pairs])
        return _below(f"three replicas on shared state / one{suffix}", found, 1.10)


HEADS = {
    "load": "Load: mean response, s",
    "errors": "Wrong scores and sizes, load 0.7: mean response, s",
    "models": "Models that must be loaded: mean response, s",
    "replicas": "Several routers, load 0.7",
    "late": "Workers that tell late of ends, load 0.7: mean response, s",
    "traffic": "Other traffic: mean response, s",
    "fleets": "Other fleets: mean response, s",
    "trouble": "Trouble, load 0.6: mean response, s",
    "prices": "Prices: mean response, s, and dollars of busy time for 1000 jobs",
    "recorded": "Recorded traffic: mean response, s",
}


def _rows(members: Sequence[Measured]) -> Iterator[str]:
    policies = list(dict.fromkeys(name for one in members for name in one.outcomes))
    head = ("", *policies, *_extra_heads(members[0].cell.group))
    rows = [
        (
            one.cell.name,
            *(_cell(one.mean(name)) if name in one.outcomes else "–" for name in policies),
            *_extras(one),
        )
        for one in members
    ]
    return table(head, rows)


def _extra_heads(group: str) -> tuple[str, ...]:
    more = {
        "load": ("its p50 / p95", "its wait, mean / p99"),
        "models": ("swaps/job",),
        "trouble": ("work wasted",),
        "traffic": ("Jain",),
        "errors": ("regret, s",),
        "prices": ("$, one policy after the other",),
        "recorded": ("swaps/job",),
    }
    return ("hybrid p99", "its slowdown by size", *more.get(group, ()))


def _extras(one: Measured) -> Iterator[str]:
    runs = one.outcomes[HYBRID]
    yield _cell(one.mean(HYBRID, "p99"))
    classes = {name for run in runs for name in run.slowdowns}
    found = {name: interval([run.slowdowns[name] for run in runs if name in run.slowdowns]).value for name in classes}
    yield ", ".join(f"{name}: {found[name]:.1f}" for name in ("up to 2", "2 to 20", "over 20") if name in found)
    match one.cell.group:
        case "load":
            yield _both(one, "p50", "p95")
            yield _both(one, "wait_mean", "wait_p99")
        case "prices":
            yield " / ".join(f"{one.mean(name, 'dollars').value:.4f}" for name in one.outcomes)
        case "models" | "recorded":
            yield f"{one.mean(HYBRID, 'swaps').value:.4f}"
        case "trouble":
            yield f"{100 * one.mean(HYBRID, 'wasted').value:.2f} %"
        case "traffic":
            yield f"{one.mean(HYBRID, 'jain').value:.3f}"
        case "errors":
            yield f"{one.mean(HYBRID).value - one.mean(ORACLE).value:.2f}" if ORACLE in one.outcomes else "–"


def _both(one: Measured, *figures: str) -> str:
    return " / ".join(f"{one.mean(HYBRID, figure).value:.2f}" for figure in figures)


def _cell(found: Interval) -> str:
    digits = 2 if found.value < 100 else 0
    return f"{found.value:.{digits}f} ± {found.high - found.value:.{digits}f}"


def _below(what: str, found: Interval | None, limit: float, *, digits: int = 3) -> Target:
    text = "not measured" if found is None else f"{found.value:.{digits}f} (at most {found.high:.{digits}f})"
    return Target(what=what, promise=f"<= {limit:g}", found=text, met=None if found is None else found.high <= limit)


def curves(report: RoutingReport, sizes: SizesDrawn, figure: str) -> dict[str, list[tuple[float, float]]]:
    """A figure over load, by policy."""
    found = {load: report.find(grid_name(sizes, load)) for load in LOADS}
    policies = next((list(one.outcomes) for one in found.values() if one), [])
    return {name: [(load, one.mean(name, figure).value) for load, one in found.items() if one] for name in policies}
