"""A clock that is turned by hand."""

import asyncio
import heapq
from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 1, tzinfo=UTC)


class FakeClock:
    """Implements ``lib.clock.Clock``; ``await advance(s)`` moves time and wakes who slept long enough."""

    def __init__(self) -> None:
        self._elapsed_s = 0.0
        self._set_by_s = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def monotonic(self) -> float:
        return self._elapsed_s

    def now(self) -> datetime:
        return START + timedelta(seconds=self._elapsed_s + self._set_by_s)

    def set(self, by_s: float) -> None:
        """Somebody sets the wall clock, forward or (negative) back; no time passes."""
        self._set_by_s += by_s

    async def sleep(self, delay_s: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._elapsed_s + delay_s, self._count, future))
        await future

    async def advance(self, seconds: float) -> None:
        """Move time forward, waking sleepers in order and letting each one run."""
        end = self._elapsed_s + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self._elapsed_s, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
            await settle()
        self._elapsed_s = end
        await settle()


async def settle(turns: int = 20) -> None:
    """Let everything that is ready run; no time passes."""
    for _ in range(turns):
        await asyncio.sleep(0)
