"""Which outbound requests go through a proxy (``HTTP_PROXY``, ``HTTPS_PROXY``, ``NO_PROXY``), and which never do."""

import ipaddress
from dataclasses import dataclass, field

from yarl import URL

from lib.settings import StorageSettings

_METADATA = frozenset({"168.63.129.16", "fd00:ec2::254"})
"""Metadata services that are not link-local."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxies:
    """None by default. ``direct``: hosts, domains (with all below them), ``host:port``, addresses, networks, ``*``."""

    http: URL | None = field(default=None, repr=False)
    https: URL | None = field(default=None, repr=False)
    direct: tuple[str, ...] = ()

    @classmethod
    def from_settings(cls, settings: StorageSettings) -> "Proxies":
        """``HTTP_PROXY`` alone is used for both schemes, as in comfyui-api."""
        plain, secure = settings.http_proxy, settings.https_proxy or settings.http_proxy
        return cls(
            http=URL(plain.get_secret_value()) if plain else None,
            https=URL(secure.get_secret_value()) if secure else None,
            direct=tuple(entry.strip().lower() for entry in settings.no_proxy),
        )

    def for_(self, url: URL) -> URL | None:
        """The proxy for a URL, ``None`` for none."""
        proxy = self.https if url.scheme == "https" else self.http
        if proxy is None:
            return None
        host = (url.raw_host or "").lower().strip("[]").rstrip(".")
        if _is_here(host) or any(_covers(entry, host, url.port or 0) for entry in self.direct):
            return None
        return proxy


def _is_here(host: str) -> bool:
    """This machine, or what is only reached from it."""
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_link_local or address.is_unspecified or host in _METADATA


def _covers(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    name, colon, number = entry.rpartition(":")
    if colon and number.isdigit() and (":" not in name or name.endswith("]")):
        if int(number) != port:
            return False
        entry = name
    entry = entry.strip("[]").removeprefix("*").lstrip(".")
    address = _address(host)
    if address is not None:
        return _network_has(entry, address)
    return bool(entry) and (host == entry or host.endswith(f".{entry}"))


def _network_has(entry: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        network = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
    return network.version == address.version and address in network


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
