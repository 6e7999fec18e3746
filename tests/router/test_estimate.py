"""Sizes, speeds and loads come near the truth, and stay near it."""

import math
import random
from itertools import pairwise

import pytest

from router.estimate import OfferedLoad, Sizes, Speeds, direct_key, expected_wait, slow_workers


def test_a_size_converges_from_a_wrong_prior() -> None:
    """Ten times off at first, within a few percent after some jobs; the ninetieth percentile follows the spread."""
    chance, sizes = random.Random(1), Sizes()
    assert sizes.size("k", prior=1000.0).median == pytest.approx(1000.0)
    for _ in range(400):
        sizes.observe("k", seconds=1.0 * math.exp(chance.gauss(0, 0.3)), speed=100.0, prior=1000.0)
    found = sizes.size("k", prior=1000.0)
    assert found.median == pytest.approx(100.0, rel=0.15)
    assert found.p90 / found.median == pytest.approx(math.exp(1.2816 * 0.3), rel=0.15)


def test_the_first_observation_replaces_the_guess() -> None:
    """Nothing is known before it; the next ones are averaged with it."""
    sizes = Sizes()
    sizes.observe("k", seconds=2.0, speed=100.0, prior=1.0)
    assert sizes.size("k", prior=1.0).median == pytest.approx(200.0)


def test_sizes_survive_a_restart_and_old_kinds_are_forgotten() -> None:
    """Rows are what a store keeps."""
    sizes = Sizes(memory=2)
    rows = [sizes.observe(key, seconds=1.0, speed=100.0, prior=10.0) for key in ("a", "b", "c")]
    again = Sizes(rows)
    assert again.size("a", prior=10.0).median == pytest.approx(100.0)
    assert sizes.size("a", prior=10.0).median == pytest.approx(10.0)
    assert direct_key("e", 100.0) != direct_key("e", 200.0)


def observe(speeds: Speeds, truth: dict[str, float], *, jobs: int, chance: random.Random, family: str = "") -> None:
    """Run jobs of expected 1 s on workers in turn."""
    for number in range(jobs):
        name = list(truth)[number % len(truth)]
        expected = 1.0 / speeds.factor(name, family)
        speeds.observe(name, family, seconds=math.exp(chance.gauss(0, 0.2)) / truth[name], expected_s=expected)


def test_speeds_converge_to_what_workers_do_against_each_other() -> None:
    """A common error of size is nobody's speed; what differs between workers is."""
    speeds, truth = Speeds(), {"a": 0.6, "b": 0.6 * 1.5, "c": 0.6}
    observe(speeds, truth, jobs=600, chance=random.Random(2))
    assert speeds.factor("b", "") / speeds.factor("a", "") == pytest.approx(1.5, rel=0.15)
    assert math.prod(speeds.factor(name, "") for name in truth) == pytest.approx(1.0, rel=0.05)


def test_a_family_is_learned_apart() -> None:
    """Workers that are alike for one family may differ for another one."""
    speeds, chance = Speeds(), random.Random(3)
    for _ in range(100):
        observe(speeds, {"a": 1.0, "b": 1.0}, jobs=6, chance=chance, family="sd")
        observe(speeds, {"a": 1.0, "b": 0.5}, jobs=6, chance=chance, family="flux")
    assert speeds.factor("b", "flux") < 0.85 * speeds.factor("b", "sd")
    assert speeds.special("b", "flux") <= speeds.ceiling("flux")


def test_a_throttled_worker_is_found_within_a_few_jobs() -> None:
    """Errors that run one way are believed faster than those that cancel out."""
    speeds, chance = Speeds(), random.Random(4)
    observe(speeds, {"a": 1.0, "b": 1.0}, jobs=60, chance=chance)
    assert speeds.factor("b", "") == pytest.approx(1.0, rel=0.2)
    observe(speeds, {"a": 1.0, "b": 0.4}, jobs=24, chance=chance)
    assert speeds.factor("b", "") / speeds.factor("a", "") < 0.65


def test_a_factor_stays_within_reason() -> None:
    """Whatever is observed, a quarter to four times the benchmark; a worker that left is unknown again."""
    speeds = Speeds()
    for _ in range(200):
        speeds.observe("a", "", seconds=1e-6, expected_s=1.0)
        speeds.observe("b", "", seconds=1e6, expected_s=1.0)
    assert speeds.factor("a", "") <= 4.0 and speeds.factor("b", "") >= 0.25
    speeds.forget("a")
    assert speeds.factor("a", "") == 1.0


def test_workers_far_below_their_class_are_named() -> None:
    """Below 70 % of its class's median; a class of two has no usual speed."""
    classes = {"a": "4090", "b": "4090", "c": "4090", "d": "3060", "e": "3060"}
    perfs = {"a": 100.0, "b": 105.0, "c": 60.0, "d": 30.0, "e": 10.0}
    assert slow_workers(classes, perfs) == {"c": pytest.approx(0.6)}


def test_the_offered_load_follows_arrivals() -> None:
    """Work over time, averaged; nothing coming for long brings it down."""
    chance, load, now = random.Random(5), OfferedLoad(), 0.0
    for _ in range(2000):
        now += chance.expovariate(2.0)
        load.arrived("e", size=chance.choice((50.0, 150.0)), now=now)
    assert load.rate("e", now) == pytest.approx(200.0, rel=0.2)
    assert load.rate("e", now + 600.0) < 10.0
    assert load.rate("other", now) == 0.0


def test_a_wait_grows_with_the_work_ahead() -> None:
    """And its range holds it."""
    engines = [(0.0, 100.0), (2.0, 50.0), (5.0, 200.0)]
    waits = [expected_wait(engines, ahead=ahead, spread=1.5) for ahead in (0.0, 100.0, 400.0, 2000.0)]
    found = [wait for wait in waits if wait is not None]
    assert all(one.likely_s < two.likely_s for one, two in pairwise(found))
    assert all(one.low_s <= one.likely_s <= one.high_s for one in found)
    assert found[2].likely_s == pytest.approx(2 + 200 / 150)
    assert expected_wait([], ahead=1.0, spread=1.0) is None
