"""A listener of our own with a client, on loopback."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp
import pytest
from aiohttp import web

from lib.serving.application import Site
from lib.serving.server import Listener


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running listener and a client that knows its address."""

    listener: Listener
    client: aiohttp.ClientSession


Serve = Callable[[Site], Awaitable[Served]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start a site on a free port; stopped at the end."""
    async with AsyncExitStack() as stack:

        async def start(site: Site) -> Served:
            listener = await stack.enter_async_context(Listener(site.app, name="test", host="127.0.0.1", port=0))
            client = await stack.enter_async_context(aiohttp.ClientSession(listener.url))
            return Served(listener=listener, client=client)

        yield start


def site_with(*routes: web.RouteDef, **options: object) -> Site:
    """A site with a few routes of no dialect."""
    site = Site(**({"max_body_bytes": 1 << 20} | options))  # type: ignore[arg-type]
    site.mount(routes, owner="test")
    return site
