"""By which base URL a caller reaches us, for links in answers."""

import re

from aiohttp import web

_AUTHORITY = re.compile(r"[A-Za-z0-9._\[\]:-]{1,260}")


def base_url_of(request: web.Request, configured: str | None) -> str:
    """Return ``https://host:port`` without a trailing slash: the configured one, else as this request named us."""
    if configured:
        return configured.rstrip("/")
    host = request.host
    if not _AUTHORITY.fullmatch(host):
        host = "127.0.0.1"  # no use of ours can follow from a Host that is none
    return f"{request.scheme}://{host}"
