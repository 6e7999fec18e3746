"""What jobs meet outside: a slow place that inputs come from, and a slow place that outputs go to. In our process."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web


@dataclass(slots=True, kw_only=True)
class Neighbours:
    """``GET <base_url>/picture/<n>.png`` answers after ``input_s``, ``PUT <base_url>/put/<n>`` after ``upload_s``.

    ``received`` are the sizes in bytes of what was PUT, by name.
    """

    input_s: float = 0.0
    upload_s: float = 0.0
    base_url: str = ""
    received: dict[str, int] = field(default_factory=dict)

    async def picture(self, request: web.Request) -> web.Response:
        """A picture that no other number gives."""
        await asyncio.sleep(self.input_s)
        return web.Response(body=small_png(int(request.match_info["number"])), content_type="image/png")

    async def put(self, request: web.Request) -> web.Response:
        """Take a file in, and forget it but for its size."""
        size = 0
        async for chunk in request.content.iter_any():
            size += len(chunk)
        self.received[request.match_info["name"]] = size
        await asyncio.sleep(self.upload_s)
        return web.Response()


@asynccontextmanager
async def neighbours(*, input_s: float, upload_s: float) -> AsyncIterator[Neighbours]:
    """Serve both on a free loopback port."""
    both = Neighbours(input_s=input_s, upload_s=upload_s)
    routes = [web.get("/picture/{number}.png", both.picture), web.put("/put/{name}", both.put)]
    async with serving(routes) as both.base_url:
        yield both


@asynccontextmanager
async def serving(routes: Sequence[web.RouteDef]) -> AsyncIterator[str]:
    """Serve routes on a free loopback port; give their base URL."""
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def small_png(number: int, side: int = 128) -> bytes:
    """A picture of one colour, ``side`` x ``side`` pixels, of its own for each number."""
    pixel = (number & 0xFFFFFF).to_bytes(3, "big")
    rows = (b"\0" + pixel * side) * side
    header = side.to_bytes(4, "big") * 2 + bytes((8, 2, 0, 0, 0))
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
