"""Run the cells over seeds, in two quiet processes."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmark.routing.cells import POLICIES, Cell, cells, recorded_cells
from benchmark.routing.outcome import Outcome, run
from benchmark.routing.recorded import read_recording
from benchmark.routing.report import Measured, RoutingReport

JOBS, SEEDS = 8_000, 10
FIRST_SEED = 100
"""The policy's constants were chosen on seeds 0 to 9; what is reported was not used for that."""
PROCESSES, NICE = 2, 19


async def measure_routing(
    say: Callable[[str], None],
    *,
    jobs: int = JOBS,
    seeds: int = SEEDS,
    processes: int = PROCESSES,
    trace: Path | None = None,
) -> RoutingReport:
    """The whole simulation (a quarter of an hour of processor time), or a recording. Raises: BadRecording."""
    chosen = cells() if trace is None else recorded_cells(read_recording(trace))
    return simulate(say, cells=chosen, jobs=jobs, seeds=seeds, processes=processes)


def simulate(
    say: Callable[[str], None],
    *,
    cells: Sequence[Cell],
    jobs: int = JOBS,
    seeds: int = SEEDS,
    processes: int = PROCESSES,
) -> RoutingReport:
    """Every cell with every seed and policy. The result depends on nothing but the arguments."""
    with ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn"), initializer=os.nice, initargs=(NICE,)
    ) as pool:
        pending = [
            [pool.submit(run_cell, cell, jobs, seed) for seed in range(FIRST_SEED, FIRST_SEED + seeds)]
            for cell in cells
        ]
        measured = []
        try:
            for number, (cell, futures) in enumerate(zip(cells, pending, strict=True), 1):
                runs = [future.result() for future in futures]
                say(f"{number} of {len(cells)}: {cell.name}")
                outcomes = {name: tuple(one[name] for one in runs) for name in cell.policies}
                measured.append(Measured(cell=cell, outcomes=outcomes))
        finally:
            pool.shutdown(cancel_futures=True)  # who stops it does not wait for the rest
    return RoutingReport(jobs=jobs, seeds=seeds, measured=tuple(measured))


def run_cell(cell: Cell, jobs: int, seed: int) -> dict[str, Outcome]:
    """All policies of a cell on one seed's trace."""
    count = max(round(cell.share * jobs), 20)
    return {name: run(cell.scenario, POLICIES[name], jobs=count, seed=seed) for name in cell.policies}
