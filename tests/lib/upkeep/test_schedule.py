"""lib.upkeep.schedule: periodic work by the calendar."""

from datetime import UTC, datetime

import pytest

from lib.lifecycle import Tasks, every
from lib.settings import SettingsError
from lib.upkeep.schedule import CronClock, next_after
from tests.fakes.clock import FakeClock


def test_the_next_moment_is_the_expressions() -> None:
    """Strictly later than now."""
    now = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
    assert next_after("*/10 * * * *", now) == datetime(2026, 1, 1, 0, 20, tzinfo=UTC)
    assert next_after("30 4 * * 1", now) == datetime(2026, 1, 5, 4, 30, tzinfo=UTC)


@pytest.mark.parametrize("expression", ["", "every day", "61 * * * *", "0 0 31 2 *"])
def test_a_wrong_expression_is_named(expression: str) -> None:
    """At start, not at the first tick; one that never fits is wrong, too."""
    with pytest.raises(SettingsError, match="CLEANUP_SCHEDULE"):
        CronClock(expression, FakeClock())


async def test_work_runs_by_the_calendar() -> None:
    """``every`` with this clock ticks when due, whatever interval it was given."""
    clock = FakeClock()
    ran: list[datetime] = []

    async def work() -> None:
        ran.append(clock.now())

    async with Tasks() as tasks:
        tasks.spawn(every(0, work, name="test", clock=CronClock("0 * * * *", clock)), name="test")
        await clock.advance(3599)
        assert ran == []
        await clock.advance(3601)
    assert ran == [datetime(2026, 1, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 2, tzinfo=UTC)]
