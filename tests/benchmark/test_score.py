"""Properties of the arithmetic."""

from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark import score

SECONDS = st.floats(min_value=0.001, max_value=10_000)
SAMPLES = st.lists(SECONDS, min_size=1, max_size=30)


@given(SAMPLES)
def test_identical_scale_gives_identical_spread(samples: list[float]) -> None:
    """The spread is relative: slower by a factor is as steady."""
    assert score.spread([7 * sample for sample in samples]) == pytest.approx(score.spread(samples))


@given(SAMPLES, SECONDS)
def test_one_odd_run_moves_the_median_no_further_than_its_neighbour(samples: list[float], odd: float) -> None:
    """The score after one more run lies within the runs that were there, if there are two or more."""
    both = [*samples, *samples]
    assert min(samples) <= median([*both, odd]) <= max(samples)


@given(st.lists(SECONDS, min_size=1, max_size=8))
def test_engines_add_up(medians: list[float]) -> None:
    """The score of engines side by side is the sum of theirs, and more is never less."""
    assert score.perf(medians) == pytest.approx(sum(score.perf([one]) for one in medians))
    assert score.perf([*medians, 1.0]) > score.perf(medians)


@pytest.mark.parametrize(("seconds", "perf"), [(100.0, 1.0), (50.0, 2.0)])
def test_the_published_examples_hold(seconds: float, perf: float) -> None:
    """Vast: 100 s are worth 1, 50 s are worth 2."""
    assert score.perf([seconds]) == perf


@given(SAMPLES, st.floats(0, 1))
def test_percentiles_stay_between_the_extremes_and_agree_with_the_median(samples: list[float], share: float) -> None:
    """A percentile is one of the samples or lies between two."""
    assert min(samples) <= score.percentile(samples, share) <= max(samples) * (1 + 1e-12)
    assert score.percentile(samples, 0.5) == pytest.approx(median(samples))
    assert (score.percentile(samples, 0), score.percentile(samples, 1)) == (min(samples), max(samples))


@given(st.lists(SECONDS, min_size=2, max_size=8))
def test_an_interval_holds_its_estimate(samples: list[float]) -> None:
    """The bootstrap of a median stays within the samples and is the same each time."""
    interval = score.bootstrap(samples, of=median, draws=100)
    assert min(samples) <= interval.low <= interval.high <= max(samples)
    assert interval == score.bootstrap(samples, of=median, draws=100)


def test_stability_needs_enough_runs_that_agree() -> None:
    """Two equal runs are too few; three within 5 % are enough; one odd run among them is forgiven."""
    assert not score.is_stable([1.0, 1.0], least=3, limit=0.05)
    assert score.is_stable([1.0, 1.01, 5.0], least=3, limit=0.05)
    assert not score.is_stable([1.0, 1.2, 1.5], least=3, limit=0.05)
