"""Who calls the router: keys from headers, query or body, as the SDK, the CLI and people send them."""

from collections.abc import Mapping
from typing import Any

from aiohttp import hdrs, web

from lib.errors import Forbidden
from lib.serving.access import CALLER, KEY_HEADER, NO_KEY, OPERATOR, Access, Caller, KeyMissing, Need
from lib.telemetry.logs import set_caller
from router.endpoints import Bearer, Endpoints

BEARER = web.RequestKey("bearer", Bearer)
_READING = (hdrs.METH_GET, hdrs.METH_HEAD)


def key_of(request: web.Request, body: Mapping[str, Any] | None = None) -> str:
    """The key that a request shows, "" if none: ``Authorization: Bearer``, ``X-API-Key``, ``?api_key=``, or
    ``api_key`` of its JSON body."""
    scheme, blank, value = request.headers.get(hdrs.AUTHORIZATION, "").strip().partition(" ")
    given = value.strip() if blank and scheme.lower() == "bearer" else ""
    in_body = (body or {}).get("api_key")
    return (
        given
        or request.headers.get(KEY_HEADER, "").strip()
        or request.query.get("api_key", "")
        or (in_body if isinstance(in_body, str) else "")
    )


def bearer_of(request: web.Request) -> Bearer:
    """Who called. Raises: KeyMissing where nobody is known."""
    bearer: Bearer | None = request.get(BEARER)
    if bearer is None:
        raise KeyMissing(NO_KEY)
    return bearer


class RouterAccess(Access):
    """What stands before routes: ``Need.ADMIN`` wants the operator, ``Need.KEY`` any key; ``Need.FREE`` and
    ``Need.LINK`` ask nothing (the handler does, where the key may be in the body).

    With ``open_reading`` everybody may look at what the operator may; only looking, never changing."""

    def __init__(self, endpoints: Endpoints, *, open_reading: bool) -> None:
        super().__init__(required=not open_reading)
        self._endpoints = endpoints
        self._open_reading = open_reading

    async def admit(self, request: web.Request, need: Need) -> None:
        """Put the caller on the request. Raises: KeyMissing, Forbidden."""
        key = key_of(request)
        bearer = self._endpoints.who(key)
        if bearer is not None:
            request[BEARER] = bearer
            set_caller(bearer.tenant or bearer.scope)
        looks = self._open_reading and request.method in _READING and not key
        if looks or (bearer is not None and bearer.is_operator):
            request[CALLER] = OPERATOR
        elif bearer is not None:
            request[CALLER] = Caller(name=bearer.tenant or bearer.scope, tenant=bearer.tenant, owner=bearer.tenant)
        if need in (Need.FREE, Need.LINK):
            return
        if CALLER not in request:
            raise KeyMissing("This API key is not known here." if key else NO_KEY)
        if need is Need.ADMIN and not request[CALLER].admin:
            raise Forbidden("This needs a key of the operator's account.")

    def release(self, request: web.Request) -> None:
        """Nothing was taken."""
