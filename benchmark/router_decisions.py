"""How long the router's policy takes for a decision, with hundreds and thousands of workers, in its usual states."""

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from heapq import heappop, heappush
from typing import Any

from benchmark import score
from benchmark.targets import Target, at_most, table
from router.choose.chooser import Chooser
from router.estimate import OfferedLoad, Speeds
from router.fairness import FairQueue
from router.model import Ask, Policy, WorkerView

LIMITS_MS = {500: 0.2, 5000: 1.0}
LOADS = (0.3, 0.7, 0.95, 1.5)
"""Offered work over capacity; over 1 requests pile up (to ``WAITING``)."""
WAITING = 1000
DECISIONS = 3000
MODELS = 8
FLEET = "fleet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """One fleet at one load; processor time, as the machine may be shared.

    A decision is a verdict on one request: it gets a worker, or waits for one. ``p99_ms`` is over decisions, each with
    its share of its planning pass; ``pass_p99_ms`` is a whole pass, as an arrival or an end causes one; ``placed_ms``
    is all the time spent, for each request that got a worker.
    """

    workers: int
    load: float
    decisions: int
    per_second: float
    mean_ms: float
    p99_ms: float
    pass_p99_ms: float
    placed_ms: float
    report_us: float

    def row(self) -> tuple[object, ...]:
        """For the table."""
        times = (self.mean_ms, self.p99_ms, self.pass_p99_ms, self.placed_ms)
        return (
            self.workers,
            self.load,
            f"{self.per_second:.0f}",
            *(f"{ms:.3f}" for ms in times),
            f"{self.report_us:.1f}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionsReport:
    """All fleets and loads."""

    measured: tuple[Decisions, ...]

    def targets(self) -> tuple[Target, ...]:
        """A decision's mean and p99, at the worst load that the fleet can bear; over it, the mean."""
        return tuple(target for workers in LIMITS_MS for target in self._of(workers))

    def _of(self, workers: int) -> Iterator[Target]:
        borne = [one for one in self.measured if one.workers == workers and one.load < 1]
        over = [one for one in self.measured if one.workers == workers and one.load >= 1]
        figures = {
            "mean at the worst load below 1": max((one.mean_ms for one in borne), default=None),
            "p99 at the worst load below 1": max((one.p99_ms for one in borne), default=None),
            f"mean with {WAITING} requests waiting": max((one.mean_ms for one in over), default=None),
        }
        for name, found in figures.items():
            yield at_most(f"decision, {workers} workers, {name}", found, LIMITS_MS[workers], "ms", digits=3)

    def rows(self) -> list[str]:
        """The figures as a table."""
        head = (
            *("workers", "load", "decisions/s", "decision, mean ms", "decision, p99 ms", "planning pass, p99 ms"),
            *("per request placed, ms", "a report, µs"),
        )
        return list(table(head, [one.row() for one in self.measured]))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "targets": [asdict(target) for target in self.targets()]}


def measure_decisions(
    say: Callable[[str], None], *, decisions: int = DECISIONS, fleets: Sequence[int] = tuple(LIMITS_MS)
) -> DecisionsReport:
    """Drive the production policy with a made-up fleet, in this process."""
    measured = []
    for workers in fleets:
        for load in LOADS:
            say(f"{workers} workers at load {load}")
            measured.append(_Drive(workers, load).run(decisions))
    return DecisionsReport(measured=tuple(measured))


class _Drive:
    """A fleet of mixed speeds and eight models, two resident a worker; jobs of a second or so."""

    def __init__(self, workers: int, load: float) -> None:
        self._chance = chance = random.Random(f"{workers}/{load}")
        self._views = [
            WorkerView(
                worker=f"worker-{number}",
                endpoint=FLEET,
                perf=100 * chance.lognormvariate(0, 0.5),
                slots=2,
                lead_s=0.2,
                warm=tuple(f"model-{model}" for model in chance.sample(range(MODELS), 2)),
                price=0.3,
            )
            for number in range(workers)
        ]
        self._load = load
        self._speeds = Speeds()
        self._offered = OfferedLoad()
        self._queue = FairQueue()
        self._chooser = Chooser(Policy.HYBRID, chance=chance, speeds=self._speeds, load=self._offered)
        for view in self._views:
            self._chooser.put(view, 0.0)
        self._ends: list[tuple[float, str]] = []
        self._asked = 0
        self._passes: list[tuple[float, int]] = []
        self._now = 0.0
        self._placed = 0
        self._decided = 0

    def run(self, decisions: int) -> Decisions:
        """Fill the fleet to its load, then measure."""
        rate = self._load * sum(view.perf for view in self._views) / 100
        warm = 2 * len(self._views)
        self._until(warm, rate)
        self._passes.clear()
        before = self._decided, self._placed
        gc.collect()
        gc.freeze()  # as the router does at its start
        self._until(warm + decisions, rate)
        gc.unfreeze()
        decided, placed = self._decided - before[0], self._placed - before[1]
        seconds = sum(one for one, _ in self._passes)
        shares = [one / verdicts for one, verdicts in self._passes for _ in range(verdicts)]
        return Decisions(
            workers=len(self._views),
            load=self._load,
            decisions=decided,
            per_second=decided / seconds,
            mean_ms=1000 * seconds / decided,
            p99_ms=1000 * score.percentile(shares, 0.99),
            pass_p99_ms=1000 * score.percentile([one for one, _ in self._passes], 0.99),
            placed_ms=1000 * seconds / placed,
            report_us=1e6 * self._report(self._now),
        )

    def _until(self, placed: int, rate: float) -> None:
        while self._placed < placed:
            self._now += self._chance.expovariate(rate)
            while self._ends and self._ends[0][0] <= self._now:
                ended_at, request_id = heappop(self._ends)
                self._end(request_id, ended_at)
                self._plan(ended_at)
            if len(self._queue) < WAITING:
                self._arrive(self._now)
                self._plan(self._now)

    def _arrive(self, now: float) -> None:
        self._asked += 1
        ask = Ask(
            request_id=str(self._asked),
            endpoint=FLEET,
            arrived_at=now,
            cost=100.0,
            size=100 * self._chance.lognormvariate(0, 0.5),
            tenant=f"tenant-{self._asked % 10}",
            models=(f"model-{self._chance.randrange(MODELS)}",),
        )
        self._offered.arrived(FLEET, size=ask.size, now=now)
        self._queue.push(ask)

    def _plan(self, now: float) -> None:
        begin = time.thread_time()
        placements = self._chooser.plan(self._queue.order(now), now)
        assigned = [one.assignment for one in placements if one.assignment is not None]
        for assignment in assigned:
            self._queue.take(assignment.request_id)
        self._passes.append((time.thread_time() - begin, len(placements)))
        self._decided += len(placements)
        self._placed += len(assigned)
        for assignment in assigned:
            end = assignment.expected_finish_at + self._chance.uniform(-0.1, 0.2)
            heappush(self._ends, (max(end, now), assignment.request_id))

    def _end(self, request_id: str, now: float) -> None:
        assignment = self._chooser.settle(request_id, now)
        self._queue.settled(request_id)
        if assignment is not None:
            expected = assignment.expected_finish_at - assignment.expected_start_at
            factor = self._chance.lognormvariate(0, 0.2)
            self._speeds.observe(assignment.worker, "", seconds=expected * factor, expected_s=expected)

    def _report(self, now: float) -> float:
        begin = time.thread_time()
        for view in self._views:
            self._chooser.put(view, now)
        return (time.thread_time() - begin) / len(self._views)
