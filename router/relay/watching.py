"""Looks after calls while they go on: ends those whose worker is gone, and keeps their requests counted.

A broken connection tells of a process that died; only reports that stay away tell of a host that did.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from router.changes import Change, ChangeKind
from router.dispatch import Dispatcher
from router.model import Condition
from router.registry import Worker
from router.reports import text

KEEP_S = 15.0
"""Requests in hand are kept so often."""
_SILENT = {
    Condition.STALE: "it has not reported for too long",
    Condition.STOPPED: "it was stopped",
}


class Watched:
    """One call. ``limit`` ends it; ``why`` says why it was ended."""

    __slots__ = ("limit", "request_id", "url", "why")

    def __init__(self, *, limit: asyncio.Timeout, request_id: str, url: str) -> None:
        self.limit = limit
        self.request_id = request_id
        self.url = url
        self.why = ""

    def end(self, why: str) -> None:
        """End the call now."""
        if not self.limit.expired():
            self.why = why
            self.limit.reschedule(asyncio.get_running_loop().time())


class Watch:
    """All calls of this router, by worker."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._calls: dict[str, set[Watched]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @contextmanager
    def over(self, worker: Worker, *, request_id: str, limit: asyncio.Timeout) -> Iterator[Watched]:
        """Watch this call of a worker; ``request_id`` "" for one that no assignment belongs to."""
        watched = Watched(limit=limit, request_id=request_id, url=worker.record.url)
        calls = self._calls.setdefault(worker.key, set())
        calls.add(watched)
        self._count += 1
        try:
            yield watched
        finally:
            self._count -= 1
            calls.discard(watched)
            if not calls and self._calls.get(worker.key) is calls:
                del self._calls[worker.key]

    def hear(self, change: Change) -> None:
        """For ``Dispatcher.changes``."""
        if change.worker in self._calls and change.kind in (ChangeKind.WORKER, ChangeKind.GONE):
            worker = self._dispatcher.worker(change.worker)
            why = _trouble(worker)
            for watched in tuple(self._calls[change.worker]):
                moved = worker is not None and worker.record.url != watched.url
                if told := why or ("it moved" if moved else ""):
                    watched.end(told)

    async def keep(self) -> None:
        """Keep what goes on counted, whether its worker lists it or not; call this every ``KEEP_S``."""
        for calls in self._calls.values():
            for watched in calls:
                if watched.request_id:
                    self._dispatcher.keep(watched.request_id)


def _trouble(worker: Worker | None) -> str:
    """Why nothing more will come of a worker. A mere doubt, or a drain, is no reason."""
    if worker is None:
        return "it is gone"
    if text(worker.record.report, "error_msg"):
        return "it reported an error"
    return _SILENT.get(worker.condition, "")
