"""When periodic work is due, by a cron expression. Does not do the work: ``lib.lifecycle.every`` does."""

from datetime import datetime

from cronsim import CronSim, CronSimError

from lib.clock import Clock
from lib.settings import SettingsError


def next_after(expression: str, now: datetime) -> datetime:
    """Return the first moment after ``now`` that fits ``expression`` (five fields, in ``now``'s time zone).

    Raises: SettingsError when the expression is wrong or never fits.
    """
    try:
        return next(CronSim(expression, now))
    except (CronSimError, StopIteration) as error:
        raise SettingsError(
            f"CLEANUP_SCHEDULE={expression!r}: expected a cron expression such as '*/10 * * * *' ({error})"
        ) from error


class CronClock:
    """A clock whose ``sleep`` ends when the expression is due next, whatever delay it was asked for.

    With it ``lib.lifecycle.every`` runs by the calendar (UTC) instead of by an interval.
    """

    def __init__(self, expression: str, clock: Clock) -> None:
        next_after(expression, clock.now())
        self._expression = expression
        self._clock = clock

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def now(self) -> datetime:
        return self._clock.now()

    async def sleep(self, delay_s: float) -> None:
        now = self._clock.now()
        await self._clock.sleep((next_after(self._expression, now) - now).total_seconds())
