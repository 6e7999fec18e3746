"""The waiting and the counting: requests wait at their endpoint's desk, are planned at every event, and what they were
given counts until it ends. Where replicas share a store, that grants each assignment.

Every arrival, end, report and due moment plans anew; nothing is polled. Code that changes state does not await.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from lib.clock import Clock
from lib.errors import Overloaded
from lib.lifecycle import Tasks
from router.alarm import Alarm
from router.bulletin import UNBOUNDED, Bulletin
from router.cases import Case, Decided
from router.changes import Change, ChangeKind, Changes
from router.desk import Desk, come_again_s
from router.endpoints import Endpoint, Endpoints
from router.learning import Learning
from router.metrics import RouterMetrics
from router.model import Ask, Assignment, Placement, Policy
from router.ports import NewsKind
from router.refusals import Refusals
from router.registry import Epoch, Registry
from router.replication import assignment_body

log = logging.getLogger(__name__)

TTL_S = 60.0
"""An assignment of which nothing is heard counts so long."""
REMEMBERED_S = 15.0
"""A request that its worker has no more may still be told of, and teach."""
DECISIONS_SHOWN = 200
LOOKED_AT_EVERY = 8
"""The figures of every so many decisions are kept for the metrics."""
CONFLICT_S = 0.2
"""A worker that another replica filled is left alone until its news has come."""
RENEWALS = 3
"""A reservation that goes on is renewed so often in its ``ttl_s``."""


class Planner:
    """All desks of one replica. ``Dispatcher`` is its face to others."""

    def __init__(
        self,
        *,
        endpoints: Endpoints,
        registry: Registry,
        bulletin: Bulletin,
        clock: Clock,
        tasks: Tasks,
        alarm: Alarm,
        learning: Learning,
        metrics: RouterMetrics,
        chance: random.Random,
    ) -> None:
        self.changes = Changes()
        self.refusals = Refusals()
        self.cases: dict[str, Case] = {}
        self.decisions: deque[Decided] = deque(maxlen=DECISIONS_SHOWN)
        self._registry = registry
        self._bulletin = bulletin
        self._clock = clock
        self._epoch = Epoch(clock)
        self._tasks = tasks
        self._alarm = alarm
        self._learning = learning
        self._metrics = metrics
        self._chance = chance
        self._owners: dict[str, str] = {}
        self._replan_at: dict[str, float] = {}
        self._granted = 0
        self.desks = {endpoint.name: self._desk(endpoint) for endpoint in endpoints.all()}
        endpoints.listen(self._endpoint_changed)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def open(self, ask: Ask, *, kind: str, prior: float, ttl_s: float, deadline: float) -> Case:
        """A request begins to wait; one of the same name that waits is told to come again. Raises: Overloaded."""
        older = self.cases.get(ask.request_id)
        if older is not None and older.answer(None):
            self.desks[ask.endpoint].withdraw(ask.request_id)
        waiter: asyncio.Future[Assignment | None] = asyncio.get_running_loop().create_future()
        case = Case(ask=ask, kind=kind, prior=prior, ttl_s=ttl_s, deadline=deadline, waiter=waiter)
        self.cases[ask.request_id] = case
        self._offer(case)
        self.plan(ask.endpoint)
        if not waiter.done():
            forecast = self.desks[ask.endpoint].forecast(ask, self._clock.monotonic())
            case.foretold_s = forecast.likely_s if forecast else None
            self._alarm.at(deadline, self._give_up, ask.request_id)
            self.changes.tell(Change(kind=ChangeKind.WAITING, endpoint=ask.endpoint, request_id=ask.request_id))
        return case

    def leave(self, case: Case) -> None:
        """Whoever waited is gone: so is the place, and what was given in the same moment."""
        request_id, waiter = case.ask.request_id, case.waiter
        if self.cases.get(request_id) is not case:
            return
        if waiter.done() and not waiter.cancelled() and waiter.result() is not None:
            self._give_back(request_id)
        else:
            del self.cases[request_id]
            self._withdraw(case.ask)

    def _offer(self, case: Case) -> None:
        now, request_id = self._clock.monotonic(), case.ask.request_id
        desk = self.desks[case.ask.endpoint]
        refused = self.refusals.of(request_id, now)
        ask = replace(case.ask, refused_by=case.ask.refused_by | refused) if refused else case.ask
        if not desk.admit(ask):
            self.cases.pop(request_id, None)
            raise Overloaded("Too many requests wait already.", retry_after_s=come_again_s(desk.forecast(ask, now)))
        if (moment := self.refusals.next_change(request_id, now)) is not None:
            self._alarm.at(moment, self._reconsider, request_id)

    def _reconsider(self, request_id: str) -> None:
        """A worker that refused it may have it again."""
        case = self.cases.get(request_id)
        if case is not None and self._withdraw(case.ask):
            self._offer(case)
            self.plan(case.ask.endpoint)

    def send_away(self) -> None:
        """Tell everybody who waits to come again."""
        for case in tuple(self.cases.values()):
            case.deadline = 0.0
            self._give_up(case.ask.request_id)

    def _give_up(self, request_id: str) -> None:
        case = self.cases.get(request_id)
        if case is None or case.waiter.done() or self._clock.monotonic() < case.deadline:
            return
        if self._withdraw(case.ask):  # else it is being reserved, which answers it
            del self.cases[request_id]
            case.answer(None)
            self.desks[case.ask.endpoint].send_away(case.ask)

    def _withdraw(self, ask: Ask) -> bool:
        desk = self.desks.get(ask.endpoint)
        return desk is not None and desk.withdraw(ask.request_id) is not None

    # -- planning -----------------------------------------------------------------------------------------------------

    def plan(self, endpoint: str) -> None:
        """Give what can be given at this moment."""
        desk, now = self.desks[endpoint], self._clock.monotonic()
        for placement in desk.plan(now):
            if placement.assignment is not None:
                self._placed(desk, placement, placement.assignment)
        moment = desk.next_change(now)
        if moment is not None and not now < self._replan_at.get(endpoint, 0.0) <= moment:
            self._replan_at[endpoint] = moment
            self._alarm.at(moment, self._replan, endpoint)

    def _replan(self, endpoint: str) -> None:
        if endpoint in self.desks and self._replan_at.get(endpoint, 0.0) <= self._clock.monotonic():
            self._replan_at.pop(endpoint, None)
            self.plan(endpoint)

    def _placed(self, desk: Desk, placement: Placement, assignment: Assignment) -> None:
        self._metrics.decided(desk.chooser.policy, placement.reason)
        self._owners[assignment.request_id] = assignment.endpoint
        if self._bulletin.decides:
            name = f"reserve {assignment.request_id}"
            self._tasks.spawn(self._reserve(desk, placement, assignment), name=name)
        else:
            self._grant(desk, placement, assignment)

    async def _reserve(self, desk: Desk, placement: Placement, assignment: Assignment) -> None:
        """Other replicas may have filled the worker meanwhile: the store decides. What should be over makes room."""
        worker, case, slots = self._registry.get(assignment.worker), self.cases.get(assignment.request_id), UNBOUNDED
        if worker is not None and desk.chooser.policy is Policy.HYBRID:
            slots = max(worker.view.slots, len(desk.chooser.held(worker.key)), 1)
        if await self._bulletin.reserve(assignment, slots=slots, ttl_s=case.ttl_s if case else TTL_S):
            await self._bulletin.tell(NewsKind.ASSIGNED, lambda: assignment_body(assignment, self._epoch))
            self._grant(desk, placement, assignment)
        else:
            self._conflict(desk, assignment)

    def _conflict(self, desk: Desk, assignment: Assignment) -> None:
        self._metrics.conflicted()
        desk.settle(assignment.request_id, self._clock.monotonic())
        self._owners.pop(assignment.request_id, None)
        if (worker := self._registry.get(assignment.worker)) is not None:
            worker.contended_until = self._clock.monotonic() + CONFLICT_S
            self._alarm.at(worker.contended_until, self.look_again, worker.key)
        case = self.cases.get(assignment.request_id)
        if case is not None and not case.waiter.done():
            try:
                self._offer(case)
            except Overloaded as error:
                case.waiter.set_exception(error)
            else:
                self._alarm.at(case.deadline, self._give_up, assignment.request_id)
        self.look_again(assignment.worker)

    def _grant(self, desk: Desk, placement: Placement, assignment: Assignment) -> None:
        case, now = self.cases.get(assignment.request_id), self._clock.monotonic()
        if case is None or not case.answer(assignment):
            self._give_back(assignment.request_id)
            return
        case.given, case.expires_at, case.renewed_at = assignment, now + case.ttl_s, now
        self._alarm.at(case.expires_at, self._expire, assignment.request_id)
        self._keep_figures(desk, case, assignment)
        waited_s = now - case.ask.arrived_at
        self._metrics.waited(waited_s, foretold_s=case.foretold_s)
        self.decisions.append(
            Decided(
                at=self._epoch.now(),
                request_id=assignment.request_id,
                endpoint=assignment.endpoint,
                worker=assignment.worker,
                reason=placement.reason,
                tenant=case.ask.tenant,
                waited_s=waited_s,
                size=assignment.size,
                expected_finish_s=assignment.expected_finish_at - now,
            )
        )
        self._changed(ChangeKind.ASSIGNED, assignment)

    def _keep_figures(self, desk: Desk, case: Case, assignment: Assignment) -> None:
        """What the decision expected: loading of models, and the best finish, to compare with what comes."""
        self._granted += 1
        if not assignment.models and self._granted % LOOKED_AT_EVERY:
            return
        explained = desk.chooser.explained(assignment.request_id)
        candidates = explained.candidates if explained else ()
        case.swap_s = next((one.swap_s for one in candidates if one.worker == assignment.worker), 0.0)
        case.best_s = min((one.total_s - one.cost_s for one in candidates), default=None)

    # -- the end of assignments ---------------------------------------------------------------------------------------

    def release(self, request_id: str, *, worker: str = "") -> Assignment | None:
        """Count an assignment no more; None: nobody has it, or not this worker."""
        owner = self._owners.get(request_id)
        desk = self.desks.get(owner) if owner is not None else None
        given = desk.chooser.assignment(request_id) if desk is not None else None
        if desk is None or given is None or (worker and given.worker != worker):
            return None
        del self._owners[request_id]
        desk.settle(request_id, self._clock.monotonic())
        if (case := self.cases.get(request_id)) is not None:
            case.given = None
        self._changed(ChangeKind.SETTLED, given)
        return given

    def assignment(self, request_id: str) -> Assignment | None:
        """Who has a request now."""
        owner = self._owners.get(request_id)
        return self.desks[owner].chooser.assignment(request_id) if owner in self.desks else None

    def keep(self, request_id: str, *, listed: bool = False) -> None:
        """Its worker is at it: the assignment counts for another ``ttl_s``, for all replicas. ``listed``: the worker
        says so itself, and will say when it is over."""
        case, now = self.cases.get(request_id), self._clock.monotonic()
        if case is None or case.given is None:
            return
        case.seen, case.expires_at = case.seen or listed, now + case.ttl_s
        if now - case.renewed_at >= case.ttl_s / RENEWALS:
            case.renewed_at = now
            self._bulletin.renew(case.given, ttl_s=case.ttl_s)

    def forget(self, request_id: str) -> None:
        """Nothing more will be heard of a request."""
        case = self.cases.get(request_id)
        if case is not None and case.given is None and case.waiter.done():
            del self.cases[request_id]

    def lost(self, request_id: str) -> None:
        """Its worker has it no more, and nobody said how it ended."""
        given = self.release(request_id)
        if given is not None:
            self._alarm.at(self._clock.monotonic() + REMEMBERED_S, self.forget, request_id)
            self._bulletin.soon_over(request_id)
            self.plan(given.endpoint)

    def note(self, assignment: Assignment) -> None:
        """Another replica gave this."""
        desk = self.desks.get(assignment.endpoint)
        if desk is not None and assignment.request_id not in self._owners:
            desk.chooser.note(assignment)
            if desk.chooser.assignment(assignment.request_id) is not None:
                self._owners[assignment.request_id] = assignment.endpoint
        self._calm(assignment.worker)

    def settled_elsewhere(self, request_id: str) -> None:
        """Another replica heard that it is over."""
        given = self.release(request_id)
        if given is not None:
            self._alarm.at(self._clock.monotonic() + REMEMBERED_S, self.forget, request_id)
            self._calm(given.worker)
            self.plan(given.endpoint)

    def _calm(self, key: str) -> None:
        """What filled the worker is known now."""
        worker = self._registry.get(key)
        if worker is not None and worker.contended_until:
            worker.contended_until = 0.0
            self.look_again(key)

    def drop(self, worker: str, endpoint: str) -> None:
        """A worker is gone; what it held counts no more."""
        for assignment in self.desks[endpoint].drop(worker):
            del self._owners[assignment.request_id]
            if (case := self.cases.get(assignment.request_id)) is not None:
                case.given = None
                self._alarm.at(self._clock.monotonic() + REMEMBERED_S, self.forget, assignment.request_id)
            self._changed(ChangeKind.SETTLED, assignment)
            self._bulletin.soon_over(assignment.request_id)
        self.plan(endpoint)

    def given(self) -> Sequence[Assignment]:
        """What this replica gave and counts."""
        return [case.given for case in self.cases.values() if case.given is not None]

    def given_elsewhere(self, *, before: float) -> Sequence[str]:
        """Requests that other replicas gave before this moment, and that count here."""
        ours = {one.request_id for one in self.given()}
        known = (self.assignment(request_id) for request_id in self._owners if request_id not in ours)
        return [one.request_id for one in known if one is not None and one.at < before]

    def _expire(self, request_id: str) -> None:
        case = self.cases.get(request_id)
        if case is not None and case.given is not None:
            if case.expires_at > self._clock.monotonic():
                self._alarm.at(case.expires_at, self._expire, request_id)
            else:
                self.lost(request_id)

    def _give_back(self, request_id: str) -> None:
        given = self.release(request_id)
        self.cases.pop(request_id, None)
        if given is not None:
            self._bulletin.soon_over(request_id)
            self.plan(given.endpoint)

    # -- workers and endpoints ----------------------------------------------------------------------------------------

    def look_again(self, worker: str) -> None:
        """Judge a worker anew, as time passed or doubts came or went."""
        view = self._registry.again(worker, ours=self.counted(worker))
        if view is not None:
            self.desks[view.endpoint].put(view, self._clock.monotonic())
            self.changes.tell(Change(kind=ChangeKind.WORKER, endpoint=view.endpoint, worker=worker))
            self.plan(view.endpoint)

    def held(self, worker: str) -> Sequence[Assignment]:
        """What a worker has been given, by any replica."""
        known = self._registry.get(worker)
        desk = self.desks.get(known.record.endpoint) if known else None
        return desk.chooser.held(worker) if desk else ()

    def counted(self, worker: str) -> int:
        """How many of the requests that a worker's last report counts are ours: those that it names; of relayed ones,
        which have no number, those that it had by then."""
        known = self._registry.get(worker)
        if known is None:
            return 0
        working, heard_at = known.working, known.heard_at
        return sum(
            one.request_id in working if one.request_id.isdigit() else one.at <= heard_at for one in self.held(worker)
        )

    def _desk(self, endpoint: Endpoint) -> Desk:
        return Desk(endpoint, speeds=self._learning.speeds, load=self._learning.load, chance=self._chance)

    def _endpoint_changed(self, endpoint: Endpoint, here: bool) -> None:
        """Everything moves to a new desk; or nobody waits any more."""
        old, now = self.desks.pop(endpoint.name, None), self._clock.monotonic()
        if here:
            self.desks[endpoint.name] = desk = self._desk(endpoint)
            for worker in self._registry.of(endpoint.name):
                desk.put(worker.view, now)
                for assignment in old.chooser.held(worker.key) if old else ():
                    desk.chooser.note(assignment)
        for ask in old.waiting if old else ():
            if here:
                self.desks[endpoint.name].offer(ask)
            elif (case := self.cases.pop(ask.request_id, None)) is not None:
                case.answer(None)
        if here:
            self.plan(endpoint.name)
        self.changes.tell(Change(kind=ChangeKind.ENDPOINTS, endpoint=endpoint.name))

    def _changed(self, kind: ChangeKind, assignment: Assignment) -> None:
        self.changes.tell(
            Change(
                kind=kind,
                endpoint=assignment.endpoint,
                worker=assignment.worker,
                request_id=assignment.request_id,
            )
        )
