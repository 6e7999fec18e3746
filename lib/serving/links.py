"""By which base URL a caller reaches us, for links in answers."""

import re

from aiohttp import hdrs, web

BASE_URL = web.RequestKey("base_url", str)
"""How this one caller reaches us, where a proxy of ours says so; it goes before everything else."""
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


def is_authority(text: str) -> bool:
    """Whether a ``Host`` header is a host, perhaps with a port, and nothing else."""
    return _AUTHORITY.fullmatch(text) is not None


def base_url_of(request: web.Request, configured: str | None) -> str:
    """Return ``https://host:port`` without a trailing slash: the caller's own (``BASE_URL``), the configured one, else
    as this request named us."""
    configured = request.get(BASE_URL) or configured
    if configured:
        return configured.rstrip("/")
    host = request.headers.get(hdrs.HOST, "")  # request.host would ask the name server where there is none
    if not is_authority(host):
        address = request.transport.get_extra_info("sockname") if request.transport is not None else None
        name, port = address[:2] if address else ("127.0.0.1", 80)
        host = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    return f"{request.scheme}://{host}"
