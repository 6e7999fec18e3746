"""The edge of every listener: request ids, the door, and errors in the form of the API that was called."""

import logging
import random
import re
import time
from collections.abc import Callable

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from lib.errors import ServiceError
from lib.serving.access import Door, KeyMissing
from lib.serving.errors import error_fields, error_headers, status_of
from lib.serving.payloads import GIVEN_UP, give_up_body, json_response
from lib.telemetry.logs import set_request_id

log = logging.getLogger(__name__)

REQUEST_ID_HEADER = "X-Request-ID"
REQUEST_ID = web.RequestKey("request_id", str)
_STARTED = web.RequestKey("started", bool)
_VALID_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_NAMES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    415: "unsupported_media_type",
}
ErrorRenderer = Callable[[ServiceError, web.Request], web.Response]


Missing = Callable[[web.Request], web.Response]
"""Answers on a path that nobody has."""
OnError = Callable[[ServiceError], None]


def edge(
    *,
    renderer_of: Callable[[web.Request], ErrorRenderer | None],
    door: Door,
    on_error: OnError = lambda error: None,
    missing: Missing | None = None,
) -> Middleware:
    """Make the one middleware of a listener. ``CancelledError`` (the client left) passes untouched. ``on_error`` is
    told of each error that becomes an answer; ``missing`` answers on paths and methods that nobody has, in another form
    than ours."""

    chance = random.Random()  # names to find in a log; nobody gets anything for knowing one

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        request[REQUEST_ID] = request_id = _request_id(request, chance)
        set_request_id(request_id)
        response = await _answer(
            request, handler, renderer_of=renderer_of, door=door, on_error=on_error, missing=missing
        )
        if log.isEnabledFor(logging.DEBUG):
            _log(request, response, time.perf_counter() - started)
        return response

    return middleware


async def add_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """Put the request's id on every answer, streamed ones too; for ``on_response_prepare``."""
    request[_STARTED] = True
    if request.content.exception() is not None:  # of a body that nobody read
        give_up_body(request)
    if request.get(GIVEN_UP):
        response.headers[hdrs.CONNECTION] = "close"
    if request_id := request.get(REQUEST_ID):
        response.headers[REQUEST_ID_HEADER] = request_id


def render_plain(error: ServiceError, request: web.Request) -> web.Response:
    """Our own error body, for routes of no dialect: ``error``, ``message``, ``details``, ``request_id``."""
    status = status_of(error)
    body = error_fields(error) | {"detail": error.message, "request_id": request.get(REQUEST_ID, "")}
    return json_response(body, status=status, headers=error_headers(error, status))


async def _answer(
    request: web.Request,
    handler: Handler,
    *,
    renderer_of: Callable[[web.Request], ErrorRenderer | None],
    door: Door,
    on_error: OnError,
    missing: Missing | None,
) -> web.StreamResponse:
    try:
        await door.enter(request)
        return await handler(request)
    except ServiceError as error:
        failure = error
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as error:
        return _render_http(error, request) if missing is None else missing(request)
    except web.HTTPException as error:
        return _render_http(error, request)
    except Exception:  # one of the three edges that may catch everything
        if request.get(_STARTED) or request.transport is None or request.transport.is_closing():
            raise  # nobody is left to answer, or half an answer is out
        log.exception("request failed", extra={"event": "http.failed", "route": _route(request)})
        failure = ServiceError("Internal error; the log has the details under this request id")
    finally:
        door.leave(request)
    on_error(failure)
    if request.get(_STARTED):
        raise failure
    response = (renderer_of(request) or render_plain)(failure, request)
    if isinstance(failure, KeyMissing):
        response.headers["WWW-Authenticate"] = 'Bearer realm="api"'
    return response


def _render_http(error: web.HTTPException, request: web.Request) -> web.StreamResponse:
    if error.status < 400:
        raise error
    message = (
        error.text
        if error.status in (408, 413, 415) and error.text
        else f"{error.reason}: {request.method} {request.path}"
    )
    headers = {name: error.headers[name] for name in ("Allow", "Retry-After") if name in error.headers}
    body = {
        "error": _NAMES.get(error.status, "http_error"),
        "message": message,
        "detail": error.reason,
        "request_id": request.get(REQUEST_ID, ""),
    }
    return json_response(body, status=error.status, headers=headers)


def _request_id(request: web.Request, chance: random.Random) -> str:
    given = request.headers.get(REQUEST_ID_HEADER)
    return given if given and _VALID_ID.fullmatch(given) else f"{chance.getrandbits(128):032x}"


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return f"{request.method} {resource.canonical if resource is not None else '?'}"


def _log(request: web.Request, response: web.StreamResponse, duration_s: float) -> None:
    facts = {"event": "http.answered", "route": _route(request), "status": response.status, "duration_s": duration_s}
    log.debug("request answered", extra=facts)
