"""What routes in the simulation: the production router's parts, one to several replicas, and three plain baselines."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

from benchmark.routing.traces import Job
from benchmark.routing.world import Machine, Site, World
from router.choose.chooser import Chooser
from router.choose.tuning import Tuning
from router.estimate import OfferedLoad, Sizes, Speeds
from router.fairness import FairQueue
from router.model import Ask, Assignment, Condition, Policy, WorkerView

FLEET = "fleet"
UNBOUND = Tuning(max_queue_s=1e12)


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


def seen_perfs(world: World, seed: int) -> dict[str, float]:
    """What benchmarks said of the machines: the truth with an error, the same for every policy."""
    chance = random.Random(f"{seed}/score")
    error = world.scenario.score_error
    return {machine.name: machine.perf * max(1 + chance.gauss(0.0, error), 0.3) for machine in world.machines}


class Replica:
    """One router process: chooser, queue and estimates as the production router wires them."""

    def __init__(self, rules: Rules, *, seed: str) -> None:
        self.rules = rules
        self.speeds = Speeds()
        self.load = OfferedLoad()
        self.sizes = Sizes()
        self.queue = FairQueue()
        self.chooser = Chooser(
            rules.policy, chance=random.Random(seed), speeds=self.speeds, load=self.load, tuning=rules.tuning
        )

    @property
    def late(self) -> bool:
        """Whether requests wait here rather than at workers."""
        return self.rules.policy is Policy.HYBRID


class Routers:
    """Replicas of the production router before the fleet, sharing state or not."""

    def __init__(self, rules: Rules, world: World, *, seed: int) -> None:
        self._world = world
        self._rules = rules
        scenario = world.scenario
        self._shared = scenario.shared or scenario.replicas == 1
        self._learned = scenario.learned
        self._replicas = [Replica(rules, seed=f"{seed}/{number}") for number in range(scenario.replicas)]
        self._jobs: dict[str, Job] = {}
        exact = {machine.name: machine.perf for machine in world.machines}
        self._perfs = exact if rules.clairvoyant else seen_perfs(world, seed)
        self._pace = len(exact) / sum(exact.values())
        self._alarms: set[int] = set()
        self._claims: dict[str, int] = {}
        self._owners: dict[str, Replica] = {}
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
        replica.load.arrived(FLEET, size=ask.size, now=now)
        self._others(replica, lambda one: one.load.arrived(FLEET, size=ask.size, now=self._world.now))
        replica.queue.push(ask, pace=self._pace)
        self._plan(replica)

    def finished(self, job: Job, machine: Machine, now: float) -> None:
        """The owner hears of it at once, the others over the bus."""
        replica = self._owners.pop(str(job.number))
        self._claims[machine.name] -= 1
        self._learn(replica, job, machine, now)
        self._settle(replica, str(job.number))
        self._plan(replica)

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
                replica.queue.push(self._ask(job, replica), pace=self._pace)
        for replica in self._replicas:
            self._plan(replica)

    def came(self, machine: Machine, now: float) -> None:
        """A worker is back, with nothing resident."""
        self._tell_all(self._view(machine))
        for replica in self._replicas:
            self._plan(replica)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _plan(self, replica: Replica) -> None:
        now = self._world.now
        for placement in replica.chooser.plan(replica.queue.order(now), now):
            assignment = placement.assignment
            if assignment is None:
                continue
            machine = self._world.machine(assignment.worker)
            if self._shared and replica.late and self._claims.get(machine.name, 0) >= machine.gpu.engines:
                replica.chooser.settle(assignment.request_id, now)  # another replica was first
                continue
            replica.queue.take(assignment.request_id)
            self._claims[machine.name] = self._claims.get(machine.name, 0) + 1
            self._owners[assignment.request_id] = replica
            self._others(replica, partial(self._note, assignment=assignment))
            self._world.give(self._jobs[assignment.request_id], machine, self)
        self._wake(replica)

    def _wake(self, replica: Replica) -> None:
        """Plan again when somebody's worker is overdue, as the production dispatcher does."""
        moment = replica.chooser.next_change(FLEET, self._world.now) if len(replica.queue) else None
        if moment is not None and id(replica) not in self._alarms:
            self._alarms.add(id(replica))

            def ring() -> None:
                self._alarms.discard(id(replica))
                self._plan(replica)

            self._world.at(moment, ring)

    def _note(self, replica: Replica, *, assignment: Assignment) -> None:
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
                    self._world.at(self._world.now + self._world.scenario.bus_s, partial(call, other))

    def _learn(self, replica: Replica, job: Job, machine: Machine, now: float) -> None:
        assignment = replica.chooser.assignment(str(job.number))
        if assignment is None:
            return
        ran_s = now - job.started_at
        family = assignment.family
        speed = self._perfs[machine.name] / machine.gpu.engines * replica.speeds.factor(machine.name, family)
        swap_s = self._world.scenario.swap_s if assignment.models and ran_s > self._world.scenario.swap_s else 0.0
        for one in self._replicas if self._shared else (replica,):
            one.speeds.observe(machine.name, family, seconds=ran_s - swap_s, expected_s=assignment.size / speed)
            if self._learned:
                one.sizes.observe(f"{job.size:g}", seconds=ran_s - swap_s, speed=speed, prior=100.0)

    def _ask(self, job: Job, replica: Replica) -> Ask:
        size = replica.sizes.size(f"{job.size:g}", prior=100.0).median if self._learned else job.guess
        return Ask(
            request_id=str(job.number),
            endpoint=FLEET,
            arrived_at=job.arrived_at,
            cost=100.0,
            size=job.size if self._rules.clairvoyant else size,
            tenant=job.tenant,
            models=(job.model,) if job.model and not self._rules.blind else (),
            vram_gib=job.vram_gib,
            refused_by=job.refused_by,
        )

    def _view(self, machine: Machine) -> WorkerView:
        return WorkerView(
            worker=machine.name,
            endpoint=FLEET,
            perf=self._perfs[machine.name],
            condition=Condition.READY,
            engines=machine.gpu.engines,
            slots=machine.gpu.engines,
            heard_at=self._world.now,
            room=machine.room,
            swap_s={f"model-{number}": self._world.scenario.swap_s for number in range(self._world.scenario.models)},
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
        self._world.at(self._world.now + self._world.scenario.report_s, self._report)


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
