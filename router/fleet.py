"""The workers' side: reports come in, silence and doubts are noticed, and the planner hears what follows from it."""

import logging
from collections.abc import Awaitable, Callable

from lib.clock import Clock
from lib.lifecycle import Tasks
from router.alarm import Alarm
from router.bulletin import Bulletin
from router.changes import Change, ChangeKind
from router.learning import Learning
from router.planner import Planner
from router.ports import NewsKind, WorkerRecord
from router.refusals import Refusal
from router.registry import Registry, Worker
from router.replication import worker_body
from router.storelink import StoreLink

log = logging.getLogger(__name__)

KEPT_EVERY_S = 5.0
"""An unchanged worker is written to the store so often."""
PROBE_PAUSES_S = (0.5, 2.0, 5.0, 10.0, 30.0)
"""Between looks at a worker that can't be reached; the last one for ever."""
NAMED = 5
"""Workers that one record of the log names; a network that fails silences all at once."""
Probe = Callable[[str], Awaitable[bool]]
"""Whether anything answers HTTP at a worker's URL."""


class Fleet:
    """Keeps registry, planner and store in step."""

    def __init__(
        self,
        *,
        registry: Registry,
        planner: Planner,
        link: StoreLink,
        bulletin: Bulletin,
        learning: Learning,
        probe: Probe,
        clock: Clock,
        tasks: Tasks,
        alarm: Alarm,
        gone_s: float,
    ) -> None:
        self._registry = registry
        self._planner = planner
        self._link = link
        self._bulletin = bulletin
        self._learning = learning
        self._probe = probe
        self._clock = clock
        self._tasks = tasks
        self._alarm = alarm
        self._gone_s = gone_s
        self._written_at: dict[str, float] = {}
        self._silence_at = float("inf")

    async def heard(self, record: WorkerRecord) -> None:
        """A worker reported here."""
        if not self.learn_of(record):
            return
        now = self._clock.monotonic()
        if now - self._written_at.get(record.worker, -KEPT_EVERY_S) >= KEPT_EVERY_S:
            self._written_at[record.worker] = now
            await self._link.attempt(lambda state: state.put_worker(record, ttl_s=self._gone_s), otherwise=None)
        await self._bulletin.tell(NewsKind.WORKER, lambda: worker_body(record))

    def learn_of(self, record: WorkerRecord) -> bool:
        """Take a report over, wherever it was heard; False: it is old, or of an endpoint that is not ours."""
        known = self._registry.get(record.worker)
        before = known.condition if known else None
        worker = self._registry.hear(record)
        if worker is None:
            return False
        self._reconcile(worker)
        self._planner.look_again(record.worker)
        if worker.condition is not before:
            self._written_at.pop(record.worker, None)
            log.info(
                "worker is %s now",
                worker.condition,
                extra={"event": "worker.condition", "worker": worker.key, "trouble": worker.trouble[:200]},
            )
        self._watch_silence()
        return True

    def refused(self, key: str, reason: Refusal) -> None:
        """It did not do a request of ours."""
        worker = self._registry.get(key)
        if worker is None:
            return
        if reason is Refusal.FULL:
            self._alarm.at(self._registry.refused(key), self._planner.look_again, key)
            self._planner.look_again(key)
            return
        worker.failed += 1
        if reason is not Refusal.FAILED:
            self._doubt(worker)

    def stopped(self, key: str) -> None:
        """Somebody stopped it on purpose."""
        if (worker := self._registry.get(key)) is not None:
            worker.stopped = True
            self._planner.look_again(key)

    async def drop(self, key: str) -> None:
        """Forget a worker, on all replicas."""
        if self.forget(key):
            await self._link.attempt(lambda state: state.drop_worker(key), otherwise=None)
            await self._bulletin.tell(NewsKind.GONE, lambda: {"worker": key})

    def closed(self, endpoint: str) -> None:
        """An endpoint is gone: its workers are nobody's, whoever makes one of its name later."""
        for worker in self._registry.of(endpoint):
            self.forget(worker.key)

    def forget(self, key: str) -> bool:
        """Forget a worker here; False: it was not known."""
        worker = self._registry.drop(key)
        if worker is None:
            return False
        endpoint = worker.record.endpoint
        self._written_at.pop(key, None)
        self._learning.speeds.forget(key)
        if endpoint in self._planner.desks:
            self._planner.drop(key, endpoint)
        self._planner.changes.tell(Change(kind=ChangeKind.GONE, endpoint=endpoint, worker=key))
        return True

    def _reconcile(self, worker: Worker) -> None:
        """Its report says which numbered requests it has: those count on; who was there and is not any more, ended."""
        working = worker.working
        for assignment in self._planner.held(worker.key):
            case = self._planner.cases.get(assignment.request_id)
            if case is None or not assignment.request_id.isdigit():
                continue
            if assignment.request_id in working:
                self._planner.keep(assignment.request_id, listed=True)
            elif case.seen:
                self._planner.lost(assignment.request_id)

    # -- silence ------------------------------------------------------------------------------------------------------

    def _watch_silence(self) -> None:
        moment = self._registry.next_silence()
        if moment is not None and self._silence_at == float("inf"):
            self._silence_at = moment
            self._alarm.at(moment, self._look_for_silence, "")

    def _look_for_silence(self, _: str) -> None:
        self._silence_at = float("inf")
        silent = self._registry.silent()
        if silent:
            named = [worker.key for worker in silent[:NAMED]]
            log.warning("workers are silent", extra={"event": "worker.stale", "count": len(silent), "workers": named})
        for worker in silent:
            self._planner.look_again(worker.key)
            self._alarm.at(worker.heard_at + self._gone_s + 0.001, self._look_for_gone, worker.key)
        self._watch_silence()

    def _look_for_gone(self, key: str) -> None:
        worker = self._registry.get(key)
        if worker is not None and worker.stale and self._clock.monotonic() - worker.heard_at >= self._gone_s:
            log.warning("worker is gone", extra={"event": "worker.gone", "worker": key})
            self._tasks.spawn(self.drop(key), name=f"drop {key}")

    # -- doubts -------------------------------------------------------------------------------------------------------

    def _doubt(self, worker: Worker) -> None:
        if not worker.doubted:
            worker.doubted = "It can't be reached."
            self._planner.look_again(worker.key)
            self._tasks.spawn(self._find_out(worker), name=f"probe {worker.key}")

    async def _find_out(self, worker: Worker) -> None:
        """Nobody tells us when it can be reached again, so we look until it can, or is gone."""
        looks = 0
        while not await self._probe(worker.record.url):
            pause_s = PROBE_PAUSES_S[min(looks, len(PROBE_PAUSES_S) - 1)]
            looks += 1
            if looks == 1:
                log.warning("worker can't be reached", extra={"event": "worker.unreachable", "worker": worker.key})
            await self._clock.sleep(pause_s)
            if self._registry.get(worker.key) is not worker:
                return
        worker.doubted = ""
        self._planner.look_again(worker.key)
