"""The router's docs page, and what it says of the protocol."""

import re
from contextlib import AsyncExitStack

from aiohttp import web

from router.assembly import PARTS
from router.parts import Ground, Part, PartBuilder
from tests.router.wire.conftest import Start, Talk

RELAY = "relay"
"""Its routes are the workers' own; ``docs/dialects`` tells of them."""
OWN = {("GET", path) for path in ("/healthz", "/health", "/ready", "/ping", "/metrics", "/explain/{request_id}")}


async def test_every_route_is_described_and_every_description_is_of_a_route(start: Start) -> None:
    """By method and path, over all parts; the page at ``/`` is for people."""
    parts: list[Part] = []

    def noting(build: PartBuilder) -> PartBuilder:
        async def noted(ground: Ground, stack: AsyncExitStack) -> Part:
            parts.append(await build(ground, stack))
            return parts[-1]

        return noted

    talk = await start(parts=[noting(build) for build in PARTS])
    document = await talk("/openapi.json", method="GET")
    told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    known = {(route.method, _plain(route)): part.name for part in parts for route in part.routes if route.path != "/"}
    assert {place for place, part in known.items() if part != RELAY} - told == set()
    assert told - set(known) == OWN


def _plain(route: web.RouteDef) -> str:
    """The path with its parameters' names alone."""
    return re.sub(r"\{(\w+):(?:[^{}]|\{[^}]*\})*\}", r"{\1}", route.path)


async def test_the_page_needs_no_key_and_no_internet(talk: Talk) -> None:
    """All of it is served from here; it says which routes want a key."""
    assert "swagger-ui" in await talk("/docs", method="GET")
    assert "SwaggerUIBundle" in await talk("/docs/start.js", method="GET")
    document = await talk("/openapi.json", method="GET")
    assert document["paths"]["/route/"]["post"]["security"] == [{"bearer": []}, {"key": []}]
    assert document["paths"]["/pubkey/"]["get"]["security"] == []
