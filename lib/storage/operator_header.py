"""The operator's own header (``HTTP_AUTH_HEADER_*``), and to which hosts it may go.

URLs are callers': a header that went to any host they name would be theirs. So the operator says which hosts get it.
"""

from dataclasses import dataclass, field

from yarl import URL

from lib.settings import SaladSettings

EVERYWHERE = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorHeader:
    """One header, and entries ``host``, ``host:port``, ``*.domain`` or ``*``; without a name there is none."""

    name: str = ""
    value: str = field(default="", repr=False)
    hosts: tuple[str, ...] = ()

    @classmethod
    def from_settings(cls, settings: SaladSettings) -> "OperatorHeader":
        """Both variables are needed, as in comfyui-api."""
        name, value = settings.http_header_name, settings.http_header_value
        if not name or value is None:
            return cls()
        return cls(name=name, value=value.get_secret_value(), hosts=tuple(map(str.lower, settings.http_header_hosts)))

    @property
    def unused(self) -> str | None:
        """What to tell the operator at start about a header that nobody gets."""
        if self.name and not self.hosts:
            return "HTTP_AUTH_HEADER_NAME is set, but no host is on HTTP_AUTH_HEADER_HOSTS: the header is never sent"
        return None

    def for_(self, url: URL) -> dict[str, str]:
        """What a request to this URL gets."""
        if not self.name or not any(_covers(entry, url) for entry in self.hosts):
            return {}
        return {self.name: self.value}


def _covers(entry: str, url: URL) -> bool:
    host = (url.raw_host or "").lower().rstrip(".")
    if entry == EVERYWHERE:
        return True
    if entry.startswith("*."):
        return host.endswith(entry[1:])
    shown = f"[{host}]" if ":" in host else host
    return entry in (host, shown, f"{shown}:{url.port}")
