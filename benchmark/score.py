"""Arithmetic of measurements: medians, spreads, scores, intervals. Pure."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TypeVar

T = TypeVar("T")
WORKLOAD = 100.0
"""Vast's workload of one benchmark run; the score is this over the seconds that a run takes."""
NORMAL_MAD = 1.4826
"""Makes the median absolute deviation comparable with a standard deviation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float


def mad(samples: Sequence[float]) -> float:
    """Median absolute deviation from the median; one odd run can't move it."""
    centre = median(samples)
    return median(abs(sample - centre) for sample in samples)


def spread(samples: Sequence[float]) -> float:
    """Robust relative spread: 0.05 says that runs differ by some 5 %. Needs positive samples."""
    return NORMAL_MAD * mad(samples) / median(samples)


def is_stable(samples: Sequence[float], *, least: int, limit: float) -> bool:
    """Whether further runs would tell little more."""
    return len(samples) >= least and spread(samples) <= limit


def perf(medians_s: Sequence[float]) -> float:
    """Workload units per second of engines that work side by side. Needs positive seconds."""
    return sum(WORKLOAD / seconds for seconds in medians_s)


def percentile(samples: Sequence[float], share: float) -> float:
    """Linear between the neighbours, as numpy's default; ``share`` is 0 to 1."""
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def bootstrap(
    samples: Sequence[T],
    *,
    of: Callable[[Sequence[T]], float],
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Estimate ``of(samples)`` with the percentile bootstrap; deterministic for a seed."""
    chance = random.Random(seed)
    count = len(samples)
    estimates = [of([samples[chance.randrange(count)] for _ in range(count)]) for _ in range(draws)]
    return Interval(value=of(samples), low=percentile(estimates, 0.025), high=percentile(estimates, 0.975))


def mean(samples: Sequence[float]) -> float:
    """Arithmetic mean."""
    return fmean(samples)
