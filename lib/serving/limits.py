"""What one key may use up: jobs a minute, unfinished jobs. The worker's own capacity is admission's.

A request that asks for a job takes a seat at the door, before its body is read; the job that comes of it takes the
seat over, so that neither a burst at the door nor a job that outlives its request escapes the count. Jobs are the
tenant's: those of all its keys count together.
"""

import math
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime

from lib.clock import Clock
from lib.errors import RateLimited
from lib.serving.keyring import ApiKey

UNKNOWN_END_S = 5.0
"""When to come back for a tenant none of whose jobs has a predicted end."""


@dataclass(slots=True, eq=False)
class Seat:
    """Room for one job, held by a request until a job takes it over or the request is over."""

    tenant: str
    held: bool = True


_seat: ContextVar[Seat | None] = ContextVar("limits_seat", default=None)


class KeyLimits:
    """Counts by tenant and by key. ``requests_per_minute`` and ``max_in_flight`` hold for keys without own limits.

    Used on the event loop only.
    """

    def __init__(self, *, requests_per_minute: float | None, max_in_flight: int | None, clock: Clock) -> None:
        self._per_minute = requests_per_minute
        self._in_flight = max_in_flight
        self._clock = clock
        self._live: dict[str, dict[str, datetime | None]] = {}
        self._seats: dict[str, int] = {}
        self._recent: dict[str, deque[float]] = {}

    def take(self, key: ApiKey) -> Seat:
        """Let one more request for a job in. Raises: RateLimited, with when there will be room."""
        self._check_in_flight(key)
        self._check_rate(key)
        self._seats[key.tenant] = self._seats.get(key.tenant, 0) + 1
        seat = Seat(key.tenant)
        _seat.set(seat)
        return seat

    def give_back(self, seat: Seat) -> None:
        """The request is over; a seat that a job took over stays taken until that job ends."""
        if seat.held:
            seat.held = False
            self._seats[seat.tenant] -= 1
            if not self._seats[seat.tenant]:
                del self._seats[seat.tenant]
        if _seat.get() is seat:
            _seat.set(None)

    def working(self, tenant: str, job_id: str, *, ends_at: Callable[[], datetime | None]) -> None:
        """A job of this tenant's is not finished; told for each of its snapshots, ``ends_at`` asked for the first."""
        jobs = self._live.setdefault(tenant, {})
        if job_id in jobs:
            return
        jobs[job_id] = ends_at()
        seat = _seat.get()
        if seat is not None and seat.tenant == tenant:
            self.give_back(seat)

    def finished(self, tenant: str, job_id: str) -> None:
        """The job is over."""
        jobs = self._live.get(tenant)
        if jobs is not None and jobs.pop(job_id, self) is not self and not jobs:
            del self._live[tenant]

    def _check_in_flight(self, key: ApiKey) -> None:
        limit = key.max_in_flight or self._in_flight
        jobs = self._live.get(key.tenant, {})
        if limit is None or len(jobs) + self._seats.get(key.tenant, 0) < limit:
            return
        now = self._clock.now()
        ends = [(end - now).total_seconds() for end in jobs.values() if end is not None]
        raise RateLimited(
            f"{key.tenant} has {limit} unfinished jobs, as many as this key may have.",
            details={"limit": "max_in_flight", "max_in_flight": limit},
            retry_after_s=max(min(ends), 1.0) if ends else UNKNOWN_END_S,
        )

    def _check_rate(self, key: ApiKey) -> None:
        """At most so many in any such window, counted exactly: a fraction is a longer window."""
        rate = key.requests_per_minute or self._per_minute
        if rate is None:
            return
        most = max(math.floor(rate), 1)
        window_s, now = 60.0 * most / rate, self._clock.monotonic()
        recent = self._recent.setdefault(key.name, deque())
        while recent and recent[0] <= now - window_s:
            recent.popleft()
        if len(recent) >= most:
            raise RateLimited(
                f"{key.name} may submit {rate:g} jobs a minute.",
                details={"limit": "requests_per_minute", "requests_per_minute": rate},
                retry_after_s=recent[len(recent) - most] + window_s - now,
            )
        recent.append(now)
