"""Moments of the dispatcher's one sleeper."""

from lib.lifecycle import Tasks
from router.alarm import APART_S, Alarm
from tests.fakes.clock import FakeClock, settle


async def test_moments_ring_in_their_order_and_never_early() -> None:
    """Also one that is set while a later one is slept for, and one that is past."""
    clock, rang = FakeClock(), list[str]()
    alarm = Alarm(clock)
    async with Tasks() as tasks:
        tasks.spawn(alarm.run(), name="alarm")
        alarm.at(3.0, rang.append, "third")
        await settle()
        alarm.at(1.0, rang.append, "first")
        await clock.advance(0.999)
        assert rang == []
        await clock.advance(0.001)
        alarm.at(0.5, rang.append, "past")
        await settle()
        alarm.at(2.0, rang.append, "second")
        await clock.advance(5.0)
    assert rang == ["first", "past", "second", "third"]


async def test_what_comes_due_soon_after_a_ringing_rings_together() -> None:
    """Thousands of moments in a second wake nobody thousands of times."""
    clock, rang = FakeClock(), list[float]()
    alarm = Alarm(clock)
    async with Tasks() as tasks:
        tasks.spawn(alarm.run(), name="alarm")
        for number in range(10):
            alarm.at(1.0 + number * APART_S / 10, lambda _: rang.append(clock.monotonic()), "")
        await clock.advance(2.0)
    assert len(rang) == 10 and len(set(rang)) == 2
    assert max(rang) <= 1.0 + APART_S
