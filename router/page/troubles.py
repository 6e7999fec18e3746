"""What went wrong lately, for the page: requests that workers refused or failed, workers that broke. Event-driven.

It listens all the time, so that who opens the page after an incident still sees it; it remembers ``MOST``.
"""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from lib.clock import Clock
from router.changes import Change, ChangeKind
from router.dispatch import Dispatcher
from router.model import Condition

MOST = 40
TROUBLE = 300
BAD = (Condition.ERROR, Condition.STALE)


class Mishap(StrEnum):
    """What happened. ``FULL``: the worker turned a request away; ``FAILED``: it did not do it."""

    FULL = "full"
    FAILED = "failed"
    ERROR = "error"
    SILENT = "silent"
    GONE = "gone"
    RECOVERED = "recovered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """One mishap; ``request_id`` is "" where it was no request's. ``at`` is epoch seconds."""

    at: float
    mishap: Mishap
    endpoint: str
    worker: str
    request_id: str = ""
    text: str = ""


class Troubles:
    """``latest`` holds them, the oldest first; ``count`` counts all there ever were."""

    def __init__(self, dispatcher: Dispatcher, *, clock: Clock) -> None:
        self._dispatcher = dispatcher
        self._clock = clock
        self._bad: dict[str, Condition] = {}
        self._released: tuple[Change, int] | None = None
        self.latest: deque[Trouble] = deque(maxlen=MOST)
        self.count = 0

    def hear(self, change: Change) -> None:
        """Take notice; quick."""
        self.settle()
        if change.kind is ChangeKind.SETTLED:
            worker = self._dispatcher.worker(change.worker)
            self._released = (change, worker.failed) if worker else None
        elif change.kind is ChangeKind.WORKER:
            self._look(change)
        elif change.kind is ChangeKind.GONE:
            self._bad.pop(change.worker, None)
            self._add(change, Mishap.GONE)

    def settle(self) -> None:
        """Find out how the last assignment ended: its worker's counters say so once that change has been told."""
        if self._released is None:
            return
        change, failed_before = self._released
        self._released = None
        worker = self._dispatcher.worker(change.worker)
        if worker is None:
            return
        if worker.failed > failed_before:
            self._add(change, Mishap.FAILED, worker.doubted)
        elif change.worker in self._dispatcher.refusals.of(change.request_id, self._clock.monotonic()):
            self._add(change, Mishap.FULL)

    def _look(self, change: Change) -> None:
        worker = self._dispatcher.worker(change.worker)
        if worker is None:
            return
        before, condition = self._bad.get(change.worker), worker.condition
        if condition is before:
            return
        if condition in BAD:
            self._bad[change.worker] = condition
            mishap = Mishap.ERROR if condition is Condition.ERROR else Mishap.SILENT
            self._add(change, mishap, worker.trouble if condition is Condition.ERROR else "")
        elif before is not None:
            del self._bad[change.worker]
            if condition is Condition.READY:
                self._add(change, Mishap.RECOVERED)

    def _add(self, change: Change, mishap: Mishap, text: str = "") -> None:
        self.count += 1
        self.latest.append(
            Trouble(
                at=round(self._clock.now().timestamp(), 2),
                mishap=mishap,
                endpoint=change.endpoint,
                worker=change.worker,
                request_id=change.request_id,
                text=text[:TROUBLE].replace("\n", " "),
            )
        )
