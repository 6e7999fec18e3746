"""The decision in a closed loop: requests come, workers boot, serve and go. It follows the load, and does not flap."""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from router.endpoint_settings import EndpointSettings
from router.scaling.demand import Meter
from router.scaling.desire import Demand, Steady, Supply, desire

TICK_S, STEP_S = 5.0, 0.25
LOOK, ARRIVAL, FREE = range(3)
BOOT_S = 60.0
PERF = 100.0
DELAY_S = 120.0


@dataclass
class Fleet:
    """Workers of one slot each: when each is ready, and until when it works; the least busy goes first."""

    ready_at: list[float] = field(default_factory=list)
    free_at: list[float] = field(default_factory=list)

    def serving(self, now: float) -> list[int]:
        return [place for place, at in enumerate(self.ready_at) if at <= now]

    def scale(self, count: int, now: float) -> int:
        """Start what is missing, end who is idle; how many were started (or, negative, ended)."""
        before = len(self.ready_at)
        for _ in range(count - before):
            self.ready_at.append(now + BOOT_S)
            self.free_at.append(now + BOOT_S)
        for place in reversed(range(len(self.ready_at))):
            if len(self.ready_at) > count and self.free_at[place] <= now:
                del self.ready_at[place], self.free_at[place]
        return len(self.ready_at) - before


@dataclass
class Result:
    """``waits`` by arrival, ``counts`` of workers at each look, ``turns``: how often growing became shrinking."""

    waits: list[tuple[float, float]] = field(default_factory=list)
    counts: list[tuple[float, int]] = field(default_factory=list)
    moves: list[tuple[float, int]] = field(default_factory=list)

    def turns(self, begin: float, end: float) -> int:
        signs = [move > 0 for at, move in self.moves if begin <= at < end]
        return sum(one is not other for one, other in itertools.pairwise(signs))

    def workers(self, begin: float, end: float) -> float:
        found = [count for at, count in self.counts if begin <= at < end]
        return sum(found) / len(found)

    def wait(self, begin: float, end: float) -> float:
        found = [wait for at, wait in self.waits if begin <= at < end]
        return sum(found) / len(found)


def simulate(rate: Callable[[float], float], *, end: float, size: float, seed: int, **settings: float) -> Result:
    """Poisson arrivals of ``rate(now)`` requests a second, of one size; looks every ``TICK_S``."""
    endpoint = EndpointSettings.model_validate({"name": "ep", "max_workers": 60, **settings})
    chance, fleet, result = random.Random(seed), Fleet(), Result()
    meter, steady, queue, total = Meter(now=0.0), Steady(), deque[float](), 0.0
    count = 0
    events: list[tuple[float, int]] = [(0.0, LOOK), (0.0, ARRIVAL)]
    while events:
        now, kind = heapq.heappop(events)
        if now >= end:
            break
        if kind == ARRIVAL:
            for _ in range(_poisson(chance, rate(now) * STEP_S)):
                queue.append(now)
                count, total = count + 1, total + size
            heapq.heappush(events, (now + STEP_S, ARRIVAL))
        elif kind == LOOK:
            serving = fleet.serving(now)
            working = sum(fleet.free_at[place] > now for place in serving)
            meter.read(count, total, now=now, busy=bool(queue or working))
            load, hour_load = meter.rates(now)
            demand = Demand(
                load=load,
                hour_load=hour_load,
                waiting_count=len(queue),
                waiting_work=len(queue) * size,
                given_count=working,
                given_work=working * size,
                idle_s=meter.idle_s(now),
            )
            supply = Supply(capacity=len(serving) * PERF, workers=len(serving), perf=PERF, boot_s=BOOT_S)
            wanted = steady.settle(desire(endpoint, demand, supply), now=now, delay_s=DELAY_S)
            if move := fleet.scale(wanted.workers, now):
                result.moves.append((now, move))
            result.counts.append((now, len(fleet.ready_at)))
            heapq.heappush(events, (now + TICK_S, LOOK))
        serving = fleet.serving(now)
        while queue and (idle := [place for place in serving if fleet.free_at[place] <= now]):
            arrived = queue.popleft()
            result.waits.append((arrived, now - arrived))
            fleet.free_at[idle[0]] = now + size / PERF
            heapq.heappush(events, (fleet.free_at[idle[0]], FREE))
    return result


def _poisson(chance: random.Random, mean: float) -> int:
    """A Poisson number, by counting exponential gaps."""
    count, passed = 0, chance.expovariate(1.0)
    while passed < mean:
        count, passed = count + 1, passed + chance.expovariate(1.0)
    return count


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_follows_the_load_up_and_down(seed: int) -> None:
    """4 requests a second of 1 s are about 4.4 workers at 0.9; then 12; then 1; then nothing. It never stays away from
    what is needed, waits are short once it has caught up, and it ends with nothing."""

    def rate(now: float) -> float:
        return 4.0 if now < 1800 else 12.0 if now < 3600 else 1.0 if now < 5400 else 0.0

    result = simulate(rate, end=7200, size=100.0, seed=seed)
    assert result.workers(600, 1800) == pytest.approx(5.5, abs=1.2)
    assert result.workers(2400, 3600) == pytest.approx(14.5, abs=2.0)
    assert result.workers(4500, 5400) == pytest.approx(2.2, abs=1.0)
    assert result.counts[-1][1] == 0
    assert result.wait(600, 1800) < 3
    assert result.wait(2100, 3600) < 3
    assert max(wait for _, wait in result.waits) < 75
    assert max(wait for at, wait in result.waits if at >= 1800) < 62


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_steady_load_is_left_in_peace(seed: int) -> None:
    """An hour of the same load, with all its chance: the number of workers stays."""
    result = simulate(lambda now: 6.0, end=5400, size=100.0, seed=seed)
    assert {count for at, count in result.counts if at >= 900} == {7}


def test_a_burst_is_worked_off_and_forgotten() -> None:
    """200 requests at once after an hour of nothing: many workers for a while, none in the end."""
    result = simulate(lambda now: 50.0 if 1800 <= now < 1804 else 0.0, end=5400, size=100.0, seed=4)
    assert max(count for _, count in result.counts) in range(3, 61)
    assert max(wait for _, wait in result.waits) < 180
    assert result.counts[-1][1] == 0
    assert result.turns(0, 5400) <= 2


def test_long_jobs_do_not_call_more_workers_than_there_are_jobs() -> None:
    """One of ten minutes each quarter of an hour."""
    result = simulate(lambda now: 1 / 900, end=6 * 3600, size=60_000.0, seed=5)
    assert max(count for _, count in result.counts) <= 4
