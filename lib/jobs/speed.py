"""How fast this worker is: the boot benchmark's word first, then what jobs really took."""

import math
from collections import OrderedDict
from dataclasses import dataclass

from lib.jobs.model import Estimate, Job

MOST_SHAPES = 1000
"""Shapes of work that are remembered; the least recently served go first."""
BENCHMARK_UNITS = 100.0
"""What one run of the boot benchmark counts, whatever its size."""
MOST_APART = 4.0
"""An engine is taken to be at most so many times faster or slower than what it is compared with."""


@dataclass(slots=True)
class _Engine:
    """``seconds_per_unit`` by formula, over what was served lately; ``factor``: how many times longer than the other
    engines, or than before, it takes for work that is known."""

    seconds_per_unit: float
    factor: float = 1.0


@dataclass(slots=True)
class _Shape:
    """What work of one shape took: the logarithm of seconds, on an engine of factor 1."""

    log_s: float
    count: int = 1


class SpeedGauge:
    """Predicts how long work takes, and knows the worker's speed.

    What work of the same shape took here is remembered: an average of logarithms, so that it is near the median, to
    which a new job counts 1/n, later ``SHAPE_GAIN``. Work never seen before takes its units by formula times the
    seconds that a unit took lately. Whether an engine is slow today is learned from work that is known. The reported
    maximum stays the benchmark's.
    """

    GAIN = 0.2
    SHAPE_GAIN = 0.05
    FACTOR_GAIN = 0.1

    def __init__(self) -> None:
        self._max_perf = 0.0
        self._prior: float | None = None
        self._usual_log_s: float | None = None
        self._engines: dict[str, _Engine] = {}
        self._shapes: OrderedDict[str, _Shape] = OrderedDict()

    @property
    def max_perf(self) -> float:
        """Units per second by the boot benchmark; 0.0 before it."""
        return self._max_perf

    @property
    def seconds_per_unit(self) -> float | None:
        """Of one engine, by formula, as served lately; ``None`` when nothing is known."""
        if not self._engines:
            return self._prior
        return sum(engine.seconds_per_unit for engine in self._engines.values()) / len(self._engines)

    def benchmarked(self, perf: float, *, engine_count: int) -> None:
        """Take the boot score: units per second, summed over ``engine_count`` engines. It predicts until a job was
        served, the benchmark's own included."""
        self._max_perf = perf
        if not self._engines:
            self._prior = max(engine_count, 1) / perf if perf > 0 else None

    @property
    def usual_s(self) -> float | None:
        """How long callers' jobs run lately, near their median; before the first one, a run of the boot benchmark."""
        if self._usual_log_s is not None:
            return math.exp(self._usual_log_s)
        return None if self._prior is None else self._prior * BENCHMARK_UNITS

    def served(self, estimate: Estimate, execute_s: float, *, engine: str = "", internal: bool = False) -> None:
        """A job of this size ran for ``execute_s`` seconds on ``engine``; ``internal``: it was one of our own."""
        if execute_s <= 0 or estimate.units <= 0:
            return
        if not internal:
            log_s, known_s = math.log(execute_s), self._usual_log_s
            self._usual_log_s = log_s if known_s is None else known_s + self.GAIN * (log_s - known_s)
        sample = execute_s / estimate.units
        known = self._engines.get(engine)
        if known is None:
            start = sample if self._prior is None else self._prior + self.GAIN * (sample - self._prior)
            known = self._engines[engine] = _Engine(start)
        else:
            known.seconds_per_unit += self.GAIN * (sample - known.seconds_per_unit)
        if estimate.shape:
            self._remember(estimate.shape, known, execute_s)

    def expected_s(self, estimate: Estimate, *, engine: str | None = None) -> float | None:
        """How long such a job will run, on ``engine`` or on any; ``None`` when nothing is known."""
        shape = self._shapes.get(estimate.shape)
        if shape is None:
            return self._by_formula(estimate, engine)
        return math.exp(shape.log_s) * self._factor(engine)

    def _by_formula(self, estimate: Estimate, engine: str | None) -> float | None:
        known = self._engines.get(engine) if engine is not None else None
        seconds = known.seconds_per_unit if known is not None else self.seconds_per_unit
        return None if seconds is None else estimate.units * seconds

    def _factor(self, engine: str | None) -> float:
        known = self._engines.get(engine) if engine is not None else None
        if known is not None:
            return known.factor
        return sum(item.factor for item in self._engines.values()) / len(self._engines)

    def _remember(self, name: str, engine: _Engine, execute_s: float) -> None:
        shape = self._shapes.get(name)
        if shape is None:
            self._shapes[name] = _Shape(math.log(execute_s / engine.factor))
            if len(self._shapes) > MOST_SHAPES:
                self._shapes.popitem(last=False)
            return
        self._shapes.move_to_end(name)
        shape.count += 1
        apart = execute_s / (math.exp(shape.log_s) * engine.factor)
        if shape.count > 2:  # with less to compare with, it is the shape that is not known
            slower = engine.factor * min(max(apart, 1 / MOST_APART), MOST_APART) ** self.FACTOR_GAIN
            engine.factor = min(max(slower, 1 / MOST_APART), MOST_APART)
        gain = max(self.SHAPE_GAIN, 1 / shape.count)
        shape.log_s += gain * (math.log(execute_s / engine.factor) - shape.log_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionErrors:
    """How much longer than predicted a job waited for its start, and ran; seconds, ``None`` where there was no
    prediction or no such part."""

    wait_s: float | None
    execute_s: float | None


def prediction_errors(job: Job) -> PredictionErrors:
    """Compare a finished job with what was predicted at its acceptance."""
    timings = job.timings
    waited = ran = None
    if job.expected_wait_s is not None and timings.execution_started_at is not None:
        waited = (timings.execution_started_at - timings.accepted_at).total_seconds() - job.expected_wait_s
    if job.expected_s is not None and timings.execute_s is not None:
        ran = timings.execute_s - job.expected_s
    return PredictionErrors(wait_s=waited, execute_s=ran)
