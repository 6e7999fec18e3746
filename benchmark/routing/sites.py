"""What routes in the simulation: the production router's parts, one to several replicas."""

import math
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

from benchmark.routing.baselines import Counting, seen_perfs
from benchmark.routing.traces import Job
from benchmark.routing.world import Machine, Site, World
from router.choose.chooser import Chooser
from router.choose.tuning import Tuning
from router.fairness import FairQueue
from router.learning import Learning
from router.model import Ask, Assignment, Condition, Policy, WorkerView

FLEET = "fleet"
UNBOUND = Tuning(max_queue_s=1e12)
LEAD_S = 0.3
"""Where a worker's word of an end is late, it is given its next job so long before; the endpoints' default."""


class Counted(StrEnum):
    """What a baseline counts: requests, or requests over speed."""

    REQUESTS = "requests"
    DELAY = "delay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A policy under test. ``blind``: it does not know which models are needed. ``counting``: one of the baselines."""

    name: str
    policy: Policy = Policy.HYBRID
    tuning: Tuning = UNBOUND
    blind: bool = False
    counting: Counted | None = None
    clairvoyant: bool = False


def site_for(rules: Rules, world: World, *, seed: int) -> Site:
    """What routes by these rules."""
    if rules.counting is not None:
        return Counting(world, seed=seed, by_speed=rules.counting is Counted.DELAY)
    return Routers(rules, world, seed=seed)


class Replica:
    """One router process: chooser, queue and what it learns, as the production router wires them."""

    def __init__(self, rules: Rules, *, seed: str) -> None:
        self.rules = rules
        self.learning = Learning()
        self.queue = FairQueue()
        self.chooser = Chooser(
            rules.policy,
            chance=random.Random(seed),
            speeds=self.learning.speeds,
            load=self.learning.load,
            tuning=rules.tuning,
        )
        self.swaps_s: dict[str, float] = {}
        self.wakes_at = -math.inf

    @property
    def late(self) -> bool:
        """Whether requests wait here rather than at workers."""
        return self.rules.policy is Policy.HYBRID

    def swap_s(self, assignment: Assignment) -> float:
        """What the decision expected for loading of models."""
        explained = self.chooser.explained(assignment.request_id) if assignment.models else None
        candidates = explained.candidates if explained else ()
        return next((one.swap_s for one in candidates if one.worker == assignment.worker), 0.0)


class Routers:
    """Replicas of the production router before the fleet, sharing state or not."""

    def __init__(self, rules: Rules, world: World, *, seed: int) -> None:
        self._world = world
        self._rules = rules
        self._scenario = scenario = world.scenario
        self._shared = scenario.shared or scenario.replicas == 1
        self._replicas = [Replica(rules, seed=f"{seed}/{number}") for number in range(scenario.replicas)]
        self._jobs: dict[str, Job] = {}
        exact = {machine.name: machine.perf for machine in world.machines}
        self._perfs = exact if rules.clairvoyant else seen_perfs(world, seed)
        self._claims: dict[str, int] = {}
        self._owners: dict[str, Replica] = {}
        self._told_at: dict[str, float] = {}
        self._untold: defaultdict[str, list[Job]] = defaultdict(list)
        for machine in world.machines:
            self._tell_all(self._view(machine))
        if not self._shared:
            world.at(scenario.report_s, self._report)

    # -- Site ---------------------------------------------------------------------------------------------------------

    def arrived(self, job: Job, now: float) -> None:
        """A client asks one of the replicas."""
        replica = self._replicas[job.router]
        ask = self._ask(job, replica)
        self._jobs[ask.request_id] = job
        replica.learning.load.arrived(FLEET, size=ask.size, now=now)
        self._push(replica, ask)
        self._plan(replica)

    def finished(self, job: Job, machine: Machine, now: float) -> None:
        """Workers tell at once, but not more often than every ``told_s``."""
        self._untold[machine.name].append(job)
        if len(self._untold[machine.name]) > 1:
            return
        told_at = max(self._told_at.get(machine.name, -math.inf) + self._scenario.told_s, now)
        self._told_at[machine.name] = told_at
        if told_at > now:
            self._world.at(told_at, partial(self._tell, machine))
        else:
            self._tell(machine)

    def died(self, machine: Machine, lost: list[Job], now: float) -> None:
        """Its jobs go back to their queues."""
        for replica in self._replicas:
            replica.chooser.drop(machine.name)
        for job in lost:
            request_id = str(job.number)
            if request_id in self._owners:
                replica = self._owners.pop(request_id)
                self._claims[machine.name] -= 1
                replica.queue.settled(request_id)
                job.refused_by |= {machine.name}
                self._push(replica, self._ask(job, replica))
        for replica in self._replicas:
            self._plan(replica)

    def came(self, machine: Machine, now: float) -> None:
        """A worker is back, with nothing resident."""
        self._tell_all(self._view(machine))
        for replica in self._replicas:
            self._plan(replica)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _push(self, replica: Replica, ask: Ask) -> None:
        capacity = replica.chooser.capacity(FLEET)
        replica.queue.push(ask, pace=len(self._perfs) / capacity if capacity > 0 else 0.01)

    def _tell(self, machine: Machine) -> None:
        """The owners hear of ends, the others over the bus."""
        told = self._untold.pop(machine.name)
        owners = [self._owners.pop(str(job.number)) for job in told]
        for job, replica in zip(told, owners, strict=True):
            self._claims[machine.name] -= 1
            self._learn(replica, job, machine)
            self._settle(replica, str(job.number))
        if self._scenario.told_s and machine.alive:
            self._tell_all(self._view(machine))
        for replica in dict.fromkeys(owners):
            self._plan(replica)

    def _plan(self, replica: Replica) -> None:
        now = self._world.now
        for placement in replica.chooser.plan(replica.queue.order(now), now):
            assignment = placement.assignment
            if assignment is None:
                continue
            machine = self._world.machine(assignment.worker)
            most = max(self._slots(machine), len(replica.chooser.held(machine.name)))
            if self._shared and replica.late and self._claims.get(machine.name, 0) >= most:
                replica.chooser.settle(assignment.request_id, now)  # another replica was first
                continue
            replica.queue.take(assignment.request_id)
            replica.swaps_s[assignment.request_id] = replica.swap_s(assignment)
            self._claims[machine.name] = self._claims.get(machine.name, 0) + 1
            self._owners[assignment.request_id] = replica
            self._others(replica, partial(self._note, assignment=assignment))
            self._world.give(self._jobs[assignment.request_id], machine, self)
        self._wake(replica)

    def _wake(self, replica: Replica) -> None:
        """Plan again when a worker may be handed more, or is overdue, as the production planner does."""
        now = self._world.now
        moment = replica.chooser.next_change(FLEET, now) if len(replica.queue) else None
        if moment is not None and not now < replica.wakes_at <= moment:
            replica.wakes_at = moment
            self._world.at(moment, partial(self._ring, replica))

    def _ring(self, replica: Replica) -> None:
        if replica.wakes_at <= self._world.now:
            replica.wakes_at = -math.inf
            self._plan(replica)

    def _note(self, replica: Replica, *, assignment: Assignment) -> None:
        replica.learning.load.arrived(FLEET, size=assignment.size, now=self._world.now, elsewhere=True)
        if assignment.request_id in self._owners:  # it may be over before the others hear of it
            replica.chooser.note(assignment)

    def _settle(self, replica: Replica, request_id: str) -> None:
        replica.chooser.settle(request_id, self._world.now)
        replica.queue.settled(request_id)

        def tell(one: Replica) -> None:
            one.chooser.settle(request_id, self._world.now)
            self._plan(one)

        self._others(replica, tell)

    def _others(self, replica: Replica, call: Callable[[Replica], None]) -> None:
        if self._shared:
            for other in self._replicas:
                if other is not replica:
                    self._world.at(self._world.now + self._scenario.bus_s, partial(call, other))

    def _learn(self, replica: Replica, job: Job, machine: Machine) -> None:
        """Only who gave a job learns from it."""
        swap_s = replica.swaps_s.pop(str(job.number))
        if replica.chooser.assignment(str(job.number)) is None:
            return
        lesson = replica.learning.lesson(
            self._ask(job, replica),
            self._view(machine),
            kind=_kind(job),
            prior=job.guess,
            run_s=job.finished_at - job.started_at,
            swap_s=swap_s,
        )
        replica.learning.learn(lesson)

    def _ask(self, job: Job, replica: Replica) -> Ask:
        ask = replica.learning.ask(
            str(job.number),
            endpoint=FLEET,
            arrived_at=job.arrived_at,
            cost=100.0,
            kind=_kind(job),
            tenant=job.tenant,
            models=(job.model,) if job.model and not self._rules.blind else (),
            vram_gib=job.vram_gib,
        )
        told = job.size if self._rules.clairvoyant else ask.size if self._scenario.learned else job.guess
        return replace(ask, size=told, refused_by=job.refused_by)

    def _slots(self, machine: Machine) -> int:
        """Where ends are told late, a worker holds one prepared job more."""
        return machine.gpu.engines + (self._scenario.told_s > 0)

    def _view(self, machine: Machine) -> WorkerView:
        swaps_s = {f"model-{number}": self._scenario.swap_s for number in range(self._scenario.models)}
        return WorkerView(
            worker=machine.name,
            endpoint=FLEET,
            perf=self._perfs[machine.name],
            condition=Condition.READY,
            engines=machine.gpu.engines,
            slots=self._slots(machine),
            lead_s=LEAD_S if self._scenario.told_s else 0.0,
            heard_at=self._world.now,
            room=machine.room,
            swap_s=swaps_s,
            vram_gib=machine.gpu.vram_gib,
            price=machine.gpu.price,
        )

    def _tell_all(self, view: WorkerView) -> None:
        for replica in self._replicas:
            replica.chooser.put(view, self._world.now)

    def _report(self) -> None:
        """Without shared state a replica sees the others' work in reports only."""
        for machine in self._world.machines:
            if machine.alive:
                for replica in self._replicas:
                    own = sum(one.size for one in replica.chooser.held(machine.name))
                    foreign = max(machine.work - own, 0.0)
                    replica.chooser.put(replace(self._view(machine), foreign_load=foreign), self._world.now)
        for replica in self._replicas:
            self._plan(replica)
        self._world.at(self._world.now + self._scenario.report_s, self._report)


def _kind(job: Job) -> str:
    return f"{job.size:g}"
