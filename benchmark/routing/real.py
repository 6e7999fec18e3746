"""Some cells of the simulation again, on real processes: a router, workers that sleep instead of computing, clients.

The arrivals are the same for each policy and for the simulation that the figures are held against. Policies run at the
same time, each with a router and a fleet of its own.
"""

import asyncio
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmark import servers
from benchmark.facts import HostFacts, gather_facts
from benchmark.router_site import router
from benchmark.routing.cells import HYBRID, POLICIES, PROPORTIONAL
from benchmark.routing.clients import Clients, all_here, session
from benchmark.routing.outcome import WARM_SHARE
from benchmark.routing.sites import site_for
from benchmark.routing.stand_ins import WORK, Fleet
from benchmark.routing.traces import Scenario, SizesDrawn, draw
from benchmark.routing.world import World
from benchmark.score import percentile
from benchmark.targets import Target, table, target_rows

JOBS, SEED, DRAWS = 1000, 1000, 40
TOLERANCE = 0.15
INTERVAL_S = 1.0
"""Between two reports of a worker."""
LEAD_S = 0.3
LIMITS = {SizesDrawn.SAME: 0.42}
"""Gates of the simulation on hybrid / proportional, where so few jobs say something of the long run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealCell:
    """A scenario, run ``speed`` times as fast as it says; times below are the scenario's."""

    scenario: Scenario
    speed: float

    @property
    def name(self) -> str:
        return f"{self.scenario.sizes}, load {self.scenario.load:g}"


CELLS = (
    RealCell(scenario=Scenario(sizes=SizesDrawn.SAME), speed=1.0),
    RealCell(scenario=Scenario(sizes=SizesDrawn.MIXED), speed=4.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One cell and policy: means and p99 of responses in seconds, real and simulated on the same arrivals.

    ``draws``: simulated means, one for each draw of the policy's own chance (one, where it has none)."""

    cell: str
    policy: str
    real_mean: float
    real_p99: float
    draws: tuple[float, ...] = field(repr=False)
    simulated_p99: float

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
        gates = (self._gate(str(cell.scenario.sizes), cell.name, LIMITS.get(cell.scenario.sizes)) for cell in CELLS)
        return (*(one.target() for one in self.compared), *(gate for gate in gates if gate is not None))

    def markdown(self) -> str:
        """The report as a page keeps it."""
        head = (*("", "policy", "mean, s", "simulated", "real / simulated", "p99, s", "simulated"),)
        lines = [f"{self.facts.describe()}; {self.jobs} jobs a cell, the first {100 * WARM_SHARE:.0f} % not counted."]
        lines += ["", *table(head, [one.row() for one in self.compared])]
        return "\n".join([*lines, "", "### Targets", "", *target_rows(self.targets())])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"targets": [asdict(target) for target in self.targets()]}

    def _gate(self, sizes: str, name: str, limit: float | None) -> Target | None:
        means = {one.policy: one.real_mean for one in self.compared if one.cell == name}
        if limit is None or not {HYBRID, PROPORTIONAL} <= means.keys():
            return None
        found, most = means[HYBRID] / means[PROPORTIONAL], limit * (1 + TOLERANCE)
        return Target(
            what=f"mean response, hybrid / proportional random, {sizes}, real",
            promise=f"<= {most:.3f}",
            found=f"{found:.3f}",
            met=found <= most,
        )


async def measure_real(
    say: Callable[[str], None], *, cells: Sequence[RealCell] = CELLS, jobs: int = JOBS
) -> RealReport:
    """Three minutes, mostly of waiting. Raises: ServerFailed."""
    compared = []
    async with asyncio.TaskGroup() as group:
        runs = {
            (cell.name, policy): group.create_task(_run(cell, policy, jobs))
            for cell in cells
            for policy in (PROPORTIONAL, HYBRID)
        }
    for cell in cells:
        for policy in (PROPORTIONAL, HYBRID):
            found = _compared(cell, policy, runs[cell.name, policy].result())
            say(f"{cell.name}, {policy}: {found.real_mean:.2f} s, simulated {found.simulated_mean:.2f} s")
            compared.append(found)
    return RealReport(facts=await gather_facts(), jobs=jobs, compared=tuple(compared))


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
    )


def simulate(scenario: Scenario, policy: str, *, jobs: int, draw_number: int) -> list[float]:
    """Responses of the same arrivals in the simulation, with another draw of the policy's chance."""
    trace = draw(scenario, jobs=jobs, seed=SEED)
    world = World(scenario, trace, seed=SEED)
    world.run(site_for(POLICIES[policy], world, seed=draw_number))
    return [job.response_s for job in trace.jobs]


def _counted(responses: Sequence[float]) -> Sequence[float]:
    return responses[round(WARM_SHARE * len(responses)) :]


async def _run(cell: RealCell, policy: str, jobs: int) -> list[float]:
    """Responses in the order of arrival."""
    endpoint = {
        "policy": str(POLICIES[policy].policy),
        "worker_queue_time": None,
        "max_queue_time": 1e6,
        "lead_time": LEAD_S / cell.speed,
    }
    trace = draw(cell.scenario, jobs=jobs, seed=SEED)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        site = await stack.enter_async_context(router(folder, endpoint=endpoint))
        fleet = Fleet(
            report_url=site.report_url,
            token=site.token,
            perfs=tuple(gpu.perf * cell.speed for gpu in cell.scenario.fleet),
            ports=tuple(servers.free_port() for _ in cell.scenario.fleet),
            interval_s=INTERVAL_S / cell.speed,
        )
        command = [sys.executable, "-m", "benchmark.routing.stand_ins", fleet.to_json()]
        url = f"http://127.0.0.1:{fleet.ports[-1]}"
        working = servers.process(
            command,
            environ=servers.environment(),
            folder=folder,
            name="workers",
            url=url,
            probe=WORK,
            any_status=True,
        )
        await stack.enter_async_context(working)
        http = await stack.enter_async_context(session())
        await all_here(http, site, len(fleet.ports))
        clients = Clients(site, http, speed=cell.speed)
        return await clients.run(trace.jobs)
