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
    """Units per second, older ones counting less and less."""

    span_s: float
    amount: float = 0.0

    def pass_by(self, gap_s: float, work: float) -> None:
        self.amount = self.amount * math.exp(-gap_s / self.span_s) + work

    def rate(self, looked_s: float) -> float:
        seen = 1.0 - math.exp(-max(looked_s, LEAST_LOOKED_S) / self.span_s)
        return self.amount / (self.span_s * seen)


class Meter:
    """The work that is offered to one endpoint here, read from a total that only grows."""

    def __init__(self, *, now: float, total: float = 0.0) -> None:
        self._begun_at = now
        self._read_at = now
        self._total = total
        self._minutes = _Average(span_s=MINUTES_S)
        self._hour = _Average(span_s=HOUR_S)
        self._busy_at = -math.inf

    def read(self, total: float, *, now: float, busy: bool) -> None:
        """Take the total of now; ``busy``: requests wait or run."""
        gap_s, work = max(now - self._read_at, 0.0), max(total - self._total, 0.0)
        self._read_at, self._total = now, total
        if busy or work > 0:
            self._busy_at = now
        for average in (self._minutes, self._hour):
            average.pass_by(gap_s, work)

    def rates(self, now: float) -> tuple[float, float]:
        """Units per second over the last minutes and over the last hour."""
        looked_s = now - self._begun_at
        return self._minutes.rate(looked_s), self._hour.rate(looked_s)

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
