"""Room for work that goes on at the same time, bounded by count and by bytes; first come, first served."""

import asyncio
from collections import deque


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

    def seat(self, size_bytes: int = 0) -> "Seat":
        """Wait for a seat and hold it inside the block."""
        return Seat(self, size_bytes)

    async def take(self, size_bytes: int) -> None:
        """Wait for a seat; ``leave`` gives it back."""
        if self._line or not self._room(size_bytes):
            await self._wait(size_bytes)
        else:
            self._take(size_bytes)

    def leave(self, size_bytes: int) -> None:
        """Give a seat back."""
        self._free += 1
        self._taken_count -= 1
        self._taken_bytes -= size_bytes
        self._admit()

    def vacate(self) -> None:
        """Somebody steps aside: the next one may come in. What he has brought along stays, and counts."""
        self._free += 1
        self._admit()

    def reoccupy(self) -> None:
        """He is back, and does not wait: nobody comes in before there is a free seat again."""
        self._free -= 1

    def _room(self, size_bytes: int) -> bool:
        if self._free <= 0:
            return False
        return self._most_bytes is None or not self._taken_count or self._taken_bytes + size_bytes <= self._most_bytes

    def _take(self, size_bytes: int) -> None:
        self._free -= 1
        self._taken_count += 1
        self._taken_bytes += size_bytes

    async def _wait(self, size_bytes: int) -> None:
        """Stand in line; the seat is taken for us before we are woken, so that nobody slips in between."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size_bytes, turn)
        self._line.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(size_bytes)
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


class Seat:
    """One seat, held inside the block. A class, since each job sits down twice and a generator costs three times as
    much."""

    __slots__ = ("_away", "_seats", "_size_bytes")

    def __init__(self, seats: Seats, size_bytes: int) -> None:
        self._seats = seats
        self._size_bytes = size_bytes
        self._away = 0

    async def __aenter__(self) -> None:
        await self._seats.take(self._size_bytes)

    async def __aexit__(self, *exc: object) -> None:
        self._seats.leave(self._size_bytes)

    def aside(self) -> "Away":
        """Let somebody else sit here inside the block, where nothing is done but to wait for something slow. Several
        at a time are as one."""
        return Away(self)

    def left(self) -> None:
        """Its owner has one more thing to wait for."""
        self._away += 1
        if self._away == 1:
            self._seats.vacate()

    def back(self) -> None:
        """One of them is there."""
        self._away -= 1
        if not self._away:
            self._seats.reoccupy()


class Away:
    """A block inside which a seat is somebody else's."""

    __slots__ = ("_seat",)

    def __init__(self, seat: Seat) -> None:
        self._seat = seat

    def __enter__(self) -> None:
        self._seat.left()

    def __exit__(self, *exc: object) -> None:
        self._seat.back()
