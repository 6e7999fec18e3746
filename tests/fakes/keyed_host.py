"""A web host on loopback that serves one file to those who have a key, and is honest, changed or cut as told."""

from dataclasses import dataclass, field
from typing import Self

from aiohttp import web


@dataclass(slots=True)
class KeyedHost:
    """An async context manager. ``keys`` are the accepted ``Authorization`` headers, or values of ``?token=``; empty:
    anybody is served. ``/moved`` leads to ``elsewhere``. Of the next ``cuts`` answers only half is sent, under the
    length of the whole. ``asked`` has path, query and headers of every request."""

    content: bytes
    keys: set[str] = field(default_factory=set)
    etag: str = ""
    modified: str = ""
    elsewhere: str = ""
    cuts: int = 0
    asked: list[tuple[str, dict[str, str], dict[str, str]]] = field(default_factory=list)
    port: int = 0
    _runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/{tail:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def url(self, path: str = "/a.png", *, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.path, dict(request.query), dict(request.headers)))
        key = request.query.get("token") or request.headers.get("Authorization", "")
        if self.keys and key not in self.keys:
            return web.Response(status=401)
        if request.path == "/moved":
            return web.Response(status=302, headers={"Location": self.elsewhere})
        told = {"ETag": self.etag, "Last-Modified": self.modified}
        headers = {name: value for name, value in told.items() if value}
        etag, since = request.headers.get("If-None-Match"), request.headers.get("If-Modified-Since")
        if (etag or since) and (etag or self.etag) == self.etag and (since or self.modified) == self.modified:
            return web.Response(status=304, headers=headers)
        if self.cuts:
            self.cuts -= 1
            return await self._cut(request, headers)
        return web.Response(body=self.content, content_type="image/png", headers=headers)

    async def _cut(self, request: web.Request, headers: dict[str, str]) -> web.StreamResponse:
        response = web.StreamResponse(headers={**headers, "Content-Length": str(len(self.content))})
        await response.prepare(request)
        await response.write(self.content[: len(self.content) // 2])
        assert request.transport is not None
        request.transport.close()
        return response
