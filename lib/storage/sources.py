"""How a caller's URL may be read: as anybody, with the caller's own credentials, or with the operator's keys.

Decides only; ``lib.storage.downloads`` reads. A caller's credentials go to URLs that their pattern matches
(``lib.storage.patterns``), and to nothing that these redirect to. Over plain http they go only to hosts that the
operator vouches for (``FETCH_ALLOW_HOSTS``).
"""

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol
from urllib.parse import quote, unquote_plus, urlsplit

from pydantic import SecretStr
from yarl import URL

from lib.errors import InputFetchFailed, ServiceError
from lib.settings import DeliverySettings
from lib.storage.azure import AzureBlob
from lib.storage.guard import AddressGuard, parse_url
from lib.storage.operator_keys import SALAD, OperatorKeys
from lib.storage.patterns import matches
from lib.storage.s3 import S3Place

S3 = "s3://"
MAX_KEY_BYTES = 1024
HOW_TO = "give credentials of kind s3 for it with the request"

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_REGION = re.compile(r"[A-Za-z0-9-]{1,40}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_NOT_THEIRS = frozenset({"host", "content-length", "transfer-encoding", "connection", "range", "accept-encoding"})
"""Headers that belong to the transfer, not to the caller."""


class Credential(Protocol):
    """What a caller gave to read inputs with; ``lib.jobs.model.Credential`` is one."""

    @property
    def kind(self) -> str: ...

    @property
    def pattern(self) -> str: ...

    @property
    def salad_pattern(self) -> bool: ...

    @property
    def values(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A URL and the rights that it is read with. Equal ones may share a transfer and what is known of it; the same URL
    with other rights is another source. ``place`` and ``key`` are set for ``s3://``, ``blob`` for what is in the
    operator's Azure account; ``query`` is a parameter that only the host is told."""

    url: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    query: tuple[str, str] | None = field(default=None, repr=False)
    place: S3Place | None = None
    key: str = ""
    blob: AzureBlob | None = None

    @property
    def asked_url(self) -> str:
        """The URL that is asked, with secrets in it."""
        return self.url if self.query is None else _with_parameter(self.url, *self.query)

    @property
    def identity(self) -> str:
        """A name for it that tells nothing: a hash over URL and rights."""
        place = self.place
        rights = (place.endpoint_url, place.region, place.access_key_id, place.secret_access_key) if place else ()
        token = place.session_token if place else None
        told = repr((self.url, self.headers, rights, token, self.query, self.blob is not None))
        return sha256(told.encode("utf-8", "surrogatepass")).hexdigest()


class Sources:
    """Finds the rights for URLs. The operator's ``S3_*`` keys are used for buckets on ``S3_ALLOW_BUCKETS``, and in the
    operator's own bucket below the folder of the tenant's outputs; ``keys`` for Salad's jobs."""

    def __init__(self, *, settings: DeliverySettings, guard: AddressGuard, keys: OperatorKeys | None = None) -> None:
        self._settings = settings
        self._guard = guard
        self._keys = keys

    def find(
        self,
        url: str,
        *,
        field: str,
        credentials: Sequence[Credential] = (),
        owner: str | None = "",
        dialect: str = "",
    ) -> Source:
        """Decide for a URL in ``field`` of a job of ``owner`` ("": the operator, ``None``: a caller whom nobody knows);
        the first matching credential counts. ``dialect``: of which API the job is.

        Raises: InputFetchFailed (no rights, or unusable ones), UnsafeInput (an endpoint that is refused).
        """
        url, keys = url.strip(), self._keys if dialect == SALAD else None
        try:
            if url[: len(S3)].lower() == S3:
                return self._in_s3(url, credentials, owner, keys)
            return self._on_web(url, credentials, keys)
        except ServiceError as error:
            details = {"field": field, **error.details}
            raise type(error)(f"{field}: {error.message}", details=details) from error

    def _on_web(self, url: str, credentials: Sequence[Credential], keys: OperatorKeys | None) -> Source:
        parsed = parse_url(url)
        if parsed is None:
            return Source(url=url)  # the guard says what is wrong with it
        login: dict[str, str] = {}
        if keys is not None and (parsed.raw_user is not None or parsed.raw_password is not None):
            login, parsed = _login(parsed), parsed.with_user(None)
            url = str(parsed)
        found = _matching(parsed, credentials)
        if found is not None and found.kind == "query":
            return Source(url=url, query=self._parameter(parsed, found))
        headers = dict(found.values) if found is not None else login
        if headers:
            self._check_private(parsed)
            return Source(url=url, headers=_sendable(headers))
        if keys is None or found is not None:
            return Source(url=url)
        if (blob := keys.blob(parsed)) is not None:
            return Source(url=url, blob=blob)
        return Source(url=url, headers=tuple(sorted(keys.headers(parsed).items())))

    def _parameter(self, url: URL, found: Credential) -> tuple[str, str]:
        self._check_private(url)
        name, value = found.values.get("query_param", ""), found.values.get("query_value", "")
        if not name or not (name + value).isprintable():
            raise _failed("bad_credentials", "the query parameter of the credentials for it can't be sent")
        return name, value

    def _check_private(self, url: URL) -> None:
        """Credentials are not told to whoever listens in between. Raises: InputFetchFailed."""
        if url.scheme != "https" and not self._guard.vouches(url):
            raise _failed("credentials_over_http", "credentials are sent over https only; write the URL with https://")

    def _in_s3(
        self, url: str, credentials: Sequence[Credential], owner: str | None, keys: OperatorKeys | None
    ) -> Source:
        bucket, _, key = url[len(S3) :].partition("/")
        if not _BUCKET.fullmatch(bucket) or not 0 < len(key.encode("utf-8", "replace")) <= MAX_KEY_BYTES:
            raise _failed("invalid_url", "not a usable s3 URL; expected s3://<bucket>/<key>")
        if not key.isprintable() or {".", ".."} & set(key.split("/")):
            raise _failed("invalid_url", "the key of an s3 URL must be printable and without '.' or '..' parts")
        url = f"{S3}{bucket}/{key}"
        for given in credentials:
            if given.kind == "s3" and matches(given.pattern, url, salad=given.salad_pattern):
                return Source(url=url, place=self._own_place(bucket, given.values), key=key)
        return Source(url=url, place=self._operator_place(bucket, key, owner, keys), key=key)

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

    def _is_listed(self, bucket: str, key: str, owner: str | None) -> bool:
        """Whether the ``S3_*`` keys may be used for it."""
        settings = self._settings
        folder = settings.s3_prefix + tenant_folder(owner or "")
        own = owner is not None and bucket == settings.s3_bucket_name and key.startswith(folder)
        return own or bucket in settings.s3_allow_buckets

    def _operator_place(self, bucket: str, key: str, owner: str | None, keys: OperatorKeys | None) -> S3Place:
        settings = self._settings
        listed = self._is_listed(bucket, key, owner)
        if listed and settings.s3_access_key_id is not None and settings.s3_secret_access_key is not None:
            return self._place(bucket, settings.s3_access_key_id, settings.s3_secret_access_key)
        if keys is not None and (place := keys.s3_place(bucket)) is not None:
            return place
        if not listed:
            raise _failed("no_credentials", f"bucket {bucket!r} can't be read here without keys; {HOW_TO}")
        raise _failed("no_credentials", f"no S3 keys are configured here; {HOW_TO}")

    def _place(self, bucket: str, key_id: SecretStr, secret: SecretStr) -> S3Place:
        settings = self._settings
        token = settings.s3_session_token
        return S3Place(
            bucket_name=bucket,
            access_key_id=key_id.get_secret_value(),
            secret_access_key=secret.get_secret_value(),
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


def _matching(url: URL, credentials: Sequence[Credential]) -> Credential | None:
    """The first credential for web servers that is for this URL, as yarl writes it: with a path after every host, so
    that no part of a host's name can be looked for behind it."""
    text, requoted = str(url), str(URL(str(url)))
    for one in credentials:
        given = text if one.salad_pattern else requoted
        if one.kind in ("http", "query") and matches(one.pattern, given, salad=one.salad_pattern):
            return one
    return None


def _login(url: URL) -> dict[str, str]:
    """Name and password of a URL as a header."""
    text = f"{url.user or ''}:{url.password or ''}"
    return {"Authorization": f"Basic {b64encode(text.encode()).decode('ascii')}"}


def _sendable(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    for name, value in headers.items():
        if not _HEADER.fullmatch(name) or name.lower() in _NOT_THEIRS or not value.isprintable():
            raise _failed("bad_credentials", f"the header {name[:40]!r} of the credentials for it can't be sent")
    return tuple(sorted(headers.items()))


def _with_parameter(url: str, name: str, value: str) -> str:
    """Set a parameter of a URL; what else is in its query stays as it is written."""
    parts = urlsplit(url)
    others = [one for one in parts.query.split("&") if one and unquote_plus(one.partition("=")[0]) != name]
    query = "&".join([*others, f"{quote(name, safe='')}={quote(value, safe='')}"])
    return parts._replace(query=query, fragment="").geturl()


def _failed(reason: str, text: str) -> InputFetchFailed:
    return InputFetchFailed(text, details={"reason": reason})
