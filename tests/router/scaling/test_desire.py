"""How much capacity an endpoint should have."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.endpoint_settings import EndpointSettings
from router.scaling.desire import Demand, Desired, Steady, Supply, Why, desire


def settings(**changes: Any) -> EndpointSettings:
    return EndpointSettings(**{"name": "ep", "max_workers": 1000, "cold_mult": 1.0, **changes})


def supply(workers: int = 0, *, perf: float = 100.0, **changes: Any) -> Supply:
    return Supply(capacity=workers * perf, workers=workers, perf=perf, **changes)


def test_nothing_to_do_wants_nothing() -> None:
    """Scale to zero is the default."""
    desired = desire(settings(), Demand(), supply(3))
    assert (desired.workers, desired.capacity, desired.why) == (0, 0.0, Why.NOTHING)


def test_headroom_is_that_of_the_target_utilisation() -> None:
    """Vast's own figures: 100 units a second at 0.9 are 111.1, two workers of 100; at 1.0 one is enough."""
    desired = desire(settings(min_load=100, target_util=0.9), Demand(), supply())
    assert (round(desired.capacity, 1), desired.workers, desired.why) == (111.1, 2, Why.MIN_LOAD)
    assert desire(settings(min_load=100, target_util=1.0), Demand(), supply()).workers == 1
    assert desire(settings(min_load=200, target_util=1.0), Demand(load=50), supply()).workers == 2


def test_a_first_request_wants_one_worker() -> None:
    """However small it is."""
    desired = desire(settings(), Demand(load=0.1, waiting_count=1, waiting_work=5.0, idle_s=0), supply())
    assert (desired.workers, desired.queue_s) == (1, math.inf)


def test_work_in_hand_keeps_a_worker() -> None:
    """A long job may leave no load behind it."""
    desired = desire(settings(), Demand(given_count=1, given_work=3000.0), supply(1))
    assert (desired.workers, desired.why) == (1, Why.BUSY)


def test_a_queue_above_its_time_wants_more() -> None:
    """100 requests of 100 units before two workers of 100 are 50 s; a start takes 30 s, 10 s are aimed at."""
    demand = Demand(load=180.0, waiting_count=100, waiting_work=10_000.0, given_count=2, given_work=200.0)
    desired = desire(settings(target_queue_time=10), demand, supply(2, boot_s=30))
    # in 30 s there are still 10,100 + (180 - 200) * 30 = 9,500 units; 2,000 may wait: 7,500 in 30 s
    assert (round(desired.capacity), desired.workers, desired.why) == (450, 5, Why.QUEUE)
    assert round(desired.queue_s, 1) == 50.5


def test_a_queue_that_will_be_gone_in_time_wants_nothing() -> None:
    """What is there does it before a new worker could help."""
    demand = Demand(load=0.0, waiting_count=20, waiting_work=2000.0)
    assert desire(settings(target_queue_time=10), demand, supply(2, boot_s=60)).workers == 1
    assert desire(settings(target_queue_time=10), demand, supply(2, boot_s=1)).workers == 1


def test_no_more_workers_than_requests_wait() -> None:
    """One request of an hour is one worker's, whatever the queue time."""
    demand = Demand(waiting_count=1, waiting_work=360_000.0, given_count=1, given_work=360_000.0)
    assert desire(settings(), demand, supply(1, boot_s=10)).workers == 2


def test_inactivity_keeps_the_last_worker() -> None:
    """For so long; for ever when negative; not at all when unset or 0."""
    idle = Demand(idle_s=100)
    assert [
        desire(settings(inactivity_timeout=timeout), idle, supply(1)).workers for timeout in (None, 0, 99, 101, -1)
    ] == [0, 0, 0, 1, 1]


def test_stopped_workers_are_for_the_longer_term() -> None:
    """The cold multiplier of the load over the hour, ``min_cold_load``, ``cold_workers``: the most of them."""
    cold = supply(keeps_stopped=True)
    demand = Demand(load=80, hour_load=160)
    assert desire(settings(cold_mult=3), demand, cold).total == 5
    assert desire(settings(cold_mult=3, min_cold_load=900), demand, cold).total == 9
    assert desire(settings(cold_workers=12), demand, cold).total == 12
    assert desire(settings(cold_workers=12), demand, cold).workers == 1


def test_where_nothing_can_be_stopped_cold_workers_idle() -> None:
    """They are kept running, as they could not be brought back quickly."""
    desired = desire(settings(cold_workers=2, cold_mult=3), Demand(), supply())
    assert (desired.workers, desired.total) == (2, 2)


DEMANDS = st.builds(
    Demand,
    load=st.floats(0, 1e5),
    hour_load=st.floats(0, 1e5),
    waiting_count=st.integers(0, 500),
    waiting_work=st.floats(0, 1e6),
    given_count=st.integers(0, 500),
    given_work=st.floats(0, 1e6),
    idle_s=st.floats(0, 1e6),
)
SUPPLIES = st.builds(
    lambda workers, pace, perf, boot_s, keeps: Supply(
        capacity=workers * pace, workers=workers, perf=perf, boot_s=boot_s, keeps_stopped=keeps
    ),
    st.integers(0, 100),
    st.floats(1, 1e4),
    st.floats(1, 1e4),
    st.floats(0, 3600),
    st.booleans(),
)
SETTINGS = st.builds(
    settings,
    max_workers=st.integers(0, 200),
    min_load=st.floats(0, 1e4),
    min_cold_load=st.floats(0, 1e4),
    cold_mult=st.floats(1, 10),
    cold_workers=st.integers(0, 20),
    target_util=st.floats(0.05, 1),
    target_queue_time=st.floats(0.1, 600),
    inactivity_timeout=st.one_of(st.none(), st.floats(-1, 1e5)),
)


@given(SETTINGS, DEMANDS, SUPPLIES)
def test_limits_hold(endpoint: EndpointSettings, demand: Demand, there: Supply) -> None:
    """Never above ``max_workers``, capacity for the load, and somebody for who waits."""
    desired = desire(endpoint, demand, there)
    assert 0 <= desired.least <= desired.workers <= desired.total <= endpoint.max_workers
    assert desired.capacity >= max(demand.load, endpoint.min_load)
    assert math.isfinite(desired.capacity)
    if demand.waiting_count and endpoint.max_workers:
        assert desired.workers >= 1


@given(SETTINGS, DEMANDS, SUPPLIES, st.floats(0, 1e5), st.floats(0, 1e6))
def test_more_demand_never_wants_less(
    endpoint: EndpointSettings, demand: Demand, there: Supply, load: float, work: float
) -> None:
    """Neither in load nor in what waits."""
    desired = desire(endpoint, demand, there)
    more = Demand(
        load=demand.load + load,
        hour_load=demand.hour_load,
        waiting_count=demand.waiting_count,
        waiting_work=demand.waiting_work + work,
        given_count=demand.given_count,
        given_work=demand.given_work,
        idle_s=demand.idle_s,
    )
    greater = desire(endpoint, more, there)
    assert greater.workers >= desired.workers
    assert greater.capacity >= desired.capacity * (1 - 1e-9)
    assert greater.total >= desired.total


def wish(workers: int, *, most: int = 100) -> Desired:
    return Desired(
        capacity=workers * 100.0, workers=workers, total=workers, least=0, most=most, queue_s=0.0, why=Why.LOAD
    )


def test_up_at_once_down_after_a_while() -> None:
    """The most of the last two minutes counts."""
    steady = Steady()
    wishes = [(0, 1), (5, 4), (10, 2), (100, 1), (124, 1), (126, 1), (131, 1)]
    settled = [steady.settle(wish(workers), now=now, delay_s=120).workers for now, workers in wishes]
    assert settled == [1, 4, 4, 4, 4, 2, 1]


def test_a_lower_cap_counts_at_once() -> None:
    """What the operator forbids is not held."""
    steady = Steady()
    steady.settle(wish(9), now=0, delay_s=120)
    settled = steady.settle(wish(1, most=2), now=5, delay_s=120)
    assert (settled.workers, settled.total, settled.why) == (2, 2, Why.HELD)


@pytest.mark.parametrize("ready", [0, 1])
def test_the_smallest_floor_is_one_worker(ready: int) -> None:
    """Vast's own default of 1 unit a second is far below what a worker does, and keeps one."""
    wanted = desire(settings(min_load=1.0), Demand(), supply(ready))
    assert (wanted.workers, wanted.least, wanted.why) == (1, 1, Why.MIN_LOAD)
