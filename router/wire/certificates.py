"""Certificates for workers: the root, and ``sign_cert`` as ``start_server.sh`` calls it.

It shows no key, so it gets a certificate for the address that it calls from, and nothing else. Who shows a worker's
token (``Authorization: Bearer <MASTER_TOKEN>``) gets the names that it asks for as well. Where a proxy stands before
the router (``ROUTER_PUBLIC_URL``) everybody has the proxy's address; there a token is needed.
"""

import asyncio

from aiohttp import web

from lib.clock import Clock
from lib.errors import Unauthorized
from lib.serving.payloads import read_body
from router.access import key_of
from router.endpoints import Endpoints, UnknownEndpoint
from router.wire.authority import Authority, Name, address, read_request, wanted_names
from router.wire.reading import PACE, SMALL

PEM_TYPE = "application/x-pem-file"


class Certificates:
    """The routes."""

    def __init__(self, authority: Authority, *, endpoints: Endpoints, clock: Clock, behind_proxy: bool) -> None:
        self._authority = authority
        self._endpoints = endpoints
        self._clock = clock
        self._behind_proxy = behind_proxy

    async def root(self, request: web.Request) -> web.Response:
        """The authority that clients have to trust."""
        return web.Response(text=self._authority.pem, content_type=PEM_TYPE)

    async def sign(self, request: web.Request) -> web.Response:
        """Raises: InvalidRequest (no good certificate request), Unauthorized."""
        data = await read_body(request, limit=SMALL, pace=PACE)
        asked = await asyncio.to_thread(read_request, data)
        names: list[Name] = wanted_names(asked) if self._is_worker(key_of(request)) else []
        peer = None if self._behind_proxy else address(request.remote)
        if peer is not None and peer not in names:
            names.append(peer)
        if not names:
            raise Unauthorized(
                "Show a worker's token here: 'Authorization: Bearer <MASTER_TOKEN>', and name the hosts."
            )
        made = await asyncio.to_thread(self._authority.certificate, asked, names, now=self._clock.now())
        return web.Response(text=made, content_type=PEM_TYPE)

    def _is_worker(self, token: str) -> bool:
        for endpoint in self._endpoints.all() if token else ():
            try:
                self._endpoints.place(0, token=token, prefix=endpoint.name)
            except (Unauthorized, UnknownEndpoint):
                continue
            return True
        return False
