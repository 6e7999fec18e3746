"""How a caller's URL may be read: as anybody, with the caller's own credentials, or with the operator's S3 keys.

Decides only; ``lib.storage.downloads`` reads. A caller's credentials go to URLs that their pattern matches: ``?`` is
one character and ``*`` any number of them, both without ``/``; ``**``, and a ``*`` at the end, stand for anything.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from yarl import URL

from lib.errors import InputFetchFailed, ServiceError
from lib.settings import DeliverySettings
from lib.storage.guard import AddressGuard
from lib.storage.s3 import S3Place

S3 = "s3://"
MAX_PATTERN_CHARS = 2048
MAX_URL_CHARS = 8192
MAX_KEY_BYTES = 1024
HOW_TO = "give credentials of kind s3 for it with the request"

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_REGION = re.compile(r"[A-Za-z0-9-]{1,40}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_NOT_THEIRS = frozenset({"host", "content-length", "transfer-encoding", "connection", "range", "accept-encoding"})
"""Headers that belong to the transfer, not to the caller."""
_SIGN = re.compile(r"\*\*|.", re.DOTALL)


class Credential(Protocol):
    """What a caller gave to read inputs with; ``lib.jobs.model.Credential`` is one."""

    @property
    def kind(self) -> str: ...

    @property
    def pattern(self) -> str: ...

    @property
    def values(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A URL and the rights that it is read with. Equal ones may share a transfer and what is known of it; the same URL
    with other rights is another source. ``place`` and ``key`` are set for ``s3://``."""

    url: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    place: S3Place | None = None
    key: str = ""

    @property
    def identity(self) -> str:
        """A name for it that tells nothing: a hash over URL and rights."""
        place = self.place
        rights = (place.endpoint_url, place.region, place.access_key_id, place.secret_access_key) if place else ()
        told = repr((self.url, self.headers, rights, place.session_token if place else None))
        return sha256(told.encode("utf-8", "surrogatepass")).hexdigest()


class Sources:
    """Finds the rights for URLs. The operator's keys are used for buckets on ``S3_ALLOW_BUCKETS``, and in the
    operator's own bucket below the folder of the tenant's outputs."""

    def __init__(self, *, settings: DeliverySettings, guard: AddressGuard) -> None:
        self._settings = settings
        self._guard = guard

    def find(self, url: str, *, field: str, credentials: Sequence[Credential] = (), owner: str | None = "") -> Source:
        """Decide for a URL in ``field`` of a job of ``owner`` ("": the operator, ``None``: a caller whom nobody knows);
        the first matching credential counts.

        Raises: InputFetchFailed (no rights, or unusable ones), UnsafeInput (an endpoint that is refused).
        """
        url = url.strip()
        try:
            if url[: len(S3)].lower() == S3:
                return self._in_s3(url, credentials, owner)
            return Source(url=url, headers=_headers(url, credentials))
        except ServiceError as error:
            details = {"field": field, **error.details}
            raise type(error)(f"{field}: {error.message}", details=details) from error

    def _in_s3(self, url: str, credentials: Sequence[Credential], owner: str | None) -> Source:
        bucket, _, key = url[len(S3) :].partition("/")
        if not _BUCKET.fullmatch(bucket) or not 0 < len(key.encode("utf-8", "replace")) <= MAX_KEY_BYTES:
            raise _failed("invalid_url", "not a usable s3 URL; expected s3://<bucket>/<key>")
        if not key.isprintable() or {".", ".."} & set(key.split("/")):
            raise _failed("invalid_url", "the key of an s3 URL must be printable and without '.' or '..' parts")
        url = f"{S3}{bucket}/{key}"
        for given in credentials:
            if given.kind == "s3" and matches(given.pattern, url):
                return Source(url=url, place=self._own_place(bucket, given.values), key=key)
        return Source(url=url, place=self._operator_place(bucket, key, owner), key=key)

    def _own_place(self, bucket: str, values: Mapping[str, str]) -> S3Place:
        missing = [name for name in ("access_key_id", "secret_access_key") if not values.get(name)]
        if missing:
            raise _failed("bad_credentials", f"the s3 credentials for it lack {' and '.join(missing)}")
        endpoint, region = values.get("endpoint_url") or None, values.get("region") or None
        if region is not None and not _REGION.fullmatch(region):
            raise _failed("bad_credentials", "the region of the s3 credentials for it is not one")
        if endpoint is not None:
            self._guard.check_url(endpoint)
        return S3Place(
            bucket_name=bucket,
            access_key_id=values["access_key_id"],
            secret_access_key=values["secret_access_key"],
            session_token=values.get("session_token") or None,
            endpoint_url=endpoint,
            region=region,
        )

    def _operator_place(self, bucket: str, key: str, owner: str | None) -> S3Place:
        settings = self._settings
        folder = settings.s3_prefix + tenant_folder(owner or "")
        own = owner is not None and bucket == settings.s3_bucket_name and key.startswith(folder)
        if not own and bucket not in settings.s3_allow_buckets:
            raise _failed("no_credentials", f"bucket {bucket!r} can't be read here without keys; {HOW_TO}")
        if settings.s3_access_key_id is None or settings.s3_secret_access_key is None:
            raise _failed("no_credentials", f"no S3 keys are configured here; {HOW_TO}")
        token = settings.s3_session_token
        return S3Place(
            bucket_name=bucket,
            access_key_id=settings.s3_access_key_id.get_secret_value(),
            secret_access_key=settings.s3_secret_access_key.get_secret_value(),
            session_token=token.get_secret_value() if token else None,
            endpoint_url=settings.s3_endpoint_url,
            region=settings.s3_region,
            addressing=settings.s3_addressing,
            trusted=True,
        )


def tenant_folder(owner: str) -> str:
    """Return where a tenant's files are in the operator's bucket, "" for the operator's own: apart from each other and,
    by its first letter, from every request id."""
    return f"_{owner}/" if owner else ""


def _headers(url: str, credentials: Sequence[Credential]) -> tuple[tuple[str, str], ...]:
    given = [one for one in credentials if one.kind == "http"]
    if not given:
        return ()
    try:
        parsed = URL(url)
    except ValueError:
        return ()  # the guard says what is wrong with it
    # As yarl writes it: a path after every host, so that no part of a host's name can be looked for behind it.
    found = next((one for one in given if matches(one.pattern, str(parsed))), None)
    if found is None or not parsed.absolute:
        return ()
    if parsed.scheme != "https":
        raise _failed("credentials_over_http", "credentials are sent over https only; write the URL with https://")
    for name, value in found.values.items():
        if not _HEADER.fullmatch(name) or name.lower() in _NOT_THEIRS or not value.isprintable():
            raise _failed("bad_credentials", f"the header {name[:40]!r} of the credentials for it can't be sent")
    return tuple(sorted(found.values.items()))


def matches(pattern: str, url: str) -> bool:
    """Match a glob in time that only grows with both lengths: a pattern is a stranger's, too.

    The bits of ``at`` are the places in ``url`` that the pattern read so far may end at.
    """
    if len(pattern) > MAX_PATTERN_CHARS or len(url) > MAX_URL_CHARS:
        return False
    if pattern.endswith("*"):
        pattern += "*"
    where: defaultdict[str, int] = defaultdict(int)
    for place, letter in enumerate(url):
        where[letter] |= 1 << place
    everywhere = (1 << len(url)) - 1
    inside, at = everywhere & ~where["/"], 1
    for sign in _SIGN.findall(pattern):
        if sign == "**":
            at = -(at & -at) & (everywhere << 1 | 1)
        elif sign == "*":
            at |= ((at & inside) + inside) ^ inside
        else:
            at = (at & (inside if sign == "?" else where[sign])) << 1
        if not at:
            return False
    return bool(at >> len(url) & 1)


def _failed(reason: str, text: str) -> InputFetchFailed:
    return InputFetchFailed(text, details={"reason": reason})
