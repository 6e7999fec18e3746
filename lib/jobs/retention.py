"""What is kept of finished jobs, how long and how much of it: the rules that every job store follows, and their clock.

Sizes are what a store keeps, in bytes. The stores decide nothing; they ask ``surplus``.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

from lib.clock import Clock
from lib.jobs.model import Job

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

SECOND = 1_000_000
"""Store time counts in microseconds."""
RUN_MEMORY_S = 8 * 86400.0
"""So long after a result is gone its run is remembered: a presigned URL lives 7 days, and no later run of the same
request id may write over what it shows."""
MOST_RUNS = 1_000_000
"""Runs that are remembered at most; about 50 bytes each."""
HEAVY_BYTES = 256 * 1024
"""What no job of an ordinary size has, but one that keeps pictures in its request."""
KEYED_FACTOR = 10
"""Results under an ``Idempotency-Key`` may be so many times ``max_results``: who was promised a replay gets it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """The bounds. Results go after ``ttl_s``, over ``max_results``, or over ``results_max_bytes``, the first finished
    first, but over the bytes failed jobs that keep a large request before all others; those under an idempotency key
    stay ``idempotency_ttl_s`` at least, unless only they are left and the bytes (or ``KEYED_FACTOR`` times the count)
    are still over. Webhook messages that nobody took go after ``dead_ttl_s``, and over the same count and bytes,
    counted apart."""

    ttl_s: float
    max_results: int
    results_max_bytes: int = 1 << 30
    idempotency_ttl_s: float = 86400.0
    dead_ttl_s: float = 604800.0

    @property
    def keyed_ttl_s(self) -> float:
        return max(self.ttl_s, self.idempotency_ttl_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A finished job as these rules see it; ``finished_at`` is store time."""

    job_id: str
    sequence: int
    finished_at: int
    size_bytes: int
    failed: bool = False


def surplus(
    retention: Retention, *, loose: Collection[Kept], keyed: Collection[Kept], total_bytes: int, now: int
) -> Iterator[Kept]:
    """Yield what has to go. ``loose`` and ``keyed`` (under an idempotency key) are in the order of their end, and
    ``total_bytes`` together."""
    heavy = _heavy(loose, over=total_bytes - retention.results_max_bytes)
    yield from heavy
    total_bytes -= sum(entry.size_bytes for entry in heavy)
    left = [entry for entry in loose if entry not in heavy] if heavy else loose
    shelves = (
        (left, retention.ttl_s, retention.max_results),
        (keyed, retention.keyed_ttl_s, retention.max_results * KEYED_FACTOR),
    )
    for shelf, ttl_s, most in shelves:
        count = len(shelf)
        for entry in shelf:
            young = entry.finished_at + ttl_s * SECOND > now
            if young and count <= most and total_bytes <= retention.results_max_bytes:
                break
            count -= 1
            total_bytes -= entry.size_bytes
            yield entry


def _heavy(loose: Collection[Kept], *, over: int) -> frozenset[Kept]:
    """Failed jobs that are large, as many as there are bytes too many: they keep requests, and one caller whose large
    requests fail over and over shall not push out what others have made."""
    found = []
    for entry in loose if over > 0 else ():
        if over > 0 and entry.failed and entry.size_bytes >= HEAVY_BYTES:
            over -= entry.size_bytes
            found.append(entry)
    return frozenset(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(Generic[K]):
    """A webhook message as these rules see it; ``at`` is store time, when it was given up if it is ``dead``."""

    key: K
    dead: bool
    at: int
    size_bytes: int


def surplus_messages(retention: Retention, messages: Iterable[Message[K]], *, now: int) -> Iterator[Message[K]]:
    """Yield what has to go: dead ones past their time or over ``max_results``, then whatever is over the bytes.

    ``messages`` come as they are worth keeping: those that still may be delivered first, the newest first of each."""
    kept_bytes = dead_count = 0
    for message in messages:
        dead_count += message.dead
        late = message.dead and message.at + retention.dead_ttl_s * SECOND <= now
        over = kept_bytes + message.size_bytes > retention.results_max_bytes or dead_count > retention.max_results
        if late or over:
            yield message
        else:
            kept_bytes += message.size_bytes


def within(items: Iterable[T], size_of: Callable[[T], int], most_bytes: int) -> Iterator[T]:
    """Yield the first of the items, as many as are at most so many bytes together; one at least."""
    taken_bytes = 0
    for number, item in enumerate(items):
        taken_bytes += size_of(item)
        if number and taken_bytes > most_bytes:
            return
        yield item


def run_is_remembered(job: Job) -> bool:
    """Whether a later run of the same request id could write over what this one handed out."""
    return job.spec.delivery.s3 is not None


class StoreTime:
    """Wall-clock time that only moves forward, with the monotonic clock: set at start, then deaf to clock jumps.

    Whole microseconds since 1970. So a jump changes no deadline while the worker lives; what an earlier life stamped
    is compared with the wall clock once, at start (a stamp from the future then counts as now).
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = (clock.now() - _EPOCH) // _TICK
        self._monotonic_start = clock.monotonic()

    def now(self) -> int:
        return self._start + round((self._clock.monotonic() - self._monotonic_start) * SECOND)

    def of(self, moment: datetime) -> int:
        """Store time of a moment that is told in today's wall clock."""
        return self.now() + (moment - self._clock.now()) // _TICK

    def wall(self, at: int) -> datetime:
        """The moment as today's wall clock tells it."""
        return self._clock.now() + timedelta(microseconds=at - self.now())
