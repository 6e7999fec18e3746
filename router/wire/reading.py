"""Bodies of the protocol, read leniently, and who sends them. Workers of any age and every HTTP client write them."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from aiohttp import web

from lib.errors import Forbidden, InvalidRequest
from lib.serving.payloads import Pace, read_body
from router.access import key_of
from router.endpoints import Bearer, Endpoint, Endpoints, Place, Scope, UnknownEndpoint

PACE = Pace(patience_s=5.0)
SMALL, LARGE = 256 * 1024, 8 * 1024 * 1024
"""Bytes of a body: a request's, and a worker's, which may list thousands of requests."""
MOST_ID = 2**63 - 1


async def read_object(
    request: web.Request, *, limit: int = SMALL, grow: Callable[[int], None] = lambda size: None
) -> dict[str, Any]:
    """Read a JSON object; no body is an empty one; ``grow`` is told of its size. Raises: InvalidRequest, BodyTooLarge,
    and what ``grow`` raises."""
    data = await read_body(request, limit=limit, pace=PACE, grow=grow)
    if not data.strip():
        return {}
    value = _parsed(data)
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return value


def _parsed(data: bytes) -> Any:
    """Python's workers may write NaN and Infinity, which are no JSON, and halves of characters, which are no text."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return _mended(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("The body is not JSON.") from error


def _mended(value: Any) -> Any:
    """The same as JSON can say it: whatever is kept of it is written and shown again."""
    if isinstance(value, dict):
        return {_mended(name): _mended(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_mended(item) for item in value]
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def whole(body: Mapping[str, Any], name: str) -> int | None:
    """A number without fraction, also as text; None for anything else."""
    value = body.get(name)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_ID:
        return None
    return value


def amount(body: Mapping[str, Any], name: str) -> float | None:
    """A figure as it was written (``100`` stays ``100``): finite, not negative; None for anything else."""
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    return value


class Callers:
    """Which endpoints and groups a caller means, and may look into."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    def bearer(self, request: web.Request, body: Mapping[str, Any]) -> Bearer:
        """Raises: Unauthorized."""
        return self._endpoints.bearer(key_of(request, body))

    def operator(self, request: web.Request, body: Mapping[str, Any]) -> Bearer:
        """Raises: Unauthorized, Forbidden."""
        return self._endpoints.operator(key_of(request, body))

    def endpoint(self, request: web.Request, body: Mapping[str, Any]) -> Endpoint:
        """The endpoint by the body's ``id``, or by its name in ``endpoint``. Raises: Unauthorized, Forbidden,
        UnknownEndpoint."""
        bearer, number, name = self.bearer(request, body), whole(body, "id"), body.get("endpoint")
        if number is None and not isinstance(name, str):
            raise InvalidRequest("Say which endpoint: its number in 'id', or its name in 'endpoint'.")
        found = self._endpoints.by_id(number) if number is not None else self._endpoints.find(str(name))
        _may_look(bearer, found)
        return found

    def group(self, request: web.Request, body: Mapping[str, Any], *, name: str = "id") -> Place:
        """The worker group by its number. Raises: Unauthorized, Forbidden, UnknownEndpoint."""
        bearer, number = self.bearer(request, body), whole(body, name)
        if number is None:
            raise InvalidRequest(f"Say which worker group: its number in '{name}'.")
        place = self._endpoints.group_by_id(number)
        _may_look(bearer, place.endpoint)
        return place


def _may_look(bearer: Bearer, endpoint: Endpoint) -> None:
    if not bearer.reaches(endpoint.name):
        raise UnknownEndpoint("There is no such endpoint here.")
    if bearer.scope is Scope.TENANT:
        raise Forbidden("Workers and logs are shown to the endpoint's own key.")
