"""Places that take files by PUT: with moods of their own, and without keeping large bodies in memory."""

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import Self

from aiohttp import web


@dataclass(slots=True)
class S3Stub:
    """Answers PUT like a store; an async context manager. The next answers have ``statuses``, then it is well.

    ``stored`` has what was taken: path to (body, content type); of bodies over 1 MB only the digest. A hanging stub
    reads nothing until ``release`` is set; a cutting one closes the connection as often as ``cuts`` says.
    """

    statuses: list[int] = field(default_factory=list)
    hanging: bool = False
    cuts: int = 0
    body: bytes = b""
    stored: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    headers: list[dict[str, str]] = field(default_factory=list)
    asked: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""
    _runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.release.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.headers.append(dict(request.headers))
        self.arrived.set()
        if self.hanging:
            await self.release.wait()
        if self.cuts:
            self.cuts -= 1
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        taken, digest = b"", hashlib.sha256()
        async for part in request.content.iter_chunked(1 << 18):
            digest.update(part)
            taken = taken + part if len(taken) < 1 << 20 else taken
        if self.statuses and (status := self.statuses.pop(0)):
            return web.Response(status=status, body=self.body, headers={"Location": "/elsewhere"})
        large = len(taken) >= 1 << 20
        self.stored[request.path] = (digest.digest() if large else taken, request.headers.get("Content-Type", ""))
        return web.Response(headers={"ETag": '"1"'})
