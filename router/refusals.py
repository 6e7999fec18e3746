"""Which workers a request must not get again for a while. Pure; time is given."""

from collections import OrderedDict
from enum import StrEnum


class Refusal(StrEnum):
    """Why a worker did not do a request. ``UNKNOWN``: its caller came back without a word of the worker."""

    FULL = "full"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown"


MEMORY_S = {Refusal.FULL: 3.0, Refusal.FAILED: 20.0, Refusal.UNREACHABLE: 30.0, Refusal.UNKNOWN: 10.0}
"""How long it is remembered; one that was full is soon not."""
MOST = 100_000
"""Requests that are remembered, the oldest forgotten first."""


class Refusals:
    """By request, then worker."""

    def __init__(self) -> None:
        self._until: OrderedDict[str, dict[str, float]] = OrderedDict()

    def add(self, request_id: str, worker: str, reason: Refusal, now: float) -> None:
        """Remember one; a longer memory is not shortened."""
        known = self._until.setdefault(request_id, {})
        known[worker] = max(known.get(worker, 0.0), now + MEMORY_S[reason])
        self._until.move_to_end(request_id)
        if len(self._until) > MOST:
            self._until.popitem(last=False)

    def restore(self, request_id: str, until: dict[str, float], now: float) -> None:
        """What another replica, or an earlier life, remembers; however its clock goes, for no longer than we do."""
        if until:
            latest = now + max(MEMORY_S.values())
            known = {worker: min(moment, latest) for worker, moment in until.items()}
            self._until[request_id] = self._until.get(request_id, {}) | known

    def of(self, request_id: str, now: float) -> frozenset[str]:
        """The workers that it must not get now."""
        known = self._until.get(request_id)
        return frozenset(worker for worker, until in known.items() if until > now) if known else frozenset()

    def until(self, request_id: str) -> dict[str, float]:
        """All that is remembered of a request."""
        return dict(self._until.get(request_id, {}))

    def next_change(self, request_id: str, now: float) -> float | None:
        """When the next of its workers may have it again."""
        known = self._until.get(request_id, {})
        return min((until for until in known.values() if until > now), default=None)

    def forget(self, request_id: str) -> None:
        """The request is over."""
        self._until.pop(request_id, None)
