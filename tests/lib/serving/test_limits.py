"""What a key may use up: exact counts, and a moment to come back that is true."""

import contextvars
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import RateLimited
from lib.serving.keyring import ApiKey
from lib.serving.limits import UNKNOWN_END_S, KeyLimits
from tests.fakes.clock import FakeClock


def key(name: str = "k", *, tenant: str = "t", per_minute: float | None = None, in_flight: int | None = None) -> ApiKey:
    return ApiKey(name=name, tenant=tenant, sha256=b"", requests_per_minute=per_minute, max_in_flight=in_flight)


def limits(clock: FakeClock, *, per_minute: float | None = None, in_flight: int | None = None) -> KeyLimits:
    return KeyLimits(requests_per_minute=per_minute, max_in_flight=in_flight, clock=clock)


def refused(of: KeyLimits, who: ApiKey) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        of.take(who)
    return caught.value


@given(st.floats(0.2, 20), st.lists(st.floats(0, 40), min_size=1, max_size=60))
def test_never_more_than_the_rate_and_a_true_moment(rate: float, pauses: list[float]) -> None:
    """In no window are there more than allowed, and who comes back as told is let in."""
    clock = FakeClock()
    of = limits(clock, per_minute=rate)
    most = max(int(rate), 1)
    window_s, taken = 60.0 * most / rate, list[float]()
    for pause in pauses:
        clock._elapsed_s += pause
        try:
            of.give_back(of.take(key()))
        except RateLimited as error:
            assert error.retry_after_s is not None
            assert 0 < error.retry_after_s <= window_s + 1e-6
            clock._elapsed_s += error.retry_after_s + 1e-6
            of.give_back(of.take(key()))
        taken.append(clock.monotonic())
        recent = [moment for moment in taken if moment > clock.monotonic() - window_s + 1e-9]
        assert len(recent) <= most


async def test_a_keys_own_limit_wins_and_keys_do_not_share_rates() -> None:
    """The general limit is for those without one."""
    of = limits(FakeClock(), per_minute=1)
    for _ in range(3):
        of.take(key("wide", per_minute=3))
    assert refused(of, key("wide", per_minute=3)).details["limit"] == "requests_per_minute"
    of.take(key("other"))
    refused(of, key("other"))


async def test_a_burst_at_the_door_counts() -> None:
    """Requests that have not become jobs yet hold their seats; who leaves without a job gives it back."""
    of = limits(FakeClock(), in_flight=2)
    first, _ = of.take(key()), of.take(key())
    error = refused(of, key())
    assert (error.details["max_in_flight"], error.retry_after_s) == (2, UNKNOWN_END_S)
    of.give_back(first)
    of.give_back(first)
    of.take(key())
    refused(of, key())
    of.take(key(tenant="somebody else"))


async def test_a_job_takes_the_seat_over_until_it_ends() -> None:
    """A request and its job are one, whether it waits for the job or not; other keys of the tenant count along."""
    of = limits(FakeClock(), in_flight=2)
    seats = []
    for name in ("a", "b"):
        context = contextvars.copy_context()
        seats.append(context.run(of.take, key(name)))
        context.run(of.working, "t", f"job-{name}", ends_at=lambda: None)
        context.run(of.working, "t", f"job-{name}", ends_at=lambda: None)
    refused(of, key("c"))
    of.give_back(seats[0])
    refused(of, key("c"))
    of.finished("t", "job-a")
    of.finished("t", "job-a")
    of.take(key("c"))
    refused(of, key("c"))


async def test_the_moment_is_that_of_the_next_predicted_end() -> None:
    """The earliest of the tenant's jobs; one that is late ends any moment."""
    clock = FakeClock()
    of = limits(clock, in_flight=2)
    of.working("t", "slow", ends_at=lambda: clock.now() + timedelta(seconds=90))
    of.working("t", "quick", ends_at=lambda: clock.now() + timedelta(seconds=30))
    assert refused(of, key()).retry_after_s == 30.0
    await clock.advance(100)
    assert refused(of, key()).retry_after_s == 1.0


async def test_a_full_house_costs_no_rate() -> None:
    """A refusal is no submitted job."""
    of = limits(FakeClock(), per_minute=2, in_flight=1)
    seat = of.take(key())
    for _ in range(5):
        refused(of, key())
    of.give_back(seat)
    of.take(key())


async def test_nothing_is_left() -> None:
    """Counts of who is gone take no memory."""
    of = limits(FakeClock(), in_flight=1)
    of.give_back(of.take(key()))
    of.working("t", "j", ends_at=lambda: None)
    of.finished("t", "j")
    of.finished("t", "j")
    assert (of._live, of._seats) == ({}, {})
