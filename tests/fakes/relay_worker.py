"""A worker for relays on loopback: takes requests below ``/relay`` against a ticket, and does as it is told."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from lib.errors import Unauthorized
from lib.protocol.ticket import TICKET_HEADER, SpentTickets, Ticket, read_ticket
from lib.serving.payloads import json_response

Behaviour = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]


@dataclass
class Heard:
    """One request that came in."""

    path: str
    headers: dict[str, str]
    body: bytes
    ticket: Ticket | None


@dataclass
class RelayWorker:
    """What it was asked, and how it answers. ``left``: callers who did not wait for their answer."""

    number: int
    behave: Behaviour
    url: str = ""
    key: RSAPublicKey | None = None
    heard: list[Heard] = field(default_factory=list)
    left: int = 0
    came: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    spent: SpentTickets = field(default_factory=SpentTickets)

    def trust(self, public_pem: str) -> None:
        """Take the router's key."""
        key = load_pem_public_key(public_pem.encode())
        assert isinstance(key, RSAPublicKey)
        self.key = key

    def report(self, **changes: Any) -> dict[str, Any]:
        """What it tells its router."""
        return {
            "id": self.number,
            "version": "1.1.0",
            "loadtime": 1.0,
            "max_perf": 100.0,
            "cur_load": 0.0,
            "working_request_idxs": [],
            "url": self.url,
            "slots": 64,
            "engines": 64,
            "dialects": ["wrapper", "runpod", "salad"],
        } | changes

    async def relayed(self, request: web.Request) -> web.StreamResponse:
        """Below ``/relay``."""
        assert self.key is not None
        ticket = read_ticket(request.headers[TICKET_HEADER], [self.key], now=time.time())
        assert ticket.url == self.url
        try:
            self.spent.spend(ticket, now=time.time())
        except Unauthorized as error:  # HTTP clients repeat a GET whose connection broke off
            return json_response({"error": error.code, "message": error.message}, status=401)
        return await self._answer(request, "/" + request.match_info["path"], ticket)

    async def public(self, request: web.Request) -> web.StreamResponse:
        """Elsewhere; at ``/healthz`` a router looks whether anybody is there."""
        if request.path == "/healthz":
            return web.Response()
        return await self._answer(request, request.path, None)

    async def _answer(self, request: web.Request, path: str, ticket: Ticket | None) -> web.StreamResponse:
        body = await request.read()
        query = f"?{request.query_string}" if request.query_string else ""
        self.heard.append(Heard(path=path + query, headers=dict(request.headers), body=body, ticket=ticket))
        self.came.set()
        try:
            return await self.behave(request, body)
        except (asyncio.CancelledError, ConnectionError):
            self.left += 1
            self.gone.set()
            raise


@asynccontextmanager
async def relay_worker(number: int, behave: Behaviour, *, port: int = 0) -> AsyncIterator[RelayWorker]:
    """A worker that listens."""
    worker = RelayWorker(number=number, behave=behave)
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/relay/{path:.*}", worker.relayed)
    app.router.add_route("*", "/{path:.*}", worker.public)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    worker.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield worker
    finally:
        await runner.cleanup()


async def echo(request: web.Request, body: bytes) -> web.StreamResponse:
    """A result that tells what came."""
    return json_response({"id": "job", "status": "completed", "said": body.decode(), "timings": {"generation_ms": 40}})


async def busy(request: web.Request, body: bytes) -> web.StreamResponse:
    """It has no room."""
    return json_response({"error": "overloaded"}, status=503, headers={"Retry-After": "2"})


async def dying(request: web.Request, body: bytes) -> web.StreamResponse:
    """It dies before it answers."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def hanging(request: web.Request, body: bytes) -> web.StreamResponse:
    """It never answers."""
    await asyncio.Event().wait()
    return web.Response()
