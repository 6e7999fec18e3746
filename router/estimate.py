"""What finished jobs teach: how much work a kind of job is, how fast a worker is for it, how much work comes in.

Sizes and speeds are learned in log space, where errors of estimates are symmetric. Sizes carry the absolute scale,
speeds only how workers differ for one family of models: so one observation cannot drift both. Pure: time is given.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from router.model import Wait

P90 = 1.2816
"""Standard deviations from the median to the ninetieth percentile of a normal distribution."""
PRIOR_DEVIATION = 0.5
SIZE_GAIN, SPEED_GAIN, FASTEST_GAIN = 0.05, 0.05, 0.5
BOOT_WEIGHT = 4
"""The boot benchmark counts as so many jobs."""
CLIP = 4.0
"""A measured speed is believed between a quarter of the benchmark's and four times it."""
LIMIT = math.log(CLIP)
SLOW = 0.7
"""Below this share of its class's median a worker is throttled, shared or broken."""
RECOUNT = 256
"""Observations after which the highest factor is looked for anew."""
MEMORY = 10_000
"""Kinds of jobs that are remembered, least recently seen forgotten first."""
JOBS_AVERAGED = 300
"""Arrivals over which the offered load is averaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Work of a job, in units: the median of what is expected, and its ninetieth percentile."""

    median: float
    p90: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeRow:
    """What a store keeps of one kind of job."""

    key: str
    count: int
    log_mean: float
    log_variance: float


class Sizes:
    """Job sizes by kind: a shape of workflow (``lib.workflow.cost``), or ``direct_key`` where only a cost is known."""

    def __init__(self, rows: Iterable[SizeRow] = (), *, memory: int = MEMORY) -> None:
        self._rows: OrderedDict[str, SizeRow] = OrderedDict((row.key, row) for row in rows)
        self._memory = memory

    def size(self, key: str, *, prior: float) -> Size:
        """Expect ``prior`` units of a kind that was never seen."""
        row = self._rows.get(key)
        centre, variance = (row.log_mean, row.log_variance) if row else (_log(prior), PRIOR_DEVIATION**2)
        return Size(median=math.exp(centre), p90=math.exp(centre + P90 * math.sqrt(variance)))

    def observe(self, key: str, *, seconds: float, speed: float, prior: float) -> SizeRow:
        """Learn from a job that ran ``seconds`` on a worker of ``speed`` units per second; the row to be stored."""
        found = _log(seconds * speed)
        row = self._rows.pop(key, None) or SizeRow(
            key=key, count=0, log_mean=_log(prior), log_variance=PRIOR_DEVIATION**2
        )
        gain = max(SIZE_GAIN, 1 / (row.count + 1))
        error = found - row.log_mean
        new = SizeRow(
            key=key,
            count=row.count + 1,
            log_mean=row.log_mean + gain * error,
            log_variance=_variance(row, gain=gain, error=error),
        )
        self._rows[key] = new
        if len(self._rows) > self._memory:
            self._rows.popitem(last=False)
        return new

    def __iter__(self) -> Iterator[SizeRow]:
        return iter(self._rows.values())


def direct_key(endpoint: str, cost: float) -> str:
    """The kind of a job of which only endpoint and announced cost are known."""
    return f"{endpoint}/{cost:.3g}"


@dataclass(slots=True)
class _Pace:
    """One worker: the mean log of observed over expected speed, and how its errors run."""

    log_factor: float = 0.0
    count: int = 0
    drift: float = 0.0
    spread: float = 1e-9


class _Paces:
    """All workers that did one kind of work, as against each other."""

    __slots__ = ("_count", "_highest", "_known", "_total")

    def __init__(self) -> None:
        self._known: dict[str, _Pace] = {}
        self._count = 0
        self._total = 0.0
        self._highest = 0.0

    def log_factor(self, worker: str) -> float:
        """0 for one that never did it."""
        pace = self._known.get(worker)
        return 0.0 if pace is None else pace.log_factor - self._total / len(self._known)

    def log_ceiling(self) -> float:
        """No worker's is above this."""
        return max(self._highest - self._total / len(self._known), 0.0) if self._known else 0.0

    def observe(self, worker: str, found: float) -> None:
        """Learn from the log of an observed speed over the promised one."""
        pace = self._known.get(worker)
        if pace is None:
            pace = self._known[worker] = _Pace(log_factor=self._total / len(self._known) if self._known else 0.0)
            self._total += pace.log_factor
        error = min(max(found - pace.log_factor, -LIMIT), LIMIT)
        step = _gain(pace, error) * error
        pace.log_factor += step
        pace.count += 1
        self._total += step
        self._count += 1
        fresh = self._count % RECOUNT == 0
        self._highest = max(one.log_factor for one in self._known.values()) if fresh else self._highest
        self._highest = max(self._highest, pace.log_factor)

    def forget(self, worker: str) -> None:
        """The worker is gone."""
        if (pace := self._known.pop(worker, None)) is not None:
            self._total -= pace.log_factor


class Speeds:
    """By how much a worker is faster than its benchmark says: in general, and for a family of models beyond that.

    Factors are relative to the other workers that did the same kind of work; what all of them have in common is the
    size of the job.
    """

    def __init__(self) -> None:
        self._general = _Paces()
        self._families: dict[str, _Paces] = {}

    def general(self, worker: str) -> float:
        """Multiply the worker's ``perf`` with this, whatever it does."""
        return _within(self._general.log_factor(worker))

    def special(self, worker: str, family: str) -> float:
        """And with this, for one family."""
        known = self._families.get(family)
        return _within(known.log_factor(worker)) if known else 1.0

    def factor(self, worker: str, family: str) -> float:
        """Both; 1 for what never ran there."""
        return self.general(worker) * self.special(worker, family)

    def ceiling(self, family: str) -> float:
        """No worker's ``special`` is above this."""
        known = self._families.get(family)
        return _within(known.log_ceiling()) if known else 1.0

    def observe(self, worker: str, family: str, *, seconds: float, expected_s: float) -> None:
        """Learn from a job that was expected to run ``expected_s`` there (``factor`` included) and ran ``seconds``."""
        found = _log(expected_s) - _log(seconds) + _log(self.factor(worker, family))
        self._general.observe(worker, found - _log(self.special(worker, family)))
        if family:
            known = self._families.setdefault(family, _Paces())
            known.observe(worker, found - _log(self.general(worker)))

    def forget(self, worker: str) -> None:
        """The worker is gone, or another machine took its name."""
        for known in (self._general, *self._families.values()):
            known.forget(worker)


def slow_workers(classes: Mapping[str, str], perfs: Mapping[str, float]) -> dict[str, float]:
    """Workers below 70 % of the median of their class (of three or more), with the share that they reach.

    ``classes`` names each worker's class (its GPU), ``perfs`` its measured speed (``perf`` times ``factor``).
    """
    found: dict[str, float] = {}
    for name in set(classes.values()):
        members = [worker for worker, one in classes.items() if one == name and worker in perfs]
        centre = median(perfs[worker] for worker in members) if len(members) >= 3 else 0.0
        found |= {worker: perfs[worker] / centre for worker in members if perfs[worker] < SLOW * centre}
    return found


@dataclass(slots=True)
class _Arrivals:
    last_at: float
    size: float
    gap_s: float = 0.0
    count: int = 1


class OfferedLoad:
    """Work that comes in, by endpoint, in units per second: an average over some hundred arrivals."""

    def __init__(self, *, jobs: int = JOBS_AVERAGED) -> None:
        self._jobs = jobs
        self._known: dict[str, _Arrivals] = {}
        self._total: dict[str, tuple[int, float]] = {}

    def arrived(self, endpoint: str, *, size: float, now: float, elsewhere: bool = False) -> None:
        """Count a new request (not its retries). One that came to another replica loads the same workers, so that it
        is part of the rate, but not of the total here."""
        if not elsewhere:
            count, work = self.total(endpoint)
            self._total[endpoint] = count + 1, work + size
        seen = self._known.get(endpoint)
        if seen is None:
            self._known[endpoint] = _Arrivals(last_at=now, size=size)
            return
        share = max(1 / self._jobs, 1 / seen.count)
        seen.size += share * (size - seen.size)
        seen.gap_s += share * (max(now - seen.last_at, 0.0) - seen.gap_s)
        seen.last_at = now
        seen.count += 1

    def total(self, endpoint: str) -> tuple[int, float]:
        """Number and units of all requests so far."""
        return self._total.get(endpoint, (0, 0.0))

    def rate(self, endpoint: str, now: float) -> float:
        """Units per second now; sinks while nothing comes."""
        seen = self._known.get(endpoint)
        if seen is None or seen.count < 2:
            return 0.0
        gap = max(seen.gap_s, (now - seen.last_at) / max(1.0, min(seen.count, self._jobs) ** 0.5))
        return seen.size / gap if gap > 0 else 0.0


def expected_wait(engines: Sequence[tuple[float, float]], *, ahead: float, spread: float) -> Wait | None:
    """When the next job starts behind ``ahead`` units, if each engine, ``(free in seconds, speed)``, takes its share.

    ``spread`` is the ninetieth percentile of sizes over their median: it widens the range. None without engines.
    """
    if not engines:
        return None
    likely = _level(engines, ahead)
    factor = max(spread, 1.0)
    return Wait(likely_s=likely, low_s=likely / factor, high_s=_level(engines, ahead * factor) * factor**0.5)


def _level(engines: Sequence[tuple[float, float]], ahead: float) -> float:
    """Fill the time before ``level`` on all engines with ``ahead`` units, as water fills a vessel."""
    ordered = sorted(engines)
    level, speed, left = ordered[0][0], 0.0, ahead
    for free_in, perf in ordered:
        if speed > 0:
            room = (free_in - level) * speed
            if room >= left:
                break
            left -= room
        level = free_in
        speed += perf
    return max(level + (left / speed if speed > 0 else 0.0), 0.0)


def _gain(pace: _Pace, error: float) -> float:
    """Small while errors cancel out, large while they run one way: a throttled card is found within a few jobs."""
    pace.drift += 0.2 * (error - pace.drift)
    pace.spread += 0.2 * (abs(error) - pace.spread)
    steady = max(SPEED_GAIN, 1 / (pace.count + 1 + BOOT_WEIGHT))
    running = abs(pace.drift) / pace.spread if pace.count >= BOOT_WEIGHT else 0.0
    return max(steady, FASTEST_GAIN * running**4)


def _variance(row: SizeRow, *, gain: float, error: float) -> float:
    if row.count == 0:  # nothing but a guess was there to err from
        return row.log_variance
    share = min(gain, 0.2)
    return (1 - share) * row.log_variance + share * error * error


def _within(log_factor: float) -> float:
    return math.exp(min(max(log_factor, -LIMIT), LIMIT))


def _log(value: float) -> float:
    return math.log(max(value, 1e-9))
