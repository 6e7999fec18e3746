"""Plain baselines of the simulation, which no router of ours offers: shortest queue and shortest expected delay."""

import random

from benchmark.routing.traces import Job
from benchmark.routing.world import Machine, World


def seen_perfs(world: World, seed: int) -> dict[str, float]:
    """What benchmarks said of the machines: the truth with an error, the same for every policy."""
    chance = random.Random(f"{seed}/score")
    error = world.scenario.score_error
    return {machine.name: machine.perf * max(1 + chance.gauss(0.0, error), 0.3) for machine in world.machines}


class Counting:
    """Shortest queue (JSQ) and shortest expected delay (SED), by numbers of jobs."""

    def __init__(self, world: World, *, seed: int, by_speed: bool) -> None:
        self._world = world
        self._perfs = seen_perfs(world, seed)
        self._by_speed = by_speed
        self._dead: set[str] = set()

    def arrived(self, job: Job, now: float) -> None:
        """Choose at arrival."""
        fitting = [
            machine
            for machine in self._world.machines
            if machine.gpu.vram_gib >= job.vram_gib and machine.name not in self._dead
        ]
        self._world.give(job, min(fitting, key=self._delay), self)

    def finished(self, job: Job, machine: Machine, now: float) -> None:
        """Nothing waits here."""

    def died(self, machine: Machine, lost: list[Job], now: float) -> None:
        """Choose anew."""
        self._dead.add(machine.name)
        for job in lost:
            self.arrived(job, now)

    def came(self, machine: Machine, now: float) -> None:
        """It counts again."""
        self._dead.discard(machine.name)

    def _delay(self, machine: Machine) -> tuple[float, float]:
        perf = self._perfs[machine.name] / machine.gpu.engines
        ahead = (machine.count + 1) // machine.gpu.engines
        return (ahead / perf, 0.0) if self._by_speed else (ahead, -perf)
