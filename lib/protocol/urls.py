"""Comparing worker URLs: a signature is over one, and is only good for the worker that it names."""

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from lib.settings import SettingsError

_DEFAULT_PORTS = {"http": 80, "https": 443}


def normalise_url(url: str) -> str:
    """Return ``scheme://host:port/path``: lower case, port always written, no trailing slash.

    Raises: ValueError for anything that can't be a worker's base URL (other schemes, credentials, query).
    """
    parts = urlsplit(url.strip())
    default_port = _DEFAULT_PORTS.get(parts.scheme)
    if default_port is None or not parts.hostname:
        raise ValueError("not an http(s) URL")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("credentials, query and fragment have no place in a worker's URL")
    port = parts.port if parts.port is not None else default_port
    return f"{parts.scheme}://{_host(parts.hostname)}:{port}{parts.path.rstrip('/')}"


def public_url(address: str | None, *, port: int, use_ssl: bool) -> str:
    """Return the base URL by which callers reach the public listener; "" when our address is unknown."""
    if not address:
        return ""
    return f"{'https' if use_ssl else 'http'}://{_host(address.strip())}:{port}"


class OwnUrls:
    """The URLs that mean this worker. Raises SettingsError for one that is none."""

    def __init__(self, urls: Iterable[str]) -> None:
        self._urls = frozenset(_own(url) for url in urls if url)

    def __bool__(self) -> bool:
        return bool(self._urls)

    def __contains__(self, url: str) -> bool:
        try:
            return normalise_url(url) in self._urls
        except ValueError:
            return False


def _own(url: str) -> str:
    try:
        return normalise_url(url)
    except ValueError as error:
        raise SettingsError(
            f"{url!r} can't be a URL of this worker (PUBLIC_IPADDR, WORKER_URL_ALIASES): {error}"
        ) from None


def _host(host: str) -> str:
    bare = host.strip("[]").rstrip(".").lower()
    try:
        address = ip_address(bare)
    except ValueError:
        return bare
    return f"[{address}]" if address.version == 6 else str(address)
