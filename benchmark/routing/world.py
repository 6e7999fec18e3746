"""The simulated fleet: an event loop over true speeds, queues, resident models and deaths. Knows no policy."""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from typing import Protocol

from benchmark.routing.fleets import Gpu
from benchmark.routing.traces import Job, Scenario, Trace

SLOW = 0.4
NOTICE_S = 2.0
"""After so long a dead worker is known to be dead."""
STALLED_S = 4 * 3600.0
"""When nothing has arrived or ended for so long, what is left is lost."""


@dataclass(slots=True, kw_only=True)
class Machine:
    """A worker as it truly is: jobs wait in order of arrival; ``perf`` is units per second of all engines."""

    name: str
    gpu: Gpu
    perf: float
    room: int
    queue: deque[Job] = field(default_factory=deque)
    running: dict[int, Job] = field(default_factory=dict)
    warm: list[str] = field(default_factory=list)
    alive: bool = True
    life: int = 0
    busy_s: float = 0.0

    def slow_down(self) -> None:
        """It is throttled, or shared."""
        self.perf = SLOW * self.gpu.perf

    @property
    def count(self) -> int:
        """Jobs it has."""
        return len(self.queue) + len(self.running)

    @property
    def work(self) -> float:
        """Units it was given and has not finished."""
        return sum(job.size for job in self.queue) + sum(job.size for job in self.running.values())


class Site(Protocol):
    """What routes: a policy with everything around it."""

    def arrived(self, job: Job, now: float) -> None: ...

    def finished(self, job: Job, machine: Machine, now: float) -> None: ...

    def died(self, machine: Machine, lost: list[Job], now: float) -> None: ...

    def came(self, machine: Machine, now: float) -> None: ...


class World:
    """Runs a trace. The site calls ``give``; ``at`` calls back later."""

    def __init__(self, scenario: Scenario, trace: Trace, *, seed: int) -> None:
        self.scenario = scenario
        self.now = 0.0
        self.swaps = 0
        self.wasted = 0.0
        self.trace = trace
        self._chance = random.Random(f"{seed}/world")
        self.machines = [
            Machine(name=f"{number:03}-{gpu.kind}", gpu=gpu, perf=gpu.perf, room=scenario.room)
            for number, gpu in enumerate(scenario.fleet)
        ]
        self._by_name = {machine.name: machine for machine in self.machines}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._left = len(trace.jobs)
        self._moved_at = 0.0
        self._next = 0

    def machine(self, name: str) -> Machine:
        """A worker by its name."""
        return self._by_name[name]

    def at(self, moment: float, call: Callable[[], None]) -> None:
        """Call back at a moment."""
        self._number += 1
        heappush(self._events, (moment, self._number, call))

    def run(self, site: Site) -> None:
        """Until every job has ended, or is lost."""
        self._disturb(site)
        for _ in range(self.trace.users or 1):
            self._schedule_next(site)
        while self._left and self._events:
            moment, _, call = heappop(self._events)
            if moment > self._moved_at + STALLED_S:
                break
            self.now = moment
            call()

    def give(self, job: Job, machine: Machine, site: Site) -> None:
        """Hand a job to a machine; a dead one swallows it, which is noticed late."""
        job.worker = machine.name
        if not machine.alive:
            self.at(self.now + NOTICE_S, lambda: site.died(machine, [job], self.now))
            return
        machine.queue.append(job)
        self._start(machine, site)

    def _schedule_next(self, site: Site) -> None:
        if self._next >= len(self.trace.jobs):
            return
        job = self.trace.jobs[self._next]
        self._next += 1
        if self.trace.users:
            job.arrived_at = self.now + job.think_s
        self.at(job.arrived_at, lambda: self._arrive(job, site))

    def _arrive(self, job: Job, site: Site) -> None:
        self._moved_at = self.now
        if not self.trace.users:
            self._schedule_next(site)
        site.arrived(job, self.now)

    def _start(self, machine: Machine, site: Site) -> None:
        while machine.queue and len(machine.running) < machine.gpu.engines:
            job = machine.queue.popleft()
            machine.running[job.number] = job
            job.started_at = self.now
            seconds = self._swap(machine, job) + job.size / (machine.perf / machine.gpu.engines)
            self.at(self.now + seconds, partial(self._finish, job, machine, machine.life, site))

    def _swap(self, machine: Machine, job: Job) -> float:
        if not job.model:
            return 0.0
        missing = job.model not in machine.warm
        if not missing:
            machine.warm.remove(job.model)
        machine.warm.append(job.model)
        del machine.warm[: max(len(machine.warm) - machine.room, 0)]
        self.swaps += missing
        return self.scenario.swap_s if missing else 0.0

    def _finish(self, job: Job, machine: Machine, life: int, site: Site) -> None:
        if machine.life != life:
            return
        del machine.running[job.number]
        job.finished_at = self._moved_at = self.now
        machine.busy_s += self.now - job.started_at
        self._left -= 1
        self._start(machine, site)
        site.finished(job, machine, self.now)
        if self.trace.users:
            self._schedule_next(site)

    def _disturb(self, site: Site) -> None:
        scenario, end = self.scenario, self.trace.jobs[-1].arrived_at
        slowed = self._chance.sample(self.machines, round(scenario.slowed * len(self.machines)))
        for machine in slowed:
            self.at(end / 2, machine.slow_down)
        if scenario.mtbf_s:
            for machine in self.machines:
                self._live(machine, site)

    def _live(self, machine: Machine, site: Site) -> None:
        self.at(self.now + self._chance.expovariate(1 / self.scenario.mtbf_s), lambda: self._die(machine, site))

    def _die(self, machine: Machine, site: Site) -> None:
        lost = [*machine.running.values(), *machine.queue]
        self.wasted += sum((self.now - job.started_at) * machine.perf for job in machine.running.values())
        machine.alive, machine.life = False, machine.life + 1
        machine.queue.clear()
        machine.running.clear()
        machine.warm.clear()
        self.at(self.now + NOTICE_S, lambda: site.died(machine, lost, self.now))
        self.at(self.now + NOTICE_S + self._chance.uniform(*self.scenario.boot_s), lambda: self._revive(machine, site))

    def _revive(self, machine: Machine, site: Site) -> None:
        machine.alive = True
        site.came(machine, self.now)
        self._live(machine, site)
