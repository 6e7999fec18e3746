"""Bodies in and out: bytes read once and not kept, JSON written by orjson."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from lib.errors import BodyTooLarge, InvalidRequest, Overloaded

JSON_TYPE = "application/json"
NO_JSON = (
    f"The body must be JSON with the header 'Content-Type: {JSON_TYPE}' (curl: -H 'Content-Type: application/json')"
)
GIVEN_UP = web.RequestKey("body_given_up", bool)
"""The connection ends with the answer, which has to say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How slowly a body may come: at least so many bytes a second, after a start of ``patience_s``."""

    patience_s: float = 60.0
    least_bytes_s: float = 64 * 1024


PACE = Pace()


class Room:
    """For bodies of callers whom nobody has checked yet: so many bytes of them at the same time. What everybody may
    send without asking (``FREE_BYTES``) is not counted, so that large bodies keep no small one out."""

    FREE_BYTES = 64 * 1024

    def __init__(self, most_bytes: int) -> None:
        self._left = most_bytes

    @contextmanager
    def taken(self) -> Iterator[Callable[[int], None]]:
        """Yield what is to be told of the body's size as it grows; it raises Overloaded where there is no room."""
        held = 0

        def grow(size: int) -> None:
            nonlocal held
            more = size - self.FREE_BYTES - held
            if more > self._left:
                raise Overloaded("Too many large requests are being read; send this one again.", retry_after_s=5)
            if more > 0:
                held += more
                self._left -= more

        try:
            yield grow
        finally:
            self._left += held


async def read_body(
    request: web.Request, *, limit: int, pace: Pace = PACE, grow: Callable[[int], None] = lambda size: None
) -> bytes:
    """Return the body. Unlike ``request.read`` nothing of it stays with the request, which lives while a job waits.
    ``grow`` is told of its size so far.

    Raises: BodyTooLarge (over ``limit`` bytes, after decompression), InvalidRequest (broken encoding),
    HTTPRequestTimeout (408: it comes too slowly), and what ``grow`` raises.
    """
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    if request.content.is_eof() and request.content.exception() is None:
        return _arrived(request, limit=limit, grow=grow)
    chunks: list[bytes] = []
    size = 0
    begun = asyncio.get_running_loop().time() + pace.patience_s
    try:
        async with asyncio.timeout_at(begun) as until:
            while chunk := await request.content.readany():
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                grow(size)
                chunks.append(chunk)
                until.reschedule(begun + size / pace.least_bytes_s)
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="The body came too slowly") from None
    except (web.RequestPayloadError, HttpProcessingError) as error:
        give_up_body(request)
        raise InvalidRequest(
            "The body's encoding is broken",
            details={"errors": [{"type": "body_encoding", "loc": [], "msg": type(error).__name__}]},
        ) from error
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _arrived(request: web.Request, *, limit: int, grow: Callable[[int], None]) -> bytes:
    """The body that is there as a whole: most are when their request is."""
    body = request.content.read_nowait()
    if len(body) > limit:
        raise _too_large(limit)
    grow(len(body))
    return body


def give_up_body(request: web.Request) -> None:
    """Have nothing more read of a body whose encoding is broken, and the connection end with the answer: else aiohttp
    reads on, logs the same error as its own, and takes the next request for more of the body."""
    request[GIVEN_UP] = True
    request.content.feed_eof()
    request.protocol.close()


def require_json(request: web.Request) -> None:
    """Refuse a body that is not declared as JSON: a web page can send such ones across origins unasked.

    Raises: HTTPUnsupportedMediaType (415).
    """
    if not _is_json(request):
        raise web.HTTPUnsupportedMediaType(text=NO_JSON)


def check_json(request: web.Request) -> None:
    """The same, for APIs that answer 400 in their own words whatever is wrong with a body. Raises: InvalidRequest."""
    if not _is_json(request):
        raise InvalidRequest(NO_JSON)


def _is_json(request: web.Request) -> bool:
    kind = request.content_type
    return "Content-Type" in request.headers and (kind == JSON_TYPE or kind.endswith("+json"))


def dumps(value: Any) -> bytes:
    """Encode JSON; what orjson can't (lone surrogates, integers beyond 64 bits) goes through the slower encoder."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":"), default=str).encode()


def json_response(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Answer with a JSON body."""
    return web.Response(body=dumps(value), status=status, headers=headers, content_type=JSON_TYPE, charset="utf-8")


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {limit} bytes", details={"limit_bytes": limit})
