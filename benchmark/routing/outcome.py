"""What a run of a trace comes to, and how far figures can be trusted over seeds. Pure but for the running itself."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from benchmark.routing.sites import Rules, site_for
from benchmark.routing.traces import Job, Scenario, draw
from benchmark.routing.world import World
from benchmark.score import Interval, percentile

WARM_SHARE = 0.1
"""Of the jobs, dropped at the begin."""
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Two-sided 95 % quantiles of Student's t."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Times in seconds. ``slowdowns``: response over what the fastest worker would need, by size class.

    ``wasted``: share of all work that died with workers. ``jain``: fairness of mean slowdowns over tenants (1: equal).
    ``dollars``: of busy time, per 1000 jobs. ``lost``: jobs that never ended.
    """

    mean: float
    p50: float
    p95: float
    p99: float
    wait_mean: float
    wait_p99: float
    slowdowns: dict[str, float]
    swaps: float
    wasted: float
    jain: float
    dollars: float
    lost: int


def run(scenario: Scenario, rules: Rules, *, jobs: int, seed: int) -> Outcome:
    """Draw the seed's trace and let the policy have it."""
    trace = draw(scenario, jobs=jobs, seed=seed)
    world = World(scenario, trace, seed=seed)
    world.run(site_for(rules, world, seed=seed))
    ended = [job for job in trace.jobs if job.finished_at == job.finished_at]
    counted = [job for job in ended if job.number >= round(WARM_SHARE * len(trace.jobs))]
    responses = [job.response_s for job in counted]
    waits = [job.started_at - job.arrived_at for job in counted]
    fastest = max(machine.gpu.perf / machine.gpu.engines for machine in world.machines)
    dollars = sum(machine.busy_s / machine.gpu.engines * machine.gpu.price for machine in world.machines) / 3600
    return Outcome(
        mean=fmean(responses),
        p50=percentile(responses, 0.5),
        p95=percentile(responses, 0.95),
        p99=percentile(responses, 0.99),
        wait_mean=fmean(waits),
        wait_p99=percentile(waits, 0.99),
        slowdowns=_slowdowns(counted, fastest),
        swaps=world.swaps / len(trace.jobs),
        wasted=world.wasted / sum(job.size for job in trace.jobs),
        jain=_jain(counted, fastest),
        dollars=1000 * dollars / len(trace.jobs),
        lost=len(trace.jobs) - len(ended),
    )


def interval(values: Sequence[float]) -> Interval:
    """Mean of independent runs and its 95 % interval."""
    centre = fmean(values)
    if len(values) < 2:
        return Interval(value=centre, low=centre, high=centre)
    half = STUDENT.get(len(values) - 1, 1.96) * stdev(values) / sqrt(len(values))
    return Interval(value=centre, low=centre - half, high=centre + half)


def _slowdowns(jobs: Sequence[Job], fastest: float) -> dict[str, float]:
    classes: defaultdict[str, list[float]] = defaultdict(list)
    for job in jobs:
        name = "up to 2" if job.size < 200 else "2 to 20" if job.size < 2000 else "over 20"
        classes[name].append(job.response_s * fastest / job.size)
    return {name: fmean(values) for name, values in sorted(classes.items())}


def _jain(jobs: Sequence[Job], fastest: float) -> float:
    tenants: defaultdict[str, list[float]] = defaultdict(list)
    for job in jobs:
        tenants[job.tenant].append(job.response_s * fastest / job.size)
    means = [fmean(values) for values in tenants.values()]
    return sum(means) ** 2 / (len(means) * sum(mean**2 for mean in means))
