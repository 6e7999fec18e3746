"""Which hosts a caller may make us talk to (SSRF guard): the rules and the look-up, no HTTP.

A host is looked up once, every address that the answer names must be public, and whoever connects uses these
addresses and nothing else; so a name that changes its address between check and use (DNS rebinding) gains nothing.
Ports: 80, 443 and everything from 1024 up, which keeps mail, SSH, SMB and LDAP out of reach. An operator's allow-list
lifts both rules for the hosts and networks that it names.
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from yarl import URL

from lib.errors import UnsafeInput
from lib.settings import SettingsError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
Lookup = Callable[[str, int], Sequence[str]]
"""Blocking name look-up: host and port to numeric addresses; raises OSError."""

_REFUSED = tuple(
    map(
        ipaddress.ip_network,
        (
            # IANA's special-purpose registry: this host, private, CGNAT, loopback, link-local (cloud metadata),
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
            *("172.16.0.0/12", "192.168.0.0/16"),
            # protocol assignments, documentation, relays, benchmarking, multicast, reserved, broadcast;
            *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24"),
            *("203.0.113.0/24", "224.0.0.0/3"),
            # Azure's metadata and agent host, which has a public address;
            "168.63.129.16/32",
            # of IPv6 only 2000::/3 is global, and inside it these are not: protocols with Teredo, documentation.
            *("2001::/23", "2001:db8::/32", "3fff::/20"),
        ),
    )
)
MAX_URL_CHARS = 65536
"""The parsers keep what they were given in caches: nobody fills those with megabytes."""
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_HOST = re.compile(r"(?=.{1,253}\.?\Z)(?!.*[^.]{64})[A-Za-z0-9._:%-]+")
"""As the name service takes them: at most 253 characters, 63 between two dots."""
_INNER_NAMES = (".internal", ".local", ".localhost", ".localdomain", ".lan", ".home.arpa", ".intranet", ".corp", ".svc")
"""Ends of names that no public name server answers for."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def system_lookup(host: str, port: int) -> list[str]:
    """Ask the system's resolver (blocking)."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except UnicodeError as error:  # a name that can't be asked for, from a redirect perhaps
        raise socket.gaierror(socket.EAI_NONAME, "no such host name") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: IPAddress) -> bool:
    """Whether an address is on the open Internet, also inside IPv4-mapped, 6to4 and NAT64 forms."""
    address = _unwrap(address)
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_V6:
        return False
    return not any(address.version == net.version and address in net for net in _REFUSED)


def _unwrap(address: IPAddress) -> IPAddress:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and address in _NAT64:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return inner or address


@dataclass(frozen=True, slots=True, kw_only=True)
class _Allowed:
    """One entry of the allow-list: a host name or a network, perhaps with a port."""

    host: str = ""
    network: IPNetwork | None = None
    port: int | None = None

    def covers(self, address: IPAddress, *, host: str, port: int) -> bool:
        if self.port not in (None, port):
            return False
        if self.network is None:
            return self.host == host
        return self.network.version == address.version and address in self.network


def parse_allowed(entry: str, *, setting: str = "FETCH_ALLOW_HOSTS") -> _Allowed:
    """Read ``host``, ``host:port``, an address, ``[v6]:port`` or a CIDR network. Raises: SettingsError."""
    try:
        return _Allowed(network=ipaddress.ip_network(entry.strip("[]"), strict=False))
    except ValueError:
        pass
    url = parse_url(f"http://{entry}")
    if url is None or "/" in entry:
        raise SettingsError(f"{setting}={entry!r}: expected a host, host:port, address or network (CIDR)")
    host, port = _bare(url.raw_host or ""), url.explicit_port
    literal = _literal(host)
    network = ipaddress.ip_network(literal) if literal else None
    return _Allowed(host=host, network=network, port=port)


class AddressGuard:
    """Decides where a request for a caller may go. Immutable; its methods may be called from any thread.

    ``allow`` is the operator's list, which callers and operators know as ``setting``; ``own_urls`` are exact URLs of
    ours that are always fine (Vast's session pattern posts to ``http://localhost:<WORKER_HTTP_PORT>/session/end``).
    """

    def __init__(
        self,
        *,
        allow: Iterable[str] = (),
        own_urls: Iterable[str] = (),
        lookup: Lookup = system_lookup,
        setting: str = "FETCH_ALLOW_HOSTS",
    ) -> None:
        """Raises: SettingsError."""
        self._allowed = tuple(parse_allowed(entry, setting=setting) for entry in allow)
        self._setting = setting
        self._own = frozenset(parse_url(url) for url in own_urls)
        self._lookup = lookup

    def is_own(self, url: str) -> bool:
        """Whether this is exactly one of our own URLs."""
        parsed = parse_url(url)
        return parsed is not None and parsed in self._own

    def check_url(self, url: str) -> URL:
        """Check what can be checked without a look-up: form, scheme, port, numeric addresses. Return it parsed.

        Raises: UnsafeInput.
        """
        parsed = parse_url(url)
        if parsed is None:
            raise _refuse("", "invalid_url", "not a usable http or https URL")
        host, port = _bare(parsed.raw_host or ""), parsed.port or 0
        if parsed.scheme not in ("http", "https"):
            raise _refuse(host, "scheme", "only http and https URLs are fetched")
        if parsed.raw_user is not None or parsed.raw_password is not None:
            raise _refuse(host, "userinfo", "a URL with a user name or password in it is not used")
        literal = _literal(host)
        if literal is None and _numeric(host):
            raise _refuse(host, "invalid_host", "a numeric host must be a plain IPv4 or IPv6 address")
        if literal is not None:
            self._vet(literal, host=host, port=port)
        return parsed

    def vouches(self, url: URL) -> bool:
        """Whether the operator's list names this URL's host itself, by name or address."""
        host, port = _bare(url.raw_host or ""), url.port or 0
        literal = _literal(host)
        return any(
            entry.host == host and entry.port in (None, port)
            if literal is None
            else entry.covers(_unwrap(literal), host=host, port=port)
            for entry in self._allowed
        )

    def check_proxied(self, url: URL) -> None:
        """Check what a proxy is asked for, which looks the name up by itself (blocking). What our own name server says
        is vetted; a name that it does not know must at least look like a public one.

        Raises: UnsafeInput.
        """
        host, port = _bare(url.raw_host or ""), url.port or 0
        try:
            self.resolve(host, port)
            return
        except OSError:
            pass
        if self.vouches(url) or _literal(host) is not None:
            return
        if "." not in host or host.endswith(_INNER_NAMES):
            raise _refuse(host, "private_address", "its name is one of a private network", listed_in=self._setting)
        self._check_port(host, port)

    def resolve(self, host: str, port: int) -> list[str]:
        """Look ``host`` up (blocking) and return its addresses, all vetted.

        Raises: UnsafeInput if any of them is refused; OSError if there is none.
        """
        host = _bare(host)
        addresses = [ipaddress.ip_address(text) for text in self._lookup(host, port)]
        if not addresses:
            raise OSError(f"no address for {host}")
        for address in addresses:
            self._vet(address, host=host, port=port)
        return [str(address) for address in addresses]

    def _vet(self, address: IPAddress, *, host: str, port: int) -> None:
        if any(entry.covers(_unwrap(address), host=host, port=port) for entry in self._allowed):
            return
        if not is_public(address):
            raise _refuse(host, "private_address", "its address is private or reserved", listed_in=self._setting)
        self._check_port(host, port)

    def _check_port(self, host: str, port: int) -> None:
        if port < 1024 and port not in (80, 443):
            raise _refuse(host, "port", f"port {port} is not used for fetching", listed_in=self._setting)


def parse_url(url: str) -> URL | None:
    """Read a URL as it is asked for; ``None`` for what is none."""
    if len(url) > MAX_URL_CHARS or "\\" in url or not url.isprintable():
        return None
    url = url.strip()
    try:
        # What is already encoded stays as it is: requoting would break foreign signatures in the query.
        parsed = URL(url, encoded=url.isascii() and " " not in url)
        _ = parsed.port
    except ValueError:
        return None
    return parsed if parsed.absolute and _HOST.fullmatch(parsed.raw_host or "") else None


def _bare(host: str) -> str:
    return host.lower().strip("[]").rstrip(".")


def _literal(host: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _numeric(host: str) -> bool:
    """Whether a resolver may read ``host`` as a number (``127.1``, ``0x7f000001``, ``2130706433``)."""
    last = host.rsplit(".", 1)[-1]
    return ":" in host or last.isdigit() or last.startswith("0x")


def _refuse(host: str, reason: str, text: str, *, listed_in: str = "") -> UnsafeInput:
    where = f"host {host!r} is refused: " if host else ""
    hint = f"; the operator may list it in {listed_in}" if listed_in else ""
    return UnsafeInput(f"{where}{text}{hint}", details={"reason": reason, "host": host})
