"""How a node pack is named: a repository's URL, as people paste it, or a name in the registry of nodes. Pure."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

SCHEMES = frozenset({"http", "https", "ssh", "git", "file"})
REGISTRY_NAME = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(@(?P<version>[A-Za-z0-9][A-Za-z0-9.+_-]*))?")
SHORT_SSH = re.compile(r"(?P<host>[\w.-]+@[\w.-]+:)(?P<path>[^:]+)")
WEB_PAGE = re.compile(r"(?P<path>(?:/[^/]+){2,}?)/(?:-/)?(?:tree|commit|releases/tag)/(?P<ref>.+)")
BITBUCKET_PAGE = re.compile(r"(?P<path>/[^/]+/[^/]+)/(?:src|commits)/(?P<ref>[^/]+)(?:/.*)?")
WITH_REF = re.compile(r"(?P<path>[^@]+)@(?P<ref>.+)")
FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
REF = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._/+-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSource:
    """One pack. ``url`` is None for a pack of the registry, whose ``name`` then is its id there.

    ``ref``: branch, tag or commit; in the registry a version. None = the newest, at its first installation.
    """

    name: str
    url: str | None
    ref: str | None

    @property
    def key(self) -> str:
        """Name what was asked for, for the lock file."""
        return f"{self.url or self.name}@{self.ref or ''}"

    @property
    def title(self) -> str:
        """Name it for people."""
        return f"{self.name}@{self.ref}" if self.ref else self.name


def parse_source(text: str, *, ref: str | None = None) -> PackSource:
    """Read a pack's name; ``ref`` wins over one in the text. Raises ValueError that says what was expected."""
    text = text.strip()
    found = REGISTRY_NAME.fullmatch(text)
    if found is not None:
        return PackSource(name=found["name"], url=None, ref=_checked(ref or found["version"]))
    url, in_url = _parted(text.removeprefix("git+"))
    folder = url.replace(":", "/").rstrip("/").rpartition("/")[2].removesuffix(".git")
    if not FOLDER.fullmatch(folder):
        raise ValueError(f"{text!r} names no repository")
    return PackSource(name=folder, url=url, ref=_checked(ref or in_url))


def _parted(text: str) -> tuple[str, str | None]:
    short = SHORT_SSH.fullmatch(text)
    if short is not None:
        path, ref = _path_and_ref(short["path"], host="")
        return short["host"] + path, ref
    parts = urlsplit(text)
    if parts.scheme not in SCHEMES or not parts.path.strip("/") or re.search(r"\s", text):
        raise ValueError(f"{text!r}: expected the URL of a git repository or a name in the registry of nodes")
    path, ref = _path_and_ref(parts.path, host=parts.hostname or "")
    return urlunsplit((parts.scheme, parts.netloc, path, "", "")), ref


def _path_and_ref(path: str, *, host: str) -> tuple[str, str | None]:
    page = BITBUCKET_PAGE.fullmatch(path) if "bitbucket" in host else WEB_PAGE.fullmatch(path)
    page = page or WITH_REF.fullmatch(path)
    if page is None:
        return path.rstrip("/"), None
    return page["path"].rstrip("/"), page["ref"].rstrip("/")


def _checked(ref: str | None) -> str | None:
    if ref is not None and (not REF.fullmatch(ref) or ".." in ref):
        raise ValueError(f"{ref!r} is no branch, tag or commit")
    return ref
