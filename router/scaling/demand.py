"""How much work comes in, over minutes and over an hour; what replicas tell each other of it. No I/O; time is given."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

MINUTES_S, HOUR_S = 150.0, 3600.0
LEAST_LOOKED_S = 15.0
"""A meter that has looked for less time counts as if it had looked for so long: the first request is no rate."""


@dataclass(slots=True, kw_only=True)
class _Average:
    """Units per second, older ones counting less and less; ``squares`` tells how much of it is chance."""

    span_s: float
    amount: float = 0.0
    squares: float = 0.0

    def pass_by(self, gap_s: float, work: float, count: int) -> None:
        share = math.exp(-gap_s / self.span_s)
        self.amount = self.amount * share + work
        self.squares = self.squares * share * share + work * work / max(count, 1)

    def rate(self, looked_s: float) -> float:
        return self.amount / self._seen_s(looked_s)

    def chance(self, looked_s: float) -> float:
        """By how much the rate may be wrong (a standard deviation): for few large requests, by all of it."""
        return math.sqrt(self.squares) / self._seen_s(looked_s)

    def _seen_s(self, looked_s: float) -> float:
        return self.span_s * (1.0 - math.exp(-max(looked_s, LEAST_LOOKED_S) / self.span_s))


class Meter:
    """The work that is offered to one endpoint here, read from totals that only grow."""

    def __init__(self, *, now: float, count: int = 0, total: float = 0.0) -> None:
        self._begun_at = now
        self._read_at = now
        self._count = count
        self._total = total
        self._minutes = _Average(span_s=MINUTES_S)
        self._hour = _Average(span_s=HOUR_S)
        self._busy_at = -math.inf

    def read(self, count: int, total: float, *, now: float, busy: bool) -> None:
        """Take the number and units of all requests so far; ``busy``: some wait or run."""
        gap_s, more, work = max(now - self._read_at, 0.0), count - self._count, max(total - self._total, 0.0)
        self._read_at, self._count, self._total = now, count, total
        if busy or work > 0:
            self._busy_at = now
        for average in (self._minutes, self._hour):
            average.pass_by(gap_s, work, more)

    def rates(self, now: float) -> tuple[float, float]:
        """Units per second to reckon with, and those over the last hour.

        The last minutes count as far as they are no chance (one long job is no load of many); else the hour does."""
        looked_s = now - self._begun_at
        minutes, hour = self._minutes.rate(looked_s), self._hour.rate(looked_s)
        sure = max(minutes - self._minutes.chance(looked_s), 0.0)
        return max(sure, min(minutes, hour)), hour

    def idle_s(self, now: float) -> float:
        """Seconds since there was anything to do."""
        return now - self._busy_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one replica sees of an endpoint's demand; the sum of all shares is the demand."""

    load: float = 0.0
    hour_load: float = 0.0
    waiting_count: int = 0
    waiting_work: float = 0.0
    idle_s: float = math.inf

    @classmethod
    def read(cls, body: Any) -> Self:
        """Read another replica's words; what makes no sense counts as nothing."""
        told = body if isinstance(body, Mapping) else {}
        return cls(
            load=_amount(told.get("load")),
            hour_load=_amount(told.get("hour_load")),
            waiting_count=int(_amount(told.get("waiting_count"))),
            waiting_work=_amount(told.get("waiting_work")),
            idle_s=_amount(told.get("idle_s"), otherwise=math.inf),
        )

    def told(self) -> dict[str, Any]:
        """As JSON, which has no infinity."""
        return {name: value for name, value in asdict(self).items() if math.isfinite(value)}


def _amount(value: object, otherwise: float = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return otherwise
    return max(value, 0.0)


def summed(shares: Iterable[Share]) -> Share:
    """All replicas together."""
    known = tuple(shares)
    return Share(
        load=sum(one.load for one in known),
        hour_load=sum(one.hour_load for one in known),
        waiting_count=sum(one.waiting_count for one in known),
        waiting_work=sum(one.waiting_work for one in known),
        idle_s=min((one.idle_s for one in known), default=math.inf),
    )
