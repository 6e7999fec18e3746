"""Logs of endpoints and groups, as the CLI and the SDK ask for them; four levels, each a text, made when asked for.

``info0``: workers as they came, changed and went. ``info1``: who was given what. ``trace``: why. ``debug``: the last
report of each worker.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lib.clock import Clock
from lib.serving.payloads import dumps
from router.cases import Decided
from router.changes import Change, ChangeKind
from router.dispatch import Dispatcher
from router.model import Condition

LINES = 1000
"""Remembered for an endpoint."""
TROUBLE_CHARACTERS = 300
TAIL = 64 * 1024
"""Bytes a level for callers who name no number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """A worker changed. ``at`` is epoch seconds."""

    at: float
    worker: str
    group: str
    said: str


class Logbook:
    """Listens to what changes while the router runs; the rest is there anyway."""

    def __init__(self, dispatcher: Dispatcher, *, clock: Clock) -> None:
        self._dispatcher = dispatcher
        self._clock = clock
        self._turns: dict[str, deque[_Turn]] = {}
        self._last: dict[str, tuple[Condition, str]] = {}

    def hear(self, change: Change) -> None:
        """Take notice; quick."""
        if change.kind is ChangeKind.GONE:
            _, group = self._last.pop(change.worker, (Condition.STALE, ""))
            self._add(change, group, "gone")
        if change.kind is not ChangeKind.WORKER:
            return
        worker = self._dispatcher.worker(change.worker)
        if worker is None or self._last.get(change.worker, (None, ""))[0] is worker.condition:
            return
        self._last[change.worker] = (worker.condition, worker.record.group)
        trouble = worker.trouble[:TROUBLE_CHARACTERS].replace("\n", " ")
        self._add(change, worker.record.group, f"{worker.condition}{': ' if trouble else ''}{trouble}")

    def levels(self, endpoint: str, *, group: str | None = None, tail: int = TAIL) -> dict[str, str]:
        """The last ``tail`` bytes of each level; a negative number: all."""
        turns = self._turns.get(endpoint, ())
        workers = [one for one in self._dispatcher.workers(endpoint) if group in (None, one.record.group)]
        keys = {worker.key for worker in workers}
        decided = [
            one
            for one in self._dispatcher.decisions
            if one.endpoint == endpoint and (group is None or one.worker in keys)
        ]
        levels = {
            "info0": (_line(one.at, f"{one.worker} {one.said}") for one in turns if group in (None, one.group)),
            "info1": (_line(one.at, _given(one)) for one in decided),
            "trace": (_line(one.at, self._why(one)) for one in decided),
            "debug": (_line(one.record.heard_at, f"{one.key} {_json(one.record.report)}") for one in workers),
        }
        return {name: _tail(lines, tail) for name, lines in levels.items()}

    def _add(self, change: Change, group: str, said: str) -> None:
        lines = self._turns.setdefault(change.endpoint, deque(maxlen=LINES))
        lines.append(_Turn(at=self._clock.now().timestamp(), worker=change.worker, group=group, said=said))

    def _why(self, decided: Decided) -> str:
        explained = self._dispatcher.explain(decided.request_id)
        return f"{decided.request_id} {explained.text if explained else decided.reason}"


def _given(one: Decided) -> str:
    return (
        f"{one.request_id} -> {one.worker} ({one.reason}), waited {one.waited_s:.3f} s,"
        f" {one.size:.0f} units, expected to finish in {one.expected_finish_s:.1f} s"
    )


def _json(value: Any) -> str:
    return dumps(value).decode()


def _line(at: float, text: str) -> str:
    return f"{datetime.fromtimestamp(at, UTC).isoformat(timespec='milliseconds')} {text}\n"


def _tail(lines: Iterable[str], limit: int) -> str:
    """Whole lines only."""
    kept: deque[str] = deque(lines)
    size = sum(len(line.encode()) for line in kept)
    while 0 <= limit < size:
        size -= len(kept.popleft().encode())
    return "".join(kept)
