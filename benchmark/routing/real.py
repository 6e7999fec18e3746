"""Some cells of the simulation again, on real processes: a router, workers that sleep instead of computing, clients.

The arrivals are the same for each policy and for the simulation that the figures are held against. Runs go on at the
same time, each with routers and a fleet of its own.
"""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmark import servers
from benchmark.facts import HostFacts, gather_facts
from benchmark.router_site import REDIS, routers
from benchmark.routing.cells import HYBRID, POLICIES, PROPORTIONAL
from benchmark.routing.clients import Clients, all_here, session
from benchmark.routing.outcome import WARM_SHARE
from benchmark.routing.sites import LEAD_S, site_for
from benchmark.routing.stand_ins import Fleet
from benchmark.routing.traces import Scenario, SizesDrawn, draw
from benchmark.routing.world import World
from benchmark.score import percentile
from benchmark.targets import Target, table, target_rows

JOBS, SEED, DRAWS = 1000, 1000, 40
TOLERANCE = 0.15
INTERVAL_S = 1.0
"""Between two reports of a worker, or two words of ends."""
LIMITS = {
    ("mean", SizesDrawn.SAME): 0.42,
    ("mean", SizesDrawn.MIXED): 0.15,
    ("p99", SizesDrawn.SAME): 0.20,
    ("p99", SizesDrawn.MIXED): 0.28,
}
"""Gates of the simulation on hybrid / proportional."""
REPLICAS_LIMIT = 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class RealCell:
    """A scenario, run ``speed`` times as fast as it says, with ``share`` times the usual number of jobs; times below
    are the scenario's."""

    scenario: Scenario
    speed: float
    share: float = 1.0
    policies: tuple[str, ...] = (PROPORTIONAL, HYBRID)

    @property
    def name(self) -> str:
        count = self.scenario.replicas
        shared = f", {count} routers on Redis" if count > 1 else ""
        return f"{self.scenario.sizes}, load {self.scenario.load:g}{shared}"


CELLS = (
    RealCell(scenario=Scenario(sizes=SizesDrawn.SAME, told_s=INTERVAL_S), speed=1.0),
    RealCell(scenario=Scenario(sizes=SizesDrawn.SAME, told_s=INTERVAL_S, replicas=3), speed=1.0, policies=(HYBRID,)),
    RealCell(scenario=Scenario(sizes=SizesDrawn.MIXED, told_s=INTERVAL_S), speed=4.0, share=2.0),
)
"""Only where queues of proportional random have had time to grow does its ratio say something of the long run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One cell and policy: means and p99 of responses in seconds, real and simulated on the same arrivals.

    ``draws``: simulated means, one for each draw of the policy's own chance (one, where it has none). ``real`` and
    ``simulated`` are all responses (of the first draw)."""

    cell: str
    policy: str
    real_mean: float
    real_p99: float
    draws: tuple[float, ...] = field(repr=False)
    simulated_p99: float
    real: tuple[float, ...] = field(default=(), repr=False)
    simulated: tuple[float, ...] = field(default=(), repr=False)

    @property
    def simulated_mean(self) -> float:
        return fmean(self.draws)

    @property
    def ratio(self) -> float:
        """Real over simulated."""
        return self.real_mean / self.simulated_mean

    def target(self) -> Target:
        """Within the tolerance of the simulation, or of the range in which nearly all its draws lie."""
        low, high = percentile(self.draws, 0.025), percentile(self.draws, 0.975)
        spread = f" (its draws: {low:.2f} to {high:.2f} s)" if high > low else ""
        return Target(
            what=f"{self.policy}, {self.cell}: mean response as simulated",
            promise=f"within {100 * TOLERANCE:.0f} %",
            found=f"{self.real_mean:.2f} s, simulated {self.simulated_mean:.2f} s{spread}",
            met=(1 - TOLERANCE) * low <= self.real_mean <= (1 + TOLERANCE) * high,
        )

    def row(self) -> tuple[object, ...]:
        """For the table."""
        figures = (self.real_mean, self.simulated_mean, self.ratio, self.real_p99, self.simulated_p99)
        return self.cell, self.policy, *(f"{figure:.2f}" for figure in figures)


@dataclass(frozen=True, slots=True, kw_only=True)
class RealReport:
    """All cells."""

    facts: HostFacts
    jobs: int
    compared: tuple[Compared, ...]

    def targets(self) -> tuple[Target, ...]:
        """As simulated; and the gates."""
        return (*(one.target() for one in self.compared), *self._gates())

    def markdown(self) -> str:
        """The report as a page keeps it."""
        head = (*("", "policy", "mean, s", "simulated", "real / simulated", "p99, s", "simulated"),)
        counts = f"{self.jobs} jobs a run, of mixed sizes twice as many"
        lines = [f"{self.facts.describe()}; {counts}; the first {100 * WARM_SHARE:.0f} % are not counted."]
        lines += ["", *table(head, [one.row() for one in self.compared])]
        return "\n".join([*lines, "", "### Targets", "", *target_rows(self.targets())])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"targets": [asdict(target) for target in self.targets()]}

    def _gates(self) -> Iterator[Target]:
        found = {(one.cell, one.policy): one for one in self.compared}
        for (figure, sizes), limit in LIMITS.items():
            name = next(cell.name for cell in CELLS if cell.scenario.sizes is sizes)
            what = f"{figure} response, hybrid / proportional random, {sizes}, real"
            yield _gate(what, found.get((name, HYBRID)), found.get((name, PROPORTIONAL)), figure, limit)
        for cell in CELLS:
            if cell.scenario.replicas > 1:
                many, one = (found.get((name, HYBRID)) for name in (cell.name, CELLS[0].name))
                what = f"mean response, {cell.scenario.replicas} routers on Redis / one, real"
                yield _gate(what, many, one, "mean", REPLICAS_LIMIT)


def _gate(what: str, one: Compared | None, other: Compared | None, figure: str, limit: float) -> Target:
    """A ratio of real figures against the simulation's gate, with the tolerance."""
    most = limit * (1 + TOLERANCE)
    if one is None or other is None:
        return Target(what=what, promise=f"<= {most:.3f}", found="not measured", met=None)
    found = getattr(one, f"real_{figure}") / getattr(other, f"real_{figure}")
    return Target(what=what, promise=f"<= {most:.3f}", found=f"{found:.3f}", met=found <= most)


async def measure_real(
    say: Callable[[str], None], *, cells: Sequence[RealCell] = CELLS, jobs: int = JOBS
) -> RealReport:
    """Five minutes, mostly of waiting. Raises: ServerFailed."""
    if shutil.which(REDIS) is None:
        say(f"{REDIS} is not installed: nothing with several routers is measured")
        cells = [cell for cell in cells if cell.scenario.replicas == 1]
    runs = [(cell, policy) for cell in cells for policy in cell.policies]
    say(f"{len(runs)} runs at the same time, of about {_lasts_s(cells, jobs):.0f} s")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_run(cell, policy, jobs, say)) for cell, policy in runs]
    compared = []
    for (cell, policy), task in zip(runs, tasks, strict=True):
        found = await asyncio.to_thread(_compared, cell, policy, task.result())
        say(f"{cell.name}, {policy}: {found.real_mean:.2f} s, simulated {found.simulated_mean:.2f} s")
        compared.append(found)
    return RealReport(facts=await gather_facts(), jobs=jobs, compared=tuple(compared))


def _lasts_s(cells: Sequence[RealCell], jobs: int) -> float:
    """Until the last arrival."""
    traces = ((cell, draw(cell.scenario, jobs=round(cell.share * jobs), seed=SEED)) for cell in cells)
    return max((trace.jobs[-1].arrived_at / cell.speed for cell, trace in traces), default=0.0)


def _compared(cell: RealCell, policy: str, responses: Sequence[float]) -> Compared:
    draws = 1 if policy == HYBRID else DRAWS
    simulated = [simulate(cell.scenario, policy, jobs=len(responses), draw_number=number) for number in range(draws)]
    real = _counted(responses)
    return Compared(
        cell=cell.name,
        policy=policy,
        real_mean=fmean(real),
        real_p99=percentile(real, 0.99),
        draws=tuple(fmean(_counted(one)) for one in simulated),
        simulated_p99=fmean(percentile(_counted(one), 0.99) for one in simulated),
        real=tuple(real),
        simulated=tuple(_counted(simulated[0])),
    )


def simulate(scenario: Scenario, policy: str, *, jobs: int, draw_number: int) -> list[float]:
    """Responses of the same arrivals in the simulation, with another draw of the policy's chance."""
    trace = draw(scenario, jobs=jobs, seed=SEED)
    world = World(scenario, trace, seed=SEED)
    world.run(site_for(POLICIES[policy], world, seed=draw_number))
    return [job.response_s for job in trace.jobs]


def _counted(responses: Sequence[float]) -> Sequence[float]:
    return responses[round(WARM_SHARE * len(responses)) :]


async def _run(cell: RealCell, policy: str, jobs: int, say: Callable[[str], None]) -> list[float]:
    """Responses in the order of arrival."""
    endpoint = {
        "policy": str(POLICIES[policy].policy),
        "worker_queue_time": None,
        "max_queue_time": 1e6,
        "lead_time": LEAD_S / cell.speed,
    }
    trace = draw(cell.scenario, jobs=round(cell.share * jobs), seed=SEED)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        sites = await stack.enter_async_context(routers(folder, cell.scenario.replicas, endpoint=endpoint))
        fleet = Fleet(
            report_urls=tuple(site.report_url for site in sites),
            token=sites[0].token,
            perfs=tuple(gpu.perf * cell.speed for gpu in cell.scenario.fleet),
            interval_s=INTERVAL_S / cell.speed,
        )
        await stack.enter_async_context(_workers(fleet, folder, sites[0].url))
        http = await stack.enter_async_context(session())
        for site in sites:
            await all_here(http, site, len(fleet.perfs))

        def told(number: int) -> None:
            say(f"{cell.name}, {policy}: {number} of {len(trace.jobs)} jobs have arrived")

        return await Clients(sites, http, speed=cell.speed, told=told).run(trace.jobs)


def _workers(fleet: Fleet, folder: Path, router_url: str) -> AbstractAsyncContextManager[servers.Server]:
    """They are here when the routers know them."""
    return servers.process(
        [sys.executable, "-m", "benchmark.routing.stand_ins", fleet.to_json()],
        environ=servers.environment(),
        folder=folder,
        name="workers",
        url=router_url,
        probe="/ready",
    )
