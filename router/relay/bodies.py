"""Bodies of requests, held until a worker has answered, so that another one can have them too. Large ones on disk."""

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import BinaryIO

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from lib.errors import BodyTooLarge, InvalidRequest, NotReady
from lib.serving.payloads import PACE, Room, give_up_body, read_body

log = logging.getLogger(__name__)

IN_MEMORY = 1024 * 1024
"""Larger bodies are written to a file that has no name."""
MOST_MEMORY = 256 * 1024 * 1024
"""When bodies take so much of memory, small ones go to disk too."""
MOST_TIMES = 16
"""Together bodies take so many times the largest that is allowed."""
LEAST_ROOM = 1024**3
PIECE = 256 * 1024
AGAIN_S = 10.0


class Held:
    """A body, as bytes or in a file; good for any number of readers."""

    __slots__ = ("_bytes", "_file", "size")

    def __init__(self, content: bytes | BinaryIO, *, size: int) -> None:
        self._bytes = content if isinstance(content, bytes) else None
        self._file = None if isinstance(content, bytes) else content
        self.size = size

    @property
    def length(self) -> dict[str, str]:
        """The header that goes with what ``to_send`` gives."""
        return {"Content-Length": str(self.size)}

    @property
    def is_large(self) -> bool:
        """Whether it is in a file."""
        return self._file is not None

    def to_send(self) -> bytes | AsyncIterator[bytes]:
        """The body for one more worker."""
        return self._bytes if self._bytes is not None else self._pieces()

    async def whole(self) -> bytes:
        """The whole of it in memory."""
        if self._bytes is not None or self._file is None:
            return self._bytes or b""
        return await asyncio.to_thread(os.pread, self._file.fileno(), self.size, 0)

    async def _pieces(self) -> AsyncIterator[bytes]:
        number = self._file.fileno() if self._file is not None else -1
        for begin in range(0, self.size, PIECE):
            yield await asyncio.to_thread(os.pread, number, PIECE, begin)


class Bodies:
    """Reads bodies. ``folder`` is on a disk: a temporary file system would be memory again."""

    def __init__(self, folder: Path, *, max_bytes: int, most_memory: int = MOST_MEMORY) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._most_memory = most_memory
        self._memory = 0
        self._room = Room(max(MOST_TIMES * max_bytes, LEAST_ROOM))

    @asynccontextmanager
    async def held(self, request: web.Request) -> AsyncIterator[Held]:
        """The request's body, as long as this is open. Raises: BodyTooLarge, InvalidRequest (broken encoding),
        Overloaded (too many large ones), NotReady (the disk takes no large one), HTTPRequestTimeout."""
        if (request.content_length or 0) > self._max_bytes:
            raise self._too_large()
        with self._room.taken() as grow:
            if self._is_small(request):
                with self._in_memory(request.content_length or 0):
                    body = await read_body(request, limit=self._max_bytes, grow=grow)
                    yield Held(body, size=len(body))
            else:
                with await asyncio.to_thread(self._file) as file:
                    yield Held(file, size=await self._spill(request, file, grow))

    def _is_small(self, request: web.Request) -> bool:
        """Whether the body may be kept in memory; the size of a packed one is not known before."""
        length = request.content_length
        if length is None or hdrs.CONTENT_ENCODING in request.headers:
            return False
        return length <= IN_MEMORY and self._memory + length <= self._most_memory

    @contextmanager
    def _in_memory(self, size: int) -> Iterator[None]:
        self._memory += size
        try:
            yield
        finally:
            self._memory -= size

    def _file(self) -> BinaryIO:
        try:
            return tempfile.TemporaryFile(dir=self._folder, buffering=0)
        except OSError as error:
            raise _no_disk(error) from error

    async def _spill(self, request: web.Request, file: BinaryIO, grow: Callable[[int], None]) -> int:
        size, begun = 0, asyncio.get_running_loop().time() + PACE.patience_s
        try:
            async with asyncio.timeout_at(begun) as until:
                while chunk := await _piece(request):
                    size += len(chunk)
                    if size > self._max_bytes:
                        raise self._too_large()
                    grow(size)
                    await self._write(file, chunk)
                    until.reschedule(begun + size / PACE.least_bytes_s)
        except TimeoutError:
            raise web.HTTPRequestTimeout(text="The body came too slowly") from None
        except (web.RequestPayloadError, HttpProcessingError) as error:
            give_up_body(request)
            raise InvalidRequest("The body's encoding is broken") from error
        return size

    async def _write(self, file: BinaryIO, chunk: bytes) -> None:
        try:
            await asyncio.to_thread(_write, file, chunk)
        except OSError as error:
            raise _no_disk(error) from error

    def _too_large(self) -> BodyTooLarge:
        limit = self._max_bytes
        return BodyTooLarge(f"The body is larger than {limit} bytes", details={"limit_bytes": limit})


def _write(file: BinaryIO, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:
        left = left[file.write(left) :]


def _no_disk(error: OSError) -> NotReady:
    log.error("a large body can't be kept", extra={"event": "relay.no_disk", "reason": error.strerror})
    return NotReady("Large requests can't be taken now: the router's disk does not work.", retry_after_s=AGAIN_S)


async def _piece(request: web.Request) -> bytes:
    """What came so far, at least ``PIECE`` or the rest: a thread for each packet would cost more than the packet."""
    chunks, size = [], 0
    while size < PIECE and (chunk := await request.content.readany()):
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    """A large body bit by bit: written at once it would hold the event loop up."""
    for begin in range(0, len(body), PIECE):
        yield body[begin : begin + PIECE]
