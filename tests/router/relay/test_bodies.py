"""Bodies are held whole, small ones in memory, all others on disk, each for any number of readers."""

import gzip
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from lib.errors import BodyTooLarge, ServiceError
from lib.serving.payloads import json_response
from router.relay.bodies import IN_MEMORY, Bodies, Held


async def sent(held: Held) -> bytes:
    body = held.to_send()
    return body if isinstance(body, bytes) else b"".join([piece async for piece in body])


@asynccontextmanager
async def listener(bodies: Bodies) -> AsyncIterator[str]:
    """Tells of each body where it was kept, and whether it came whole, twice."""

    async def handle(request: web.Request) -> web.Response:
        try:
            async with bodies.held(request) as held:
                whole = await held.whole()
                same = await sent(held) == await sent(held) == whole
                return json_response({"large": held.is_large, "same": same, "size": held.size, "told": held.length})
        except ServiceError as error:
            return json_response({"error": error.code}, status=413 if isinstance(error, BodyTooLarge) else 429)

    app = web.Application(client_max_size=2**30)
    app.router.add_post("/", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def chunks(body: bytes) -> AsyncIterator[bytes]:
    yield body[: len(body) // 2]
    yield body[len(body) // 2 :]


@pytest.mark.parametrize(
    ("size", "packed", "chunked", "large"),
    [
        (0, False, False, False),
        (1000, False, False, False),
        (IN_MEMORY - 1, False, False, False),
        (IN_MEMORY + 1, False, False, True),
        (2 * IN_MEMORY, True, False, True),
        (2 * IN_MEMORY, False, True, True),
    ],
)
async def test_a_body_is_held_whole(tmp_path: Path, size: int, packed: bool, chunked: bool, large: bool) -> None:
    """In memory or in a file that is gone afterwards."""
    body = b"x" * size
    data = gzip.compress(body) if packed else chunks(body) if chunked else io.BytesIO(body)
    headers = {"Content-Encoding": "gzip"} if packed else {}
    bodies = Bodies(tmp_path, max_bytes=4 * IN_MEMORY)
    async with (
        listener(bodies) as url,
        aiohttp.ClientSession() as http,
        http.post(url, data=data, headers=headers) as response,
    ):
        told = await response.json()
    assert told == {"large": large, "same": True, "size": size, "told": {"Content-Length": str(size)}}
    assert not list(tmp_path.iterdir())


async def test_memory_is_bounded(tmp_path: Path) -> None:
    """What fits no more goes to disk, however small."""
    bodies = Bodies(tmp_path, max_bytes=IN_MEMORY, most_memory=500)
    async with listener(bodies) as url, aiohttp.ClientSession() as http:
        for size, large in ((400, False), (600, True), (400, False)):
            async with http.post(url, data=b"x" * size) as response:
                assert (await response.json())["large"] is large


async def test_a_disk_that_fails_is_told(tmp_path: Path) -> None:
    """To who sends a large body; small ones need none."""
    async with listener(Bodies(tmp_path / "gone", max_bytes=4 * IN_MEMORY)) as url, aiohttp.ClientSession() as http:
        for size, told in ((IN_MEMORY + 1, "not_ready"), (IN_MEMORY, None)):
            async with http.post(url, data=io.BytesIO(b"x" * size)) as response:
                assert (await response.json()).get("error") == told


@pytest.mark.parametrize("packed", [False, True])
async def test_nothing_over_the_limit_is_held(tmp_path: Path, packed: bool) -> None:
    """By its own word, or by what it becomes."""
    body = b"x" * 3 * IN_MEMORY
    data, headers = (gzip.compress(body), {"Content-Encoding": "gzip"}) if packed else (chunks(body), {})
    async with (
        listener(Bodies(tmp_path, max_bytes=2 * IN_MEMORY)) as url,
        aiohttp.ClientSession() as http,
        http.post(url, data=data, headers=headers) as response,
    ):
        assert response.status == 413
