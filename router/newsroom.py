"""Keeps a replica in step with the others: what the store knows at first, then everybody's news; again after a loss."""

import logging
from collections.abc import Callable, Sequence

from lib.clock import Clock
from router.bulletin import Bulletin
from router.fleet import Fleet
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


class Newsroom:
    """``run`` is a loop; a router alone hears its own relay's news there."""

    def __init__(
        self, *, planner: Planner, fleet: Fleet, link: StoreLink, bulletin: Bulletin, replica: str, clock: Clock
    ) -> None:
        self._planner = planner
        self._fleet = fleet
        self._link = link
        self._bulletin = bulletin
        self._replica = replica
        self._clock = clock
        self._epoch = Epoch(clock)
        self._listeners: list[Callable[[News], None]] = []

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
                self._planner.note(read_assignment(news.body, self._epoch))
            case NewsKind.SETTLED:
                self._planner.settled_elsewhere(str(news.body["request_id"]))
            case NewsKind.GONE:
                self._fleet.forget(str(news.body["worker"]))


async def _assignments(state: SharedState) -> Sequence[Assignment] | None:
    return await state.assignments()


async def _workers(state: SharedState) -> Sequence[WorkerRecord]:
    return await state.workers()
