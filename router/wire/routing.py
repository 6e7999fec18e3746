"""``POST /route/``: which worker to call, or that there is none yet.

The SDK ends a request for any answer but 200, and for one that takes 10 s; so whoever may use an endpoint hears READY
or WAITING, in time. ``router.direct`` has the memory behind ``request_idx``.
"""

from http import HTTPStatus
from typing import Any

from aiohttp import web

from lib.clock import Clock
from lib.serving.middleware import REQUEST_ID
from lib.serving.payloads import json_response
from router.access import key_of
from router.direct import DirectRequests, Routed
from router.dispatch import Dispatcher
from router.endpoints import Bearer, Endpoint, UnknownEndpoint
from router.signing import RouteFields, Signing
from router.wire.answers import waiting_text
from router.wire.reading import amount, read_object, whole

USUAL_COST = 100.0
MOST_COST = 1e9
"""A request of months, for whoever knows what it will cost; sums and products of such figures stay finite."""
TEXT_LIFE_S = 1.0
"""Figures take a look at every worker: they are shared by so many seconds of answers."""


class Routing:
    """The route. ``wait_s`` is how long a request is held for a worker."""

    def __init__(
        self, *, dispatcher: Dispatcher, direct: DirectRequests, signing: Signing, clock: Clock, wait_s: float
    ) -> None:
        self._dispatcher = dispatcher
        self._direct = direct
        self._signing = signing
        self._clock = clock
        self._wait_s = wait_s
        self._texts: dict[str, tuple[float, str]] = {}

    async def route(self, request: web.Request) -> web.Response:
        """Raises: Unauthorized, UnknownEndpoint, InvalidRequest (no JSON object)."""
        body = await read_object(request)
        endpoint, bearer = self._found(key_of(request, body), body)
        trace = {"__request_id": request.get(REQUEST_ID, "")}
        routed = await self._routed(endpoint, bearer, body)
        if routed.worker is None:
            return json_response(self._waiting(endpoint.name, routed.request_idx) | trace, status=HTTPStatus.OK)
        fields = RouteFields(
            endpoint=endpoint.name, cost=routed.cost, reqnum=routed.reqnum, request_idx=routed.request_idx
        )
        return json_response(await self._signing.ready(routed.worker, fields) | trace, status=HTTPStatus.OK)

    def _found(self, key: str, body: dict[str, Any]) -> tuple[Endpoint, Bearer]:
        """A key of one endpoint needs not name it."""
        endpoints = self._dispatcher.endpoints
        name = body.get("endpoint") or endpoints.bearer(key).endpoint
        if not isinstance(name, str) or not name:
            raise UnknownEndpoint("Say which endpoint: its name in 'endpoint'.")
        return endpoints.may_use(key, name)

    async def _routed(self, endpoint: Endpoint, bearer: Bearer, body: dict[str, Any]) -> Routed:
        cost = amount(body, "cost")
        return await self._direct.route(
            endpoint.name,
            bearer,
            cost=USUAL_COST if cost is None else min(cost, MOST_COST),
            request_idx=whole(body, "request_idx") or 0,
            replay_timeout_s=amount(body, "replay_timeout"),
            wait_s=self._wait_s,
        )

    def _waiting(self, endpoint: str, request_idx: int) -> dict[str, Any]:
        now = self._clock.monotonic()
        made_at, text = self._texts.get(endpoint, (-TEXT_LIFE_S, ""))
        if now - made_at >= TEXT_LIFE_S:
            text = waiting_text(self._dispatcher.figures(endpoint))
            self._texts[endpoint] = (now, text)
        return {"endpoint": endpoint, "status": text, "request_idx": request_idx}
