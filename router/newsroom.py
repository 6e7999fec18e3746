"""Keeps a replica in step with the others: what the store knows at first, then everybody's news; again after a loss."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lib.clock import Clock
from router.bulletin import Bulletin
from router.cases import Ending, Outcome
from router.experience import Experience
from router.fleet import Fleet
from router.learning import Learning
from router.model import Assignment
from router.planner import TTL_S, Planner
from router.ports import News, NewsKind, SharedState, StoreDown, WorkerRecord
from router.registry import Epoch
from router.replication import read_assignment, read_worker, to_monotonic
from router.storelink import StoreLink

log = logging.getLogger(__name__)

TIDY_S = 20.0
"""So often what other replicas gave is compared with the store."""
PAUSE_S = 1.0
"""Between tries to hear the news of a store that is down."""
REMEMBERED = 1000
"""Assignments of other replicas of which it is known who gave them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """A request that another replica gave a worker; that one can explain why."""

    replica: str
    endpoint: str
    worker: str


class Newsroom:
    """``run`` is a loop; a router alone hears its own relay's news there."""

    def __init__(
        self,
        *,
        planner: Planner,
        fleet: Fleet,
        learning: Learning,
        experience: Experience,
        link: StoreLink,
        bulletin: Bulletin,
        replica: str,
        clock: Clock,
    ) -> None:
        self._planner = planner
        self._fleet = fleet
        self._learning = learning
        self._experience = experience
        self._link = link
        self._bulletin = bulletin
        self._replica = replica
        self._clock = clock
        self._epoch = Epoch(clock)
        self._listeners: list[Callable[[News], None]] = []
        self._elsewhere: OrderedDict[str, Elsewhere] = OrderedDict()

    def elsewhere(self, request_id: str) -> Elsewhere | None:
        """Who gave a request that this replica did not give."""
        return self._elsewhere.get(request_id)

    def listen(self, listener: Callable[[News], None]) -> None:
        """Pass on news of jobs."""
        self._listeners.append(listener)

    async def catch_up(self) -> None:
        """Take over what the store knows, and tell it what we gave while it was away."""
        records: Sequence[WorkerRecord] = await self._link.attempt(_workers, otherwise=[], writes=False)
        for record in records:
            self._fleet.learn_of(record)
        for assignment in await self._link.attempt(_assignments, otherwise=None, writes=False) or ():
            self._planner.note(to_monotonic(assignment, self._epoch))
        for given in self._planner.given():
            await self._bulletin.reserve(given, ttl_s=TTL_S)

    async def run(self) -> None:
        """Hear the news for ever. While the store is away, this router goes on alone."""
        while True:
            try:
                async with self._link.state.news() as news:
                    self._link.up()
                    await self.catch_up()
                    async for one in news:
                        self._hear(one)
            except StoreDown as error:
                self._link.down(error.message)
            await self._clock.sleep(PAUSE_S)

    async def tidy(self) -> None:
        """Count no more what the store has not any more: a replica that died tells nobody that its requests ended."""
        known = await self._link.attempt(_assignments, otherwise=None, writes=False)
        if known is None:
            return
        live = {assignment.request_id for assignment in known}
        for request_id in self._planner.given_elsewhere(before=self._clock.monotonic() - TIDY_S):
            if request_id not in live:
                self._planner.settled_elsewhere(request_id)

    def _hear(self, news: News) -> None:
        if news.kind is NewsKind.JOB:
            for listener in self._listeners:
                listener(news)
            return
        if news.origin == self._replica:
            return
        try:
            self._take(news)
        except (KeyError, TypeError, ValueError) as error:
            facts = {"event": "news.strange", "kind": news.kind, "origin": news.origin, "reason": str(error)}
            log.warning("news of another router can't be read; is it of another version?", extra=facts)

    def _take(self, news: News) -> None:
        match news.kind:
            case NewsKind.WORKER:
                self._fleet.learn_of(read_worker(news.body))
            case NewsKind.ASSIGNED:
                self._assigned(read_assignment(news.body, self._epoch), by=news.origin)
            case NewsKind.SETTLED:
                self._settled(str(news.body["request_id"]), news.body.get("run_s"))
            case NewsKind.GONE:
                self._fleet.forget(str(news.body["worker"]))

    def _assigned(self, assignment: Assignment, *, by: str) -> None:
        """It loads the workers that all replicas share."""
        given = Elsewhere(replica=by, endpoint=assignment.endpoint, worker=assignment.worker)
        self._elsewhere[assignment.request_id] = given
        if len(self._elsewhere) > REMEMBERED:
            self._elsewhere.popitem(last=False)
        now = self._clock.monotonic()
        self._learning.load.arrived(assignment.endpoint, size=assignment.size, now=now, elsewhere=True)
        self._planner.note(assignment)

    def _settled(self, request_id: str, run_s: float | None) -> None:
        """Its worker told another replica; who gave it knows what there is to learn."""
        case, given = self._planner.cases.get(request_id), self._planner.assignment(request_id)
        self._planner.settled_elsewhere(request_id)
        if case is not None and given is not None and run_s is not None:
            outcome = Outcome(ending=Ending.SUCCESS, worker=given.worker, run_s=float(run_s))
            self._experience.take(case, outcome, given)


async def _assignments(state: SharedState) -> Sequence[Assignment] | None:
    return await state.assignments()


async def _workers(state: SharedState) -> Sequence[WorkerRecord]:
    return await state.workers()
