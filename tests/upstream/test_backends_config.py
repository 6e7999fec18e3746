"""Which ComfyUI servers are meant, and under which URLs they are called."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from lib.comfy.client import ComfyClient
from lib.errors import EngineUnreachable
from lib.settings import load_settings

CALLS = [
    "POST /prompt",
    "GET /prompt",
    "GET /queue",
    "POST /queue",
    "GET /history/p1",
    "POST /history",
    "POST /interrupt",
    "POST /free",
    "GET /system_stats",
    "GET /object_info",
    "GET /object_info/SaveImage",
    "GET /ws",
]
"""One of each. Upstream's ``/api/interrupt`` is ComfyUI's other name for ``/interrupt``."""


@pytest.mark.parametrize(
    ("backends", "expected"),
    [
        (None, ("http://one:1",)),
        ("", ("http://one:1",)),
        ("   ", ("http://one:1",)),
        (" , ,,", ("http://one:1",)),
        ("http://a:1", ("http://a:1",)),
        ("http://a:1,http://b:2", ("http://a:1", "http://b:2")),
        ("  http://a:1 , http://b:2  ", ("http://a:1", "http://b:2")),
        ("http://a:1/,http://b:2///", ("http://a:1", "http://b:2")),
        ("http://b:2,http://a:1,http://b:2/,http://a:1", ("http://b:2", "http://a:1")),
        ("http://a:1,,http://b:2,", ("http://a:1", "http://b:2")),
        ("https://a/comfy/,http://b:2/x", ("https://a/comfy", "http://b:2/x")),
    ],
)
def test_the_list_of_backends(backends: str | None, expected: tuple[str, ...]) -> None:
    """Trimmed, slashes off, no duplicates, order kept; without anything in it the single base counts."""
    given = {"COMFYUI_API_BASE": "http://one:1/"} | ({} if backends is None else {"COMFYUI_BACKENDS": backends})
    assert load_settings(given).engine.attached_bases == expected


def test_without_either_no_server_is_named() -> None:
    """Upstream falls back to 127.0.0.1:8188; here one is looked for, or started."""
    assert load_settings({"COMFYUI_BACKENDS": ","}).engine.attached_bases == ()


@pytest.fixture
async def called() -> AsyncIterator[tuple[str, list[str]]]:
    """A server that answers everything, and what it was asked."""
    seen: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(f"{request.method} {request.path}")
        if request.path.endswith("/ws"):
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            await socket.close()
            return socket
        return web.json_response({"queue_running": [], "queue_pending": [], "exec_info": {"queue_remaining": 0}})

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/"), seen


@pytest.mark.parametrize("prefix", ["", "/", "/comfy", "/comfy/", "/a/b//"])
async def test_every_call_goes_below_the_base(called: tuple[str, list[str]], prefix: str) -> None:
    """Exact paths over HTTP and for the socket; a path prefix is kept, trailing slashes change nothing."""
    base, seen = called
    async with aiohttp.ClientSession() as http:
        client = ComfyClient(f"{base}{prefix}", http, timeout_s=60)
        await client.post_prompt(b"{}")
        await client.remaining()
        await client.queue()
        await client.delete("p1")
        await client.history("p1")
        await client.forget(["p1"])
        await client.interrupt("p1")
        await client.free()
        await client.system_stats()
        await client.object_info()
        await client.object_info("SaveImage")
        await (await client.socket("me", heartbeat_s=20)).close()
    method_and_path = [call.partition(" ") for call in CALLS]
    kept = prefix.rstrip("/")
    assert seen == [f"{method} {kept}{path}" for method, _, path in method_and_path]


@pytest.mark.parametrize("call", ["socket", "remaining"])
async def test_https_means_tls_for_the_socket_too(call: str) -> None:
    """``https`` is spoken as ``https`` and as ``wss``: the first byte is a TLS handshake's."""
    first = asyncio.get_running_loop().create_future()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first.set_result(await reader.read(1))
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, aiohttp.ClientSession() as http:
        client = ComfyClient(f"https://127.0.0.1:{port}/comfy", http, timeout_s=60)
        with pytest.raises(EngineUnreachable):
            await (client.socket("me", heartbeat_s=20) if call == "socket" else client.remaining())
        assert await asyncio.wait_for(first, 60) == b"\x16"
