"""Who may talk to a listener that asks for no credentials: not a web page of somebody else.

A browser on a machine that forwards our loopback port (SSH) would let any page reach us: by a name that it points at
127.0.0.1 (foreign ``Host``) or by a plain cross-origin request (foreign ``Origin``). Programs send neither. Where
everybody has to show a key, the ``Host`` says nothing: a browser adds no key of itself, so a page that is led here by a
name of its own is nobody, and a gateway's callers need not be named one by one.
"""

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from lib.errors import Forbidden
from lib.serving.links import is_authority


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginPolicy:
    """``hosts`` are further names of ours (``*`` = any); ``any_address`` lets callers name us by any IP address, for
    a listener beyond loopback: a page can't make a browser take an address for its own origin. ``any_name``: keys are
    asked of everybody, so any name will do; foreign ``Origin`` headers are refused all the same."""

    hosts: Collection[str] = field(default=frozenset())
    any_address: bool = False
    any_name: bool = False
    setting: str = "API_ALLOWED_HOSTS"
    """Where the operator lists such names."""

    def check(self, request: web.Request) -> None:
        """Raises: Forbidden (foreign ``Host``, foreign ``Origin``, or a request that another site's page made)."""
        headers = request.headers
        host = headers.get(hdrs.HOST)
        if host is not None and not self._is_ours(host):
            raise Forbidden(
                f"This listener does not answer to that Host; use 127.0.0.1 or localhost, or set {self.setting}",
                details={"header": "Host"},
            )
        origin = headers.get(hdrs.ORIGIN)
        if origin is not None and not _same(origin, host):
            raise Forbidden("Requests from other web pages are refused", details={"header": "Origin"})
        followed = headers.get("Sec-Fetch-Mode") == "navigate" and request.method in (hdrs.METH_GET, hdrs.METH_HEAD)
        if headers.get("Sec-Fetch-Site") == "cross-site" and not followed:
            raise Forbidden("Requests from other web pages are refused", details={"header": "Sec-Fetch-Site"})

    def _is_ours(self, host: str) -> bool:
        name = _hostname(host)
        if name and (self.any_name or "*" in self.hosts or name in self.hosts):
            return True
        if name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address or address.is_loopback


def refuse_links(request: web.Request) -> None:
    """Refuse a request that a page of another site led a browser to. The policy lets links pass, since a GET changes
    nothing; this is for those that do. Raises: Forbidden."""
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        raise Forbidden("Requests from other web pages are refused", details={"header": "Sec-Fetch-Site"})


@lru_cache(maxsize=64)
def _hostname(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".") if is_authority(host) else ""
    except ValueError:
        return ""


def _same(origin: str, host: str | None) -> bool:
    """Whether ``Origin`` (``http://127.0.0.1:18288``) names the host and port that the request was sent to."""
    scheme, _, authority = origin.partition("://")
    return scheme in ("http", "https") and host is not None and authority.lower() == host.lower()
