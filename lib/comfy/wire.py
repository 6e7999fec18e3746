"""Small calls to one ComfyUI over connections that stay open: plain HTTP/1.1, answers of a known length, nothing else.

Every job makes two such calls, and a general client was the largest part of what a tiny job costs us. Whatever is not
as plain as ComfyUI's own answers (TLS, a login, a proxy that compresses or chunks) is left to that client: see
``usable`` and ``NotPlain``.
"""

import asyncio
import re
from collections.abc import Sequence
from typing import cast

from yarl import URL

KEPT_S = 60.0
"""A connection that was idle for longer is not used again: ComfyUI closes it after 75 s."""
MOST_HEAD_BYTES = 32 * 1024
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})[ \r]")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,15})[ \t]*\r\n", re.IGNORECASE)
_FOREIGN = re.compile(rb"\r\n(transfer-encoding|content-encoding):", re.IGNORECASE)
_LAST = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)

Answer = tuple[int, bytes]
"""Status and body."""


class Unconnected(OSError):
    """Nobody listens there: nothing was sent."""


class NotPlain(ConnectionError):
    """The answer is none that we read here; the request may have been done."""


class Wire:
    """Calls one ComfyUI; as many connections as there are calls at a time. Each may take ``timeout_s`` to connect, and
    as long again to be answered."""

    def __init__(self, base: URL, *, timeout_s: float) -> None:
        self.usable = base.scheme == "http" and base.raw_user is None and base.host is not None
        """Whether calls may go this way; no longer once an answer was not plain."""
        self.kept = False
        """Whether connections stay open between calls; ``close`` ends that."""
        self._timeout_s = timeout_s
        self._host, self._port = base.host or "", base.port or 80
        self._head = f"Host: {base.authority}\r\nUser-Agent: comfyui-pyworker\r\nAccept: */*\r\n".encode()
        self._idle: list[_Connection] = []

    async def call(self, method: str, target: str, body: bytes | None = None, *, once: bool = False) -> Answer:
        """Send a request and return its answer. ``target`` is a path as it goes over the wire. One that a kept
        connection was closed on is sent again, unless it may be done ``once`` only.

        Raises: Unconnected, TimeoutError, ConnectionError (NotPlain among them)."""
        request = self._request(method, target, body)
        connection = self._reusable()
        if connection is not None and not once:
            try:
                return await self._on(connection, request)
            except NotPlain:
                raise
            except ConnectionError:  # it was closed while we sent
                connection = None
        return await self._on(connection or await self._connected(), request)

    def close(self) -> None:
        """Close what is idle; what is in use is closed after its call."""
        self.kept = False
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _request(self, method: str, target: str, body: bytes | None) -> list[bytes]:
        head = f"{method} {target} HTTP/1.1\r\n".encode() + self._head
        if body is None:
            return [head, b"\r\n"]
        return [head, b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body), body]

    def _reusable(self) -> "_Connection | None":
        oldest = asyncio.get_running_loop().time() - KEPT_S
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and connection.idle_since > oldest:
                return connection
            connection.close()
        return None

    async def _connected(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                _, connection = await loop.create_connection(_Connection, self._host, self._port)
        except TimeoutError:
            raise
        except OSError as error:
            raise Unconnected(error.errno, error.strerror or str(error)) from error
        return connection

    async def _on(self, connection: "_Connection", request: Sequence[bytes]) -> Answer:
        whole, loop = False, asyncio.get_running_loop()
        late = loop.call_later(self._timeout_s, connection.give_up)
        try:
            answer = await connection.ask(request)
            whole = True
        except NotPlain:
            self.usable = False
            raise
        finally:
            late.cancel()
            if whole and self.kept and not connection.closed:
                connection.idle_since = loop.time()
                self._idle.append(connection)
            else:
                connection.close()
        return answer


class _Connection(asyncio.Protocol):
    """One connection, one call at a time."""

    def __init__(self) -> None:
        self.idle_since = 0.0
        self.closed = False
        """It can't be asked any more."""
        self._transport: asyncio.WriteTransport
        self._answer: asyncio.Future[Answer] | None = None
        self._buffer = bytearray()
        self._status = 0
        self._start = 0
        """Where the body begins; 0: not known yet."""
        self._end = 0

    def ask(self, request: Sequence[bytes]) -> "asyncio.Future[Answer]":
        """Send a request. The future has ConnectionError when there is no answer to it."""
        self._answer = asyncio.get_running_loop().create_future()
        self._start = self._end = 0
        if self.closed:
            self._answer.set_exception(ConnectionResetError("it closed the connection"))
        else:
            self._transport.writelines(request)
        return self._answer

    def give_up(self) -> None:
        """No answer came in time."""
        self._fail(TimeoutError("no answer came in time"))

    def close(self) -> None:
        self.closed = True
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's are no subclasses of it

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if isinstance(error, ConnectionError):
            self._fail(error)
        else:
            self._fail(ConnectionResetError(str(error or "it closed the connection")))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._start:
            self._read_head()
        if self._start and len(self._buffer) >= self._end:
            self._done()

    def _read_head(self) -> None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MOST_HEAD_BYTES:
                self._fail(NotPlain("the head of its answer has no end"))
            return
        head = bytes(self._buffer[: end + 4])
        status, length = _STATUS.match(head), _LENGTH.search(head)
        if status is None or length is None or _FOREIGN.search(head) is not None:
            self._fail(NotPlain("its answer is not of a known length"))
            return
        self._status, self._start = int(status[1]), end + 4
        self._end = self._start + int(length[1])
        self.closed = self.closed or _LAST.search(head) is not None

    def _done(self) -> None:
        body, more = bytes(self._buffer[self._start : self._end]), len(self._buffer) > self._end
        self._buffer.clear()
        if more or self._answer is None or self._answer.done():  # nobody asked for that
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((self._status, body))

    def _fail(self, error: ConnectionError | TimeoutError) -> None:
        self.closed = True
        self._buffer.clear()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
