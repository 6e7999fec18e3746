"""The fleet as all readers of the page see it: kept up to date while there are any, worker by worker as they change.

Pictures, and what readers make of them, may take a twentieth of the loop's time, and come four times a second at most;
a large fleet is shown a little later, and nothing else waits for it.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lib.clock import Clock
from router.changes import Change, ChangeKind
from router.dispatch import Dispatcher
from router.page.facts import Desired, Facts, endpoint_facts, worker_facts
from router.page.lens import Row
from router.registry import Epoch

LEAST_REST_S = 0.25
REST_FACTOR = 19
"""After a picture comes a rest of so many times what it took."""
SOON_S = 2.0
"""Figures that follow from time alone (offered load, expected wait) are at most so old."""
AT_ONCE = 200
"""Workers that are looked at before others get their turn on the loop."""
DesiredOf = Callable[[str], Desired | None]


class Picture:
    """``rows`` by worker, ``endpoints`` by name. ``version`` grows with each change that was heard."""

    def __init__(self, dispatcher: Dispatcher, *, desired: DesiredOf, clock: Clock, epoch: Epoch) -> None:
        self._dispatcher = dispatcher
        self._desired = desired
        self._clock = clock
        self._epoch = epoch
        self.rows: dict[str, Row] = {}
        self.endpoints: dict[str, Facts] = {}
        self.version = 0
        self._drawn = 0
        self._news = asyncio.Event()
        self._drawing = asyncio.Lock()
        self._dirty: dict[str, None] = {}
        self._dirty_endpoints: set[str] = set()
        self._slow: dict[str, dict[str, float]] = {}
        self._figured_at: dict[str, float] = {}
        self._fresh_at = float("-inf")
        self._rest_s = LEAST_REST_S
        self._readers = 0
        self._stop: Callable[[], None] = lambda: None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Somebody looks; when nobody does any more, nothing is kept."""
        if self._readers == 0:
            self._stop = self._dispatcher.changes.listen(self._hear)
            self._dirty = {worker.key: None for worker in self._dispatcher.workers()}
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
            if self._readers == 0:
                self._forget()

    async def refresh(self) -> int:
        """Take what changed into the picture, unless that was done a moment ago; the version that it shows."""
        async with self._drawing:
            if self._clock.monotonic() < self._fresh_at + self._rest_s:
                return self._drawn
            self._drawn = self.version
            dirty, self._dirty = self._dirty, {}
            spent_s = self._draw_endpoints(dirty)
            keys = list(dirty)
            for first in range(0, len(keys), AT_ONCE):
                if first:
                    await asyncio.sleep(0)
                spent_s += self._draw_workers(keys[first : first + AT_ONCE])
            self._rest_s = max(LEAST_REST_S, REST_FACTOR * spent_s)
            self._fresh_at = self._clock.monotonic()
            return self._drawn

    async def rest(self) -> None:
        """Return when a new picture may be made."""
        await self._clock.sleep(max(self._fresh_at + self._rest_s - self._clock.monotonic(), 0.0))

    async def changed(self, *, since: int) -> None:
        """Return when something has changed after ``version`` was ``since``."""
        while self.version == since:
            self._news.clear()
            await self._news.wait()

    def spent(self, seconds: float) -> None:
        """A reader was told of it, which took so long."""
        self._rest_s += REST_FACTOR * seconds

    def stir(self) -> None:
        """Something else changed that readers are shown."""
        self.version += 1
        self._news.set()

    def _hear(self, change: Change) -> None:
        self.stir()
        if change.endpoint:
            self._dirty_endpoints.add(change.endpoint)
        if change.worker:
            self._dirty[change.worker] = None
        if change.kind is ChangeKind.ENDPOINTS:
            self._dirty |= {worker.key: None for worker in self._dispatcher.workers()}

    def _forget(self) -> None:
        self._stop()
        self._dirty_endpoints.clear()
        for kept in (self.rows, self.endpoints, self._dirty, self._slow, self._figured_at):
            kept.clear()
        self._fresh_at = float("-inf")

    def _draw_endpoints(self, dirty: dict[str, None]) -> float:
        """Figures of those that changed, and of all others now and then; tell the workers whose slowness changed."""
        began = self._clock.monotonic()
        changed, self._dirty_endpoints = self._dirty_endpoints, set()
        known = {endpoint.name: endpoint for endpoint in self._dispatcher.endpoints.all()}
        for name in self.endpoints.keys() - known.keys():
            del self.endpoints[name]
            dirty |= dict.fromkeys(self._slow.pop(name, {}))
        for name, endpoint in known.items():
            if name not in changed and began - self._figured_at.get(name, float("-inf")) < SOON_S:
                continue
            self._figured_at[name] = began
            figures = self._dispatcher.figures(name)
            slow = {key: round(share, 2) for key, share in figures.slow.items()}
            before = self._slow.get(name, {})
            dirty |= {key: None for key in slow.keys() | before.keys() if slow.get(key) != before.get(key)}
            self._slow[name] = slow
            waiting = self._dispatcher.desk(name).waiting
            self.endpoints[name] = endpoint_facts(
                endpoint, figures, waiting=waiting, desired=self._desired(name), wall=self._epoch.of
            )
        return self._clock.monotonic() - began

    def _draw_workers(self, keys: list[str]) -> float:
        began = self._clock.monotonic()
        for key in keys:
            facts = self._worker(key)
            if facts is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = Row.of(facts)
        return self._clock.monotonic() - began

    def _worker(self, key: str) -> Facts | None:
        worker = self._dispatcher.worker(key)
        if worker is None or worker.record.endpoint not in self.endpoints:
            return None
        group = self._dispatcher.endpoints.find(worker.record.endpoint).group(worker.record.group)
        return worker_facts(
            worker,
            gpu=group.gpu_name if group else "",
            held=self._dispatcher.held(key),
            factor=self._dispatcher.learning.speeds.factor(key, ""),
            slow=self._slow[worker.record.endpoint].get(key),
            wall=self._epoch.of,
        )
