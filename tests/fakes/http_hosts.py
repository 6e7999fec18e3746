"""Foreign web hosts of every temper on loopback: good, slow, huge, redirecting inward, lying; and a name server.

``WebHost`` serves files and records what it was asked; ``Names`` is a look-up that tests (and ``AddressGuard``) use.
"""

import asyncio
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from aiohttp import web


def png(width: int = 2, height: int = 2, *, shade: int = 128) -> bytes:
    """A real PNG of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes([shade]) * width) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


class Names:
    """A name server in the form of a look-up: each name has a list of answers, given in turn, the last one for ever."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self._answers = {name.replace("_", "."): list(given) for name, given in answers.items()}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        given = self._answers.get(host)
        if given is None:
            raise OSError(-2, "Name or service not known")
        return given.pop(0) if len(given) > 1 else given[0]


@dataclass(slots=True)
class Seen:
    """One request that the host received."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass(slots=True)
class WebHost:
    """A web server on loopback; an async context manager. Paths under ``files`` are served as they are.

    Special paths: ``/status/<n>``, ``/to?<url>`` (redirect), ``/loop``, ``/endless`` (never stops), ``/hang`` (never
    answers until ``release`` is set), ``/drip`` (headers, then nothing), ``/cut`` (breaks off), ``/gated`` (waits for
    ``release``, then a PNG), ``/flaky`` (503 as often as ``failures`` says, then a PNG), ``/hook`` (answers a POST with
    the next of ``statuses``, the last one for ever where ``stuck``, and with ``retry_after``).

    ``most`` is how many requests it had at the same time.
    """

    address: str = "127.0.0.1"
    files: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    failures: int = 0
    statuses: list[int] = field(default_factory=list)
    stuck: bool = False
    retry_after: str | None = None
    most: int = 0
    seen: list[Seen] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    _open: int = 0
    _runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.address, 0)
        await site.start()
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.release.set()
        if self._runner is not None:
            await self._runner.cleanup()

    def url(self, path: str, *, host: str | None = None) -> str:
        return f"http://{host or self.address}:{self.port}{path}"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self._open += 1
        self.most = max(self.most, self._open)
        try:
            return await self._answered(request)
        finally:
            self._open -= 1

    async def _answered(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.seen.append(Seen(method=request.method, path=request.path, headers=dict(request.headers), body=body))
        self.arrived.set()
        if request.path in self.files:
            return self._file(request)
        name, _, argument = request.path.strip("/").partition("/")
        if name == "status":
            return web.Response(status=int(argument))
        if name == "to":
            return web.Response(status=302, headers={"Location": request.query_string})
        special = getattr(self, f"_on_{name}", None)
        return web.Response(status=404) if special is None else await special(request)

    def _file(self, request: web.Request) -> web.Response:
        content, mime_type = self.files[request.path]
        etag = self.etags.get(request.path)
        if etag is not None and request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers={"ETag": etag})
        headers = {"Content-Type": mime_type} | ({"ETag": etag} if etag else {})
        return web.Response(body=content, headers=headers)

    async def _on_loop(self, request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/loop"})

    async def _on_endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(png())
        while True:
            await response.write(bytes(65536))

    async def _on_hang(self, request: web.Request) -> web.Response:
        await self.release.wait()
        return web.Response()

    async def _on_drip(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(png()[:10])
        await self.release.wait()
        return response

    async def _on_cut(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100000"})
        await response.prepare(request)
        await response.write(png())
        assert request.transport is not None
        request.transport.close()
        return response

    async def _on_gated(self, request: web.Request) -> web.Response:
        await self.release.wait()
        return web.Response(body=png(), content_type="image/png")

    async def _on_flaky(self, request: web.Request) -> web.Response:
        if self.failures:
            self.failures -= 1
            return web.Response(status=503)
        return web.Response(body=png(), content_type="image/png")

    async def _on_hook(self, request: web.Request) -> web.Response:
        status = 200
        if self.statuses:
            status = self.statuses[0] if self.stuck and len(self.statuses) == 1 else self.statuses.pop(0)
        return web.Response(status=status, headers={"Retry-After": self.retry_after} if self.retry_after else {})
