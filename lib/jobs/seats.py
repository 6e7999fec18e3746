"""Room for work that goes on at the same time, bounded by count and by bytes; first come, first served."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Seats:
    """At most ``count`` at a time, and no more than ``most_bytes`` together; what is larger than that sits alone."""

    def __init__(self, count: int, *, most_bytes: int | None = None) -> None:
        self._free = count
        self._most_bytes = most_bytes
        self._taken_count = 0
        self._taken_bytes = 0
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def taken_count(self) -> int:
        return self._taken_count

    @asynccontextmanager
    async def seat(self, size_bytes: int = 0) -> AsyncIterator[None]:
        """Wait for a seat and hold it inside the block."""
        if self._line or not self._room(size_bytes):
            await self._wait(size_bytes)
        else:
            self._take(size_bytes)
        try:
            yield
        finally:
            self._leave(size_bytes)

    def _room(self, size_bytes: int) -> bool:
        if self._free <= 0:
            return False
        return self._most_bytes is None or not self._taken_count or self._taken_bytes + size_bytes <= self._most_bytes

    def _take(self, size_bytes: int) -> None:
        self._free -= 1
        self._taken_count += 1
        self._taken_bytes += size_bytes

    def _leave(self, size_bytes: int) -> None:
        self._free += 1
        self._taken_count -= 1
        self._taken_bytes -= size_bytes
        self._admit()

    async def _wait(self, size_bytes: int) -> None:
        """Stand in line; the seat is taken for us before we are woken, so that nobody slips in between."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size_bytes, turn)
        self._line.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(size_bytes)
            elif entry in self._line:
                self._line.remove(entry)
                self._admit()
            raise

    def _admit(self) -> None:
        while self._line and self._room(self._line[0][0]):
            size_bytes, turn = self._line.popleft()
            if turn.done():
                continue
            self._take(size_bytes)
            turn.set_result(None)
