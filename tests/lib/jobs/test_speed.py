"""lib.jobs.speed and lib.jobs.ahead: how long work will take, and the work ahead."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.jobs.ahead import Ahead
from lib.jobs.model import Estimate, Job, JobSpec, Timings
from lib.jobs.queue import SlotQueue
from lib.jobs.speed import MOST_APART, MOST_SHAPES, PredictionErrors, SpeedGauge, prediction_errors
from tests.fakes.clock import FakeClock
from tests.fakes.engine import FakeEngine


def size(units: float = 100.0, shape: str = "") -> Estimate:
    return Estimate(units=units, shape=shape)


def test_nothing_is_known_before_the_first_word() -> None:
    """No prediction is better than a made-up one."""
    assert SpeedGauge().expected_s(size()) is None
    assert SpeedGauge().seconds_per_unit is None


def test_the_boot_score_is_the_prior() -> None:
    """Served jobs move the prediction, not the reported maximum."""
    speed = SpeedGauge()
    speed.benchmarked(50, engine_count=2)
    assert speed.expected_s(size()) == pytest.approx(4)
    for _ in range(60):
        speed.served(size(), 10)
    assert speed.expected_s(size()) == pytest.approx(10, rel=0.01)
    assert speed.max_perf == 50


def test_how_long_a_usual_job_runs() -> None:
    """A run of the benchmark at first; then what callers' jobs took lately, near their median. Our own don't count."""
    speed = SpeedGauge()
    assert speed.usual_s is None
    speed.benchmarked(50, engine_count=2)
    speed.served(size(5), 60.0, internal=True)
    assert speed.usual_s == pytest.approx(4)
    speed.served(size(500), 8.0)
    assert speed.usual_s == pytest.approx(8)
    for _ in range(40):
        speed.served(size(100), 2.0)
    assert speed.usual_s == pytest.approx(2, rel=0.01)


def test_the_benchmarks_own_jobs_calibrate_the_formula() -> None:
    """The score counts a run as 100 units whatever its size; predictions go by what its size by formula took."""
    speed = SpeedGauge()
    speed.served(size(5), 1.0, engine="gpu0")
    speed.benchmarked(100, engine_count=1)
    assert speed.expected_s(size(10)) == pytest.approx(2.0)


def test_work_seen_before_takes_what_it_took() -> None:
    """The formula may be wrong by ten for one kind of graph: that does not spoil the others, nor they it."""
    speed = SpeedGauge()
    quick, slow = size(shape="quick"), size(shape="slow")
    for _ in range(50):
        speed.served(quick, 1.0)
        speed.served(slow, 10.0)
    for _ in range(200):
        speed.served(slow, 10.0)
    assert speed.expected_s(slow) == pytest.approx(10, rel=0.05)
    assert speed.expected_s(quick) == pytest.approx(1, rel=0.05)


def test_one_odd_run_is_no_rule() -> None:
    """A model that had to be loaded once, or a hiccup, is averaged away; the average is near the median."""
    speed, rng = SpeedGauge(), random.Random(1)
    for number in range(100):
        speed.served(size(shape="s"), 60.0 if number in (0, 50) else rng.uniform(0.9, 1.1))
    assert speed.expected_s(size(shape="s")) == pytest.approx(1.0, rel=0.2)


def test_an_engine_that_slows_down_slows_all_known_work() -> None:
    """What one shape shows is used for the others."""
    speed = SpeedGauge()
    for _ in range(20):
        for shape in ("a", "b"):
            speed.served(size(shape=shape), 1.0, engine="gpu0")
    for _ in range(20):
        speed.served(size(shape="a"), 2.0, engine="gpu0")
    slowed = speed.expected_s(size(shape="b"), engine="gpu0")
    assert slowed is not None and slowed > 1.3


def test_engines_have_speeds_of_their_own() -> None:
    """For work never seen, and for work that is known."""
    speed = SpeedGauge()
    for _ in range(60):
        speed.served(size(shape="s"), 1.0, engine="fast")
        speed.served(size(shape="s"), 2.0, engine="slow")
    for asked in (size(), size(shape="s")):
        fast, slow, either = (speed.expected_s(asked, engine=name) for name in ("fast", "slow", None))
        assert fast is not None and slow is not None and either is not None
        assert fast < either < slow


def test_shapes_are_bounded() -> None:
    """The least recently served are forgotten, and go by the formula again."""
    speed = SpeedGauge()
    speed.served(size(shape="old"), 50.0)
    for number in range(MOST_SHAPES):
        speed.served(size(shape=str(number)), 1.0)
    assert speed.expected_s(size(shape="0")) == pytest.approx(1.0)
    assert speed.expected_s(size(shape="old")) != pytest.approx(50.0, rel=0.5)


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.floats(0, 1e5), st.floats(0, 1e6)), max_size=60))
def test_no_history_breaks_a_prediction(jobs: list[tuple[str, float, float]]) -> None:
    """Whatever was served, a prediction is a positive number within reason."""
    speed = SpeedGauge()
    for shape, units, seconds in jobs:
        speed.served(Estimate(units=units, shape=shape), seconds)
    longest = max((seconds for _, _, seconds in jobs), default=0.0)
    for shape in ("a", "b"):
        predicted = speed.expected_s(size(shape=shape))
        if predicted is not None and any(job[0] == shape and job[1] > 0 and job[2] > 0 for job in jobs):
            assert 0 < predicted <= longest * MOST_APART**2


def test_predictions_are_compared_with_what_came() -> None:
    """Longer than predicted is positive; where there was no prediction there is no error."""
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    timings = Timings(accepted_at=begun, execution_started_at=begun + timedelta(seconds=5), execute_s=3.0)
    spec = JobSpec(request_id="r", dialect="test", workflow=b"")
    job = Job(job_id="j", spec=spec, sequence=1, cost=1, timings=timings, expected_s=4.0, expected_wait_s=2.0)
    assert prediction_errors(job) == PredictionErrors(wait_s=3.0, execute_s=-1.0)
    assert prediction_errors(replace(job, expected_s=None, expected_wait_s=None)) == PredictionErrors(
        wait_s=None, execute_s=None
    )
    assert prediction_errors(job.with_(timings=Timings(accepted_at=begun))) == PredictionErrors(
        wait_s=None, execute_s=None
    )


async def test_the_wait_is_the_work_ahead_over_the_engines_that_serve() -> None:
    """Each job by its size, less what is behind the running ones, more while an engine is down."""
    clock, speed, engines = FakeClock(), SpeedGauge(), [FakeEngine("a"), FakeEngine("b")]
    queue = SlotQueue(engines, clock=clock)
    ahead = Ahead(queue=queue, speed=speed)
    assert ahead.wait_s() is None
    speed.benchmarked(20, engine_count=2)  # 0.1 s a unit
    for units in (100, 100, 300):
        ahead.joined(size(units))
    assert ahead.wait_s() == pytest.approx(25)
    queue.started(await queue.acquire(1, expected_s=10))
    await clock.advance(4)
    assert ahead.wait_s() == pytest.approx(23)
    engines[1].healthy = False
    assert ahead.wait_s() == pytest.approx(46)
    ahead.left(size(300))
    assert (ahead.count(), ahead.wait_s()) == (2, pytest.approx(16))


async def test_what_is_learned_counts_for_the_jobs_that_wait_already() -> None:
    """A hundred jobs of a kind are in the line; the first one shows how long they take."""
    speed = SpeedGauge()
    ahead = Ahead(queue=SlotQueue([FakeEngine()], clock=FakeClock()), speed=speed)
    speed.benchmarked(100, engine_count=1)
    for _ in range(100):
        ahead.joined(size(shape="s"))
    assert ahead.wait_s() == pytest.approx(100)
    speed.served(size(shape="s"), 6.0)
    assert ahead.wait_s() == pytest.approx(600)
