"""Time as a dependency, so that tests can turn it by hand."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """``monotonic`` measures (seconds), ``now`` stamps (aware UTC), ``sleep`` waits (seconds)."""

    def monotonic(self) -> float: ...

    def now(self) -> datetime: ...

    async def sleep(self, delay_s: float) -> None: ...


class SystemClock:
    """The machine's own clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
