"""Bodies of jobs on their way into the store: read and sized, and together never more than there is room for."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiohttp import web

from lib.serving.payloads import Room, read_body
from router.relay.jobs.forms import Dialect
from router.relay.ports import Sizing, Visitor, Work

MOST_BODIES, LEAST_ROOM = 4, 512 * 1024 * 1024
"""Together they take so many times the largest that is allowed, or so many bytes."""


class Intake:
    """What is read here counts as long as the context is open."""

    def __init__(self, sizing: Sizing, *, max_body_bytes: int) -> None:
        self._sizing = sizing
        self._max_body_bytes = max_body_bytes
        self._room = Room(max(MOST_BODIES * max_body_bytes, LEAST_ROOM))

    @asynccontextmanager
    async def read(
        self, request: web.Request, *, visitor: Visitor, dialect: Dialect
    ) -> AsyncIterator[tuple[bytes, Work]]:
        """The request's body, and what it is worth. Raises: BodyTooLarge, InvalidRequest, Overloaded (no room),
        HTTPRequestTimeout."""
        with self._room.taken() as grow:
            body = await read_body(request, limit=self._max_body_bytes, grow=grow)
            yield body, await self._sizing.work(visitor.endpoint, dialect, body)

    @contextmanager
    def counted(self, body: bytes) -> Iterator[None]:
        """A body that somebody else has read. Raises: Overloaded."""
        with self._room.taken() as grow:
            grow(len(body))
            yield
