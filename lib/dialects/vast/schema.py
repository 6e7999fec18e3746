"""Vast's envelope: what a worker is sent, checked in the order and refused with the bodies of PyWorker 1.9.1.

Shapes: ``{"auth_data": {six keys}, "payload": {...}, "session_id": str | null}`` on work routes,
``{"session_id", "session_auth"}`` on session routes. Where PyWorker answered with a plain-text 500 (wrong types),
we answer 422 in its own style.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib.errors import ErrorCode, InvalidRequest, ServiceError
from lib.protocol.auth import AUTH_FIELDS
from lib.workflow.decoding import check

DEFAULT_LIFETIME_S = 60.0
LONGEST_LIFETIME_S = 86400.0
"""A session's ``lifetime`` is cut to this: it holds one of few places."""

_CODES = {400: ErrorCode.INVALID_REQUEST, 401: ErrorCode.UNAUTHORIZED, 410: ErrorCode.SESSION_GONE}
_NUMBER, _INTEGER, _TEXT = "must be a number", "must be an integer", "must be a string"
_EXPECTED = {
    "cost": _NUMBER,
    "endpoint": _TEXT,
    "reqnum": _INTEGER,
    "request_idx": _INTEGER,
    "signature": _TEXT,
    "url": _TEXT,
}


class Refusal(ServiceError):
    """A refusal whose status and body the protocol fixes."""

    def __init__(self, status: int, body: Mapping[str, object]) -> None:
        super().__init__(str(body.get("error", "The envelope is wrong")), details=body)
        self.status = status
        self.body = dict(body)
        self.code = _CODES.get(status, ErrorCode.INVALID_REQUEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A request whose shape is right. ``complete`` = ``auth_data`` has all six keys."""

    auth_data: dict[str, Any]
    payload: dict[str, Any]
    session_id: object
    complete: bool

    @property
    def tag(self) -> int | None:
        """The router's id of this request; none where the caller made ``auth_data`` up (the SDK's debug mode sends
        the same number with every request)."""
        number = self.auth_data.get("request_idx") if self.complete else None
        return number if number is not None and number > 0 else None

    @property
    def number(self) -> int | None:
        return self.auth_data.get("reqnum")

    @property
    def cost(self) -> float | None:
        return self.auth_data.get("cost")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionTerms:
    """Payload of ``/session/create``. ``on_close_payload`` is what will be POSTed to ``on_close_route``."""

    lifetime_s: float
    on_close_route: str | None
    on_close_payload: Any


def decode(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body. Raises Refusal (not JSON), InvalidRequest (JSON, but out of bounds)."""
    try:
        value = check(body)
    except InvalidRequest as error:
        if _kind(error) == "json_invalid":
            raise Refusal(422, {"error": "invalid JSON"}) from error
        raise
    if not isinstance(value, dict):
        raise Refusal(422, {"error": "invalid JSON"})
    return value


def envelope(data: Mapping[str, Any], *, partial_auth: bool) -> Envelope:
    """Check the shape; ``partial_auth`` lets ``auth_data`` lack keys (UNSECURED). Raises Refusal."""
    missing = {name: "field missing" for name in ("auth_data", "payload") if name not in data}
    if missing:
        raise Refusal(422, missing)
    auth_data, payload = data["auth_data"], data["payload"]
    if not isinstance(auth_data, dict):
        raise Refusal(422, {"auth_data": "must be a dictionary"})
    lacking = [name for name in AUTH_FIELDS if name not in auth_data]
    if lacking and not partial_auth:
        raise Refusal(422, {"auth_data": dict.fromkeys(lacking, "missing parameter")})
    wrong = {name: _EXPECTED[name] for name in AUTH_FIELDS if name in auth_data and not _fits(name, auth_data[name])}
    if wrong:
        raise Refusal(422, {"auth_data": wrong})
    if not isinstance(payload, dict):
        raise Refusal(422, {"payload": {"data": "payload must be a dictionary"}})
    return Envelope(auth_data=auth_data, payload=payload, session_id=data.get("session_id"), complete=not lacking)


def session_terms(payload: Mapping[str, Any]) -> SessionTerms:
    """Read the payload of ``/session/create``. Raises Refusal."""
    lifetime = payload.get("lifetime")
    lifetime = DEFAULT_LIFETIME_S if lifetime is None else lifetime
    if not _is_number(lifetime) or not lifetime > 0:
        raise Refusal(422, {"payload": {"lifetime": "must be a number of seconds above 0"}})
    route = payload.get("on_close_route")
    if route is not None and not isinstance(route, str):
        raise Refusal(422, {"payload": {"on_close_route": _TEXT}})
    return SessionTerms(
        lifetime_s=min(float(lifetime), LONGEST_LIFETIME_S),
        on_close_route=route or None,
        on_close_payload=payload.get("on_close_payload") if route else None,
    )


def session_reference(data: Mapping[str, Any]) -> tuple[str, object]:
    """Return ``session_id`` and ``session_auth`` of a session route's body. Raises Refusal."""
    session_id = data.get("session_id")
    if not session_id:
        raise Refusal(422, {"error": "missing session_id"})
    return str(session_id), data.get("session_auth")


def wait_s(value: object, *, most: float) -> float:
    """Read how long a caller wants to wait for a job's end, in seconds; ``None`` is not at all. Raises Refusal."""
    if value is None:
        return 0.0
    try:
        seconds = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise Refusal(422, {"wait": "must be a number of seconds"})
    return min(seconds, most)


def _fits(name: str, value: object) -> bool:
    expected = _EXPECTED[name]
    if expected is _NUMBER:
        return _is_number(value) and isinstance(value, int | float) and value >= 0
    if expected is _INTEGER:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _kind(error: InvalidRequest) -> str:
    errors = error.details.get("errors")
    return str(errors[0].get("type", "")) if isinstance(errors, list) and errors else ""
