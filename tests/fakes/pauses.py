"""The hand-turned clock for code that also talks over real sockets: it tells when somebody has fallen asleep."""

import asyncio

from tests.fakes.clock import FakeClock


class PauseClock(FakeClock):
    """``pauses`` lists every requested sleep; ``await asleep(n)`` returns when the n-th one (from 1) was requested,
    ``await asleep(n, of_s=2.0)`` when the n-th of this length was, ``await resting(n)`` when n sleep at once."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []
        self._asked = asyncio.Event()
        self._sleeping = 0

    async def sleep(self, delay_s: float) -> None:
        self.pauses.append(delay_s)
        self._sleeping += 1
        self._asked.set()
        try:
            await super().sleep(delay_s)
        finally:
            self._sleeping -= 1

    async def asleep(self, count: int, *, of_s: float | None = None, timeout_s: float = 60.0) -> None:
        async with asyncio.timeout(timeout_s):
            while sum(of_s in (None, pause) for pause in self.pauses) < count:
                self._asked.clear()
                await self._asked.wait()

    async def resting(self, count: int, *, timeout_s: float = 60.0) -> None:
        async with asyncio.timeout(timeout_s):
            while self._sleeping < count:
                self._asked.clear()
                await self._asked.wait()
