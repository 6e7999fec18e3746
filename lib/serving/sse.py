"""Server-sent events: headers, frames, heartbeats, readers that are slow or gone. Knows nothing of what is told.

A stream holds no backlog: ``send`` returns when the reader has taken what was written, so that its caller, who pulls
snapshots, goes on with the newest one. Nothing of one stream waits for another.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from lib.clock import Clock
from lib.lifecycle import Tasks, every
from lib.serving.payloads import dumps

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "Connection": "keep-alive",
    "X-Accel-Buffering": "no",
}
RECONNECT_S = 2.0
"""What a browser is told to wait before it comes back."""
BUFFER_BYTES = 16 * 1024
"""A reader with more than this unsent is slow."""
STALLED_BEATS = 8
"""A reader that took nothing for so many half heartbeats is gone."""
SETTLE_S = 2.0
"""When the worker goes, streams of jobs that are over have so long to say how they ended."""
_BATCH = 100
_HEARTBEAT = b":\n\n"
_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)


def encode(data: Any, *, event_id: str | None = None) -> bytes:
    """Return one event: JSON in a single ``data`` line, with an ``id`` line before it where there is one."""
    if event_id is None:
        return b"data: %b\n\n" % dumps(data)
    return b"id: %b\ndata: %b\n\n" % (event_id.encode(), dumps(data))


class EventStreams:
    """All open streams of a process: keeps them alive, and ends them when the worker goes.

    ``interval_s`` is the shortest time between two events of one stream in the long run.
    """

    def __init__(self, *, tasks: Tasks, clock: Clock, heartbeat_s: float, interval_s: float = 0.0) -> None:
        self._tasks = tasks
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._interval_s = interval_s
        self._open: set[EventStream] = set()
        self._none_open = asyncio.Event()
        self._beating = False
        self._closed = False

    @property
    def open_count(self) -> int:
        return len(self._open)

    def open(self, request: web.Request, *, farewell: bytes) -> "EventStream":
        """Return the answer to ``request``, to be entered. ``farewell`` is its last event if the worker goes first."""
        return EventStream(request, self, clock=self._clock, interval_s=self._interval_s, farewell=farewell)

    async def settle(self) -> None:
        """Let streams that are about to end by themselves do so; call it when no job goes on, before ``close``."""
        if self._open:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_S):
                    await self._none_open.wait()

    def close(self) -> None:
        """End every stream, also those that are opened from now on, with its farewell."""
        self._closed = True
        for stream in self._open:
            stream.expire()

    def entered(self, stream: "EventStream") -> None:
        """Keep this stream alive from now on."""
        self._open.add(stream)
        self._none_open.clear()
        if self._closed:
            stream.expire()
        if not self._beating:
            self._beating = True
            beats = every(self._heartbeat_s / 2, self._beat, name="event streams", clock=self._clock)
            self._tasks.spawn(beats, name="event streams")

    def left(self, stream: "EventStream") -> None:
        """Forget it."""
        self._open.discard(stream)
        if not self._open:
            self._none_open.set()

    async def _beat(self) -> None:
        for number, stream in enumerate(tuple(self._open), start=1):
            await stream.beat()
            if number % _BATCH == 0:
                await asyncio.sleep(0)  # others get their turn


class EventStream:
    """One answer, while it is entered. A reader that went away ends the block silently; a worker that goes ends it
    with the farewell."""

    def __init__(
        self, request: web.Request, streams: EventStreams, *, clock: Clock, interval_s: float, farewell: bytes
    ) -> None:
        self.response = web.StreamResponse(headers=HEADERS)
        self._request = request
        self._protocol = request.protocol
        self._streams = streams
        self._clock = clock
        self._interval_s = interval_s
        self._farewell = farewell
        self._limit = asyncio.timeout(None)
        self._due = 0.0
        self._rests_until = 0.0
        self._wrote = True
        self._silent_beats = 0
        self._inside = False
        self._chunked = False

    async def __aenter__(self) -> Self:
        await self.response.prepare(self._request)
        _limit_buffers(self._request.transport)
        self._chunked = self.response.headers.get("Transfer-Encoding") == "chunked"
        await self.response.write(b"retry: %d\n\n" % (RECONNECT_S * 1000))
        await self._limit.__aenter__()
        self._inside = True
        self._streams.entered(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._inside = False
        self._streams.left(self)
        try:
            await self._limit.__aexit__(kind, error, trace)
        except TimeoutError:
            with contextlib.suppress(ConnectionError):
                await self.response.write(self._farewell)
            return True
        return isinstance(error, ConnectionError)

    async def send(self, event: bytes) -> None:
        """Write an event; return when the next one may follow. Raises ConnectionError when nobody listens any more."""
        await self.last(event)
        self._pace()
        await self.turn()

    def offer(self, event: Callable[[], bytes]) -> bool:
        """Write an event if one may follow now and somebody listens; ``send`` is for those that are told no."""
        transport = self._request.transport
        if not self._inside or self._protocol.writing_paused or transport is None or transport.is_closing():
            return False
        if self._rests_until and self._clock.monotonic() < self._rests_until:
            return False
        self._write(transport, event())
        self._pace()
        return True

    async def turn(self) -> None:
        """Return when an event may follow. Raises ConnectionError when nobody listens any more."""
        if self._protocol.writing_paused:
            await self._request.writer.drain()
        if self._rests_until and (early_s := self._rests_until - self._clock.monotonic()) > 0:
            await self._clock.sleep(early_s)

    def _pace(self) -> None:
        """The second event within an interval is followed by a rest."""
        if self._interval_s:
            now = self._clock.monotonic()
            self._rests_until = self._due if self._due > now else 0.0
            self._due = max(self._due, now) + self._interval_s

    async def last(self, event: bytes) -> None:
        """Write an event that no other will follow, without a pause. Raises ConnectionError."""
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the reader is gone")
        self._write(transport, event)

    def _write(self, transport: asyncio.WriteTransport, event: bytes) -> None:
        self._wrote = True
        # Past aiohttp's writer, which costs as much again: thousands of streams may have news at the same moment.
        transport.write(b"%x\r\n%b\r\n" % (len(event), event) if self._chunked else event)

    def expire(self) -> None:
        """End the block now, wherever it waits."""
        if self._inside:
            self._limit.reschedule(asyncio.get_running_loop().time())

    async def beat(self) -> None:
        """Say something if there was silence; hang up on who does not listen."""
        if not self._inside:
            return
        if self._protocol.writing_paused:
            self._silent_beats += 1
            if self._silent_beats >= STALLED_BEATS and self._request.transport is not None:
                self._request.transport.abort()
            return
        self._silent_beats = 0
        if not self._wrote:
            with contextlib.suppress(ConnectionError):  # its own block notices too
                await self.response.write(_HEARTBEAT)
        self._wrote = False


def _limit_buffers(transport: asyncio.Transport | None) -> None:
    """Have little under way, in our process and in the kernel: what waits there can't be replaced by newer news."""
    if transport is None:
        return
    transport.set_write_buffer_limits(high=BUFFER_BYTES)
    connection = transport.get_extra_info("socket")
    if connection is not None and _LOWAT is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, _LOWAT, BUFFER_BYTES)
