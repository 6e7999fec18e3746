"""The work that comes in."""

import math

import pytest

from router.scaling.demand import Meter, Share, summed


def test_a_steady_stream_is_its_rate() -> None:
    """100 units every 2 s are 50 a second, from the start on, over minutes as over the hour."""
    meter, total = Meter(now=1000.0), 0.0
    for second in range(2, 1200, 2):
        total += 100
        meter.read(second // 2, total, now=1000.0 + second, busy=True)
        if second > 60:
            assert list(meter.rates(1000.0 + second)) == pytest.approx([50, 50], rel=0.1)


def test_what_ends_is_forgotten() -> None:
    """Over minutes soon, over the hour later; it was idle since then."""
    meter = Meter(now=0.0)
    for second in range(1, 601):
        meter.read(second, second * 100.0, now=second, busy=True)
    meter.read(600, 60_000.0, now=1200.0, busy=False)
    minutes, hour = meter.rates(1200.0)
    assert minutes < 3 and hour > 40
    assert meter.idle_s(1200.0) == 600.0


def test_one_large_request_is_no_load_of_many() -> None:
    """As much work in sixty small ones is; over the hour both are the same."""
    one, many = Meter(now=0.0), Meter(now=0.0)
    for meter in (one, many):
        meter.read(0, 0.0, now=3600.0, busy=False)
    one.read(1, 60_000.0, now=3605.0, busy=True)
    many.read(60, 60_000.0, now=3605.0, busy=True)
    load, hour = one.rates(3605.0)
    assert load == hour == many.rates(3605.0)[1] < 30
    assert many.rates(3605.0)[0] > 300


def test_an_endpoint_that_never_was_asked_is_idle_for_ever() -> None:
    """Nobody waits for its timeout."""
    assert Meter(now=5.0).idle_s(6.0) == math.inf


def test_shares_add_up_and_survive_the_way() -> None:
    """What one replica tells is what the other adds; nonsense counts as nothing."""
    one = Share(load=10.0, hour_load=5.0, waiting_count=2, waiting_work=200.0, idle_s=3.0)
    idle = Share()
    assert [Share.read(share.told()) for share in (one, idle)] == [one, idle]
    assert Share.read({"load": "many", "waiting_count": -3, "idle_s": float("nan")}) == Share()
    assert Share.read(["nonsense"]) == Share()
    both = summed([one, idle, one])
    assert (both.load, both.waiting_count, both.idle_s) == (20.0, 4, 3.0)
    assert summed([]) == Share()
