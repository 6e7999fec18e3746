"""Which headers, and which of the query, go through a relay. Pure.

What belongs to one connection stays with it; the caller's own key is the router's business and never a worker's.
"""

from collections.abc import Mapping

from aiohttp import web
from multidict import CIMultiDict

from lib.protocol.ticket import TICKET_HEADER
from lib.serving.access import KEY_HEADER

FORWARDED_FOR = "X-Forwarded-For"
KEY_PARAMETER = "api_key"
_OF_A_CONNECTION = frozenset(
    (
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"),
        *("transfer-encoding", "upgrade"),
    )
)
_OURS = frozenset(
    (
        *("host", "expect", "authorization", "cookie", KEY_HEADER.lower(), TICKET_HEADER.lower(), "x-api-key"),
        *("origin", "referer", "prefer"),
    )
)
"""``Prefer`` is the router's to follow: what a worker would hand back early, nobody would keep."""
_OF_AN_ANSWER = frozenset(("server", "date", "set-cookie", "x-request-id"))


def to_worker(headers: Mapping[str, str], *, has_length: bool) -> CIMultiDict[str]:
    """What a worker hears. ``has_length``: the body's length is known without its header."""
    left = _OF_A_CONNECTION | _OURS | _named(headers)
    if has_length:
        left |= {"content-length"}
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in left)


def to_caller(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """What the caller hears of the worker's answer."""
    left = _OF_A_CONNECTION | _OF_AN_ANSWER | _named(headers)
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in left)


def forwarded_for(headers: Mapping[str, str], peer: str | None) -> str:
    """The chain of addresses, with the one that called us."""
    return ", ".join(filter(None, (headers.get(FORWARDED_FOR), peer)))


def with_query(path: str, request: web.Request) -> str:
    """The path with the caller's query, without his key."""
    url = request.rel_url
    if KEY_PARAMETER in request.query:
        url = url.without_query_params(KEY_PARAMETER)
    return f"{path}?{url.raw_query_string}" if url.raw_query_string else path


def _named(headers: Mapping[str, str]) -> frozenset[str]:
    """Headers that ``Connection`` says belong to it."""
    listed = headers.get("Connection")
    return frozenset(name.strip().lower() for name in listed.split(",")) if listed else frozenset()
