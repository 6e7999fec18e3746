"""Calls back at moments of the monotonic clock: the one sleeper of the dispatcher, however many things wait."""

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from lib.clock import Clock

NEVER = float("inf")
APART_S = 0.005
"""What comes due within this time of a ringing waits for the next: with thousands a second nobody is woken for each."""


class Alarm:
    """``run`` is a loop for ``lib.lifecycle.Tasks``; calls are made in the order of their moments."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: list[tuple[float, int, Callable[[str], None], str]] = []
        self._numbers = count()
        self._earlier = asyncio.Event()
        self._asleep_until = NEVER
        self._rang_at = -NEVER

    def at(self, moment: float, call: Callable[[str], None], about: str) -> None:
        """Call ``call(about)`` at this moment, or soon if it is past. It can't be taken back: who is called looks
        whether it still matters."""
        heappush(self._due, (moment, next(self._numbers), call, about))
        if self._ringing(moment) < self._asleep_until:
            self._earlier.set()

    async def run(self) -> None:
        """Sleep and call, for ever."""
        while True:
            await self._sleep()
            self._ring()

    def _ringing(self, moment: float) -> float:
        """When a moment is rung."""
        return moment if moment <= self._rang_at else max(moment, self._rang_at + APART_S)

    def _ring(self) -> None:
        now = self._rang_at = self._clock.monotonic()
        while self._due and self._due[0][0] <= now:
            _, _, call, about = heappop(self._due)
            call(about)

    async def _sleep(self) -> None:
        self._earlier.clear()
        self._asleep_until = self._ringing(self._due[0][0]) if self._due else NEVER
        delay_s = self._asleep_until - self._clock.monotonic()
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        if self._asleep_until == NEVER:
            await self._earlier.wait()
            return
        async with asyncio.TaskGroup() as group:
            either = {group.create_task(self._earlier.wait()), group.create_task(self._clock.sleep(delay_s))}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            for task in either:
                task.cancel()
