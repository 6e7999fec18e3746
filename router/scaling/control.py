"""The loop: what is desired against what there is. One replica acts; all of them count and show.

A worker that is not needed is kept free first (``Dispatcher.rest``). Only when every router has known that for a while,
and it has nothing to do, by our count and by its own, is it told to end; it then finishes what may have come since.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from router.changes import Change, ChangeKind
from router.endpoint_settings import GroupSettings
from router.endpoints import Endpoint
from router.model import Condition
from router.parts import Ground
from router.scaling.desire import Demand, Desired, Steady, Supply, desire
from router.scaling.group import Group
from router.scaling.plan import Member, Plan, Source, make_plan
from router.scaling.ports import Instance, InstanceState
from router.scaling.updates import Rollout, Rollouts
from router.scaling.watch import Pace, Watch, is_busy

log = logging.getLogger(__name__)

OFFICE = "scaling"
NOTE = "scaling/"
RESTED_TICKS = 3
"""One to tell the others, one for them to hear it, one for what was given meanwhile to be reported."""
EVENTS = 50
ILL = (Condition.ERROR, Condition.STALE)


class Scaler:
    """Decides and acts; ``tick`` every ``scaling_every_s``, and soon after something changed."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._settings = ground.settings
        self._dispatcher = ground.dispatcher
        self._clock = ground.clock
        self._groups: dict[tuple[str, str], Group] = {}
        self._watch = Watch(ground.dispatcher, jobs=ground.jobs, clock=ground.clock)
        self._steady: dict[str, Steady] = {}
        self._decided: dict[str, tuple[Demand, Supply, Desired]] = {}
        self._resting: dict[str, dict[str, float]] = {}
        self._ill_since: dict[str, float] = {}
        self._updates = Rollouts(ground.core.link, clock=ground.clock)
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        self._elsewhere: dict[tuple[str, str], list[int]] = {}
        self._due_at = float("-inf")
        self.leads = False
        self._over = False

    def use(self, groups: Mapping[tuple[str, str], Group]) -> None:
        """These are the groups, by endpoint and name, whose workers are started here."""
        self._groups = dict(groups)

    def owned(self, endpoint: str, group: str) -> list[int]:
        """The workers of a group that were started here, or by the replica that acts."""
        found = self._groups.get((endpoint, group))
        return sorted(found.instances) if found and self.leads else self._elsewhere.get((endpoint, group), [])

    # -- when ---------------------------------------------------------------------------------------------------------

    def hear(self, change: Change) -> None:
        """Something changed that may matter: look again within a second."""
        if change.kind in (ChangeKind.WAITING, ChangeKind.GONE, ChangeKind.ENDPOINTS):
            self.soon()

    def soon(self) -> None:
        """Look again at the next occasion."""
        self._due_at = float("-inf")

    async def tick_if_due(self) -> None:
        """For a loop that asks once a second."""
        if not self._over and self._clock.monotonic() >= self._due_at:
            await self.tick()

    async def tick(self) -> None:
        """Count, decide, act."""
        self._due_at = self._clock.monotonic() + self._settings.scaling_every_s
        await self._watch.look()
        notes = await self._exchange()
        for group in self._groups.values():
            if self.leads and group.needs_list:
                group.look()
        for endpoint in self._dispatcher.endpoints.all():
            self._decide(endpoint)
            if self.leads and self._of(endpoint.name):
                self._updates.hear(notes, endpoint)
                await self._act(endpoint)
            elif not self.leads:
                self._dispatcher.rest(endpoint.name, _resting(notes, endpoint.name))
        if not self.leads:
            self._elsewhere = {(name, group): numbers for name, group, numbers in _owned(notes)}
            for (name, group_name), numbers in self._elsewhere.items():
                self._claim(name, group_name, numbers)

    async def resign(self) -> None:
        """The router stops: somebody else may act at once. Workers end as their provider says."""
        self._over = True
        if self.leads:
            self.leads = False
            office = self._ground.core.link.attempt(
                lambda state: state.lead(OFFICE, self._ground.replica, ttl_s=0.0), otherwise=""
            )
            await office
        for group in self._groups.values():
            await group.provider.close()

    # -- replicas -----------------------------------------------------------------------------------------------------

    async def _exchange(self) -> Mapping[str, Mapping[str, Any]]:
        """Find out who acts, tell what is seen here, hear what is seen elsewhere. With the store down nobody acts."""
        link, replica, ttl_s = self._ground.core.link, self._ground.replica, 3 * self._settings.scaling_every_s + 2.0
        leader = await link.attempt(lambda state: state.lead(OFFICE, replica, ttl_s=ttl_s), otherwise="")
        leads = leader == replica and not self._over
        if leads is not self.leads:
            self.leads = leads
            log.info("scaling changed hands", extra={"event": "scaling.leader", "here": self.leads})
        resting = {name: sorted(rested) for name, rested in self._resting.items()} if self.leads else {}
        owned = [[group.endpoint, group.name, sorted(group.instances)] for group in self._groups.values()]
        note = {"shares": self._watch.told(), "resting": resting, "owned": owned if self.leads else []}
        await link.attempt(lambda state: state.put_note(NOTE + replica, note, ttl_s=ttl_s), otherwise=None)
        nothing: Mapping[str, Mapping[str, Any]] = {}
        notes = await link.attempt(lambda state: state.notes(), otherwise=nothing, writes=False)
        others = [body for name, body in notes.items() if name.startswith(NOTE) and name != NOTE + replica]
        self._watch.hear([body["shares"] for body in others if isinstance(body.get("shares"), Mapping)])
        return notes

    # -- deciding -----------------------------------------------------------------------------------------------------

    def _decide(self, endpoint: Endpoint) -> None:
        name, now = endpoint.name, self._clock.monotonic()
        pace = self._pace(endpoint)
        demand, supply = self._watch.demand(name), self._watch.supply(name, pace=pace)
        wanted = desire(endpoint.settings, demand, supply)
        delay_s = max(self._settings.scaling_down_delay_s, pace.boot_s if self._of(name) else 0.0)
        steady = self._steady.setdefault(name, Steady())
        desired = steady.settle(wanted, now=now, delay_s=delay_s)
        self._decided[name] = (demand, supply, desired)
        self._ground.core.metrics.desired(name, capacity=desired.capacity, workers=desired.workers)

    def _pace(self, endpoint: Endpoint) -> Pace:
        """That of the group which would be started first; of the first group where somebody else starts workers."""
        settings, groups = endpoint.settings, self._of(endpoint.name)
        able = [one for one in settings.groups if one.name in groups] or list(settings.groups)
        perfs = {one.name: self._watch.perf(endpoint.name, one) for one in able}
        first = min(able, key=lambda one: (one.price / perfs[one.name], -perfs[one.name]))
        group = groups.get(first.name)
        return Pace(
            perf=perfs[first.name],
            boot_s=group.boot_s if group else first.boot_time,
            keeps_stopped=any(one.provider.keeps_stopped for one in groups.values()),
        )

    def _of(self, endpoint: str) -> dict[str, Group]:
        return {group.name: group for group in self._groups.values() if group.endpoint == endpoint}

    # -- acting -------------------------------------------------------------------------------------------------------

    async def _act(self, endpoint: Endpoint) -> None:
        name, groups = endpoint.name, self._of(endpoint.name)
        for group in groups.values():
            self._claim(name, group.name, group.instances)
            for number in group.gone:
                await self._dispatcher.drop(f"{name}/{number}")
            group.gone.clear()
        members = self._members(endpoint, groups)
        ill = self._ill(members, groups, restarted=self._updates.restarted(name))
        well = [one for one in members if one.id not in ill]
        plan = make_plan(self._decided[name][2], well, [*self._sources(endpoint, groups, well)])
        self._rest(name, plan.rest | self._updates.resting(name))
        for group in groups.values():
            if not group.is_blocked:
                self._carry_out(group, plan, ill)
        for rollout in self._updates.of(name):
            if (updated := groups.get(rollout.group)) is not None:
                await self._roll(rollout, updated, well)

    def _claim(self, endpoint: str, group: str, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._dispatcher.endpoints.claim(number, endpoint=endpoint, group=group)

    def _members(self, endpoint: Endpoint, groups: Mapping[str, Group]) -> list[Member]:
        """All workers of the endpoint: those that report, and those that are to."""
        known = {worker.record.id: worker for worker in self._dispatcher.workers(endpoint.name)}
        owned = {number: group for group in groups.values() for number in group.instances}
        restarted = self._updates.restarted(endpoint.name)
        members: list[Member] = []
        for number in sorted({*known, *owned}):
            worker, group = known.get(number), owned.get(number)
            instance = group.instances[number] if group else None
            condition = worker.condition if worker else None
            if group and worker and (worker.heard_at < group.begun.get(number, 0.0) or condition is Condition.STOPPED):
                condition = None  # that was its former life
            if instance and instance.state is InstanceState.STOPPED:
                condition = None
            if number in restarted and condition is not Condition.READY:
                condition = None
            settings = self._settings_of(endpoint, group.name if group else worker.record.group if worker else "")
            if group and condition is Condition.READY:
                group.is_ready(number)
            key = f"{endpoint.name}/{number}"
            perf = worker.view.perf if worker and condition is Condition.READY else 0.0
            members.append(
                Member(
                    id=number,
                    key=key,
                    group=settings.name,
                    perf=perf or self._watch.perf(endpoint.name, settings),
                    price=settings.price if instance is None or instance.price is None else instance.price,
                    state=instance.state if instance else None,
                    condition=condition,
                    busy=worker is not None and is_busy(worker, held=len(self._dispatcher.held(key))),
                    rested=self._has_rested(endpoint.name, key, worker.heard_at if worker else 0.0),
                )
            )
        return members

    def _settings_of(self, endpoint: Endpoint, group: str) -> GroupSettings:
        return endpoint.group(group) or endpoint.settings.groups[0]

    def _has_rested(self, endpoint: str, key: str, heard_at: float) -> bool:
        since = self._resting.get(endpoint, {}).get(key)
        if since is None or heard_at < since:
            return False
        return self._clock.monotonic() - since >= RESTED_TICKS * self._settings.scaling_every_s

    def _rest(self, endpoint: str, keys: frozenset[str]) -> None:
        before, now = self._resting.get(endpoint, {}), self._clock.monotonic()
        self._resting[endpoint] = {key: before.get(key, now) for key in keys}
        self._dispatcher.rest(endpoint, keys)

    def _sources(self, endpoint: Endpoint, groups: Mapping[str, Group], members: Sequence[Member]) -> Sequence[Source]:
        sources: list[Source] = []
        for settings in endpoint.settings.groups:
            group = groups.get(settings.name)
            if group is None:
                continue
            caps = (settings.max_workers, group.most, endpoint.settings.max_workers)
            most = min(cap for cap in caps if cap is not None)
            there = sum(one.exists and one.group == settings.name for one in members)
            sources.append(
                Source(
                    name=settings.name,
                    perf=self._watch.perf(endpoint.name, settings),
                    price=settings.price,
                    room=0 if group.is_blocked else max(most - there, 0),
                    coming=group.coming,
                    keeps_stopped=group.provider.keeps_stopped,
                )
            )
        return sources

    def _carry_out(self, group: Group, plan: Plan, ill: frozenset[int]) -> None:
        """One thing at a time: what ends first, then what is resumed, then what is new."""
        now, provider = self._clock.monotonic(), group.provider
        for number in (*sorted(ill), *plan.remove):
            if number in group.instances and group.instances[number].state is not InstanceState.LEAVING:
                group.mark(number, InstanceState.LEAVING)
                self._dispatcher.stopped(f"{group.endpoint}/{number}")
                self._note("remove", group, number)
                group.do("remove", self._removed(group, number, ill=number in ill))
                return
        for number in plan.stop:
            if number in group.instances:
                group.mark(number, InstanceState.STOPPED)
                self._dispatcher.stopped(f"{group.endpoint}/{number}")
                self._note("stop", group, number)
                group.do("stop", provider.stop(number))
                return
        for number in plan.resume:
            if number in group.instances:
                group.mark(number, InstanceState.RUNNING)
                group.mark_booting(number, now)
                self._note("resume", group, number)
                group.do("resume", provider.resume(number, group.launch))
                return
        if count := plan.start.get(group.name, 0):
            self._note("start", group, count)
            group.do("start", self._started(group, count), coming=count)

    async def _started(self, group: Group, count: int) -> Sequence[Instance]:
        begun = await group.provider.start(count, group.launch)
        if len(begun) < count:  # somebody else may have some meanwhile
            group.fail(f"Of {count} workers {len(begun)} could be started; there are no more for now.")
        return begun

    async def _removed(self, group: Group, number: int, *, ill: bool) -> None:
        await group.provider.remove(number)
        group.booting.discard(number)
        if ill:
            group.fail(f"Worker {number} did not become ready, or failed; it is replaced.")

    def _note(self, action: str, group: Group, number: int) -> None:
        desired = self._decided[group.endpoint][2]
        told = {"action": action, "endpoint": group.endpoint, "group": group.name, "number": number}
        self._events.append({"at": self._clock.now().timestamp(), **told, "why": desired.why})
        log.info("scaling", extra={"event": "scaling.action", **told, "why": desired.why})

    # -- health and updates -------------------------------------------------------------------------------------------

    def _ill(
        self, members: Sequence[Member], groups: Mapping[str, Group], *, restarted: Mapping[int, float]
    ) -> frozenset[int]:
        """Those to be replaced: they do not become ready, have failed, or were silent for too long."""
        now, settings = self._clock.monotonic(), self._settings
        found: set[int] = set()
        for one in members:
            if one.condition in ILL:
                self._ill_since.setdefault(one.key, now)
            else:
                self._ill_since.pop(one.key, None)
            group = groups.get(one.group) if one.state is not None else None
            if group is None or one.state in (InstanceState.STOPPED, InstanceState.LEAVING):
                continue
            up_s = now - max(group.begun.get(one.id, now), restarted.get(one.id, 0.0))
            slow = one.condition is None or (one.id in group.booting and not one.is_loaded)
            failing_s = now - self._ill_since.get(one.key, now)
            if (
                one.state is InstanceState.FAILED
                or (slow and up_s >= settings.scaling_start_timeout_s)
                or failing_s >= settings.scaling_unhealthy_s
            ):
                found.add(one.id)
        return frozenset(found)

    async def _roll(self, rollout: Rollout, group: Group, members: Sequence[Member]) -> None:
        number = rollout.step(members, now=self._clock.monotonic())
        if number is not None and not group.is_blocked:
            self._note("update", group, number)
            group.do("update", group.provider.restart(number, group.launch))
            await self._updates.begin(rollout)

    # -- for people ---------------------------------------------------------------------------------------------------

    def figures(self, endpoint: str) -> dict[str, Any]:
        """One endpoint: what is desired, why, and what there is. Empty before the first look."""
        if endpoint not in self._decided:
            return {}
        demand, supply, desired = self._decided[endpoint]
        groups = {group.name: group.told() for group in self._of(endpoint).values()}
        return {
            "endpoint": endpoint,
            "desired_workers": desired.workers,
            "desired_capacity": round(desired.capacity, 3),
            "desired_total_workers": desired.total,
            "reason": desired.why,
            "queue_time_s": round(desired.queue_s, 3) if desired.queue_s < float("inf") else None,
            "ready_workers": supply.workers,
            "capacity": round(supply.capacity, 3),
            "load": round(demand.load, 3),
            "waiting_requests": demand.waiting_count,
            "waiting_work": round(demand.waiting_work, 3),
            "running_requests": demand.given_count,
            "resting": sorted(self._resting.get(endpoint, {})),
            "groups": groups,
        }

    def snapshot(self) -> dict[str, Any]:
        """Everything, for the page."""
        names = [endpoint.name for endpoint in self._dispatcher.endpoints.all()]
        return {
            "acts": self.leads,
            "endpoints": {name: figures for name in names if (figures := self.figures(name))},
            "events": list(self._events),
            "updates": self._updates.told(),
        }

    def health(self) -> dict[str, Any]:
        """In short, for ``/health``."""
        troubles = {f"{group.endpoint}/{group.name}": group.trouble for group in self._groups.values() if group.trouble}
        return {
            "acts": self.leads,
            "desired_workers": {
                one.name: self._decided[one.name][2].workers
                for one in self._dispatcher.endpoints.all()
                if one.name in self._decided
            },
            "troubles": troubles,
        }


def _resting(notes: Mapping[str, Mapping[str, Any]], endpoint: str) -> frozenset[str]:
    """Whom the replica that acts keeps free."""
    told = (body.get("resting") for name, body in notes.items() if name.startswith(NOTE))
    lists = (one.get(endpoint) for one in told if isinstance(one, Mapping))
    return frozenset(key for keys in lists if isinstance(keys, list) for key in keys if isinstance(key, str))


def _owned(notes: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, list[int]]]:
    """Whom the replica that acts has started: endpoint, group, numbers."""
    for name, body in notes.items():
        told = body.get("owned") if name.startswith(NOTE) else None
        for one in told if isinstance(told, list) else ():
            match one:
                case [str(endpoint), str(group), [*numbers]]:
                    yield endpoint, group, [number for number in numbers if isinstance(number, int)]
