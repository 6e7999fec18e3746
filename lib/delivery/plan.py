"""Where a job's files and its webhooks go, and in which form: pure decisions from the request's blocks and the
operator's settings.

An empty string or ``null`` counts as not given, since published examples send blocks full of them. The operator's
credentials and secrets never leave for a place that a caller names, but for buckets on the allow-list.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import urlsplit

from lib.delivery.encoders import FORMATS, read_options
from lib.delivery.refusals import Loc, dotted, invalid
from lib.delivery.signatures import UnusableSecret, check_secret, standard_keys
from lib.errors import UnsafeInput
from lib.jobs.model import (
    OUTCOMES,
    ConvertSpec,
    JobEvent,
    PutTarget,
    S3Target,
    ThumbnailSpec,
    WebhookScheme,
    WebhookTarget,
)
from lib.settings import DeliverySettings, SettingsError
from lib.storage.guard import MAX_URL_CHARS, AddressGuard

MAX_PREFIX = 512
MAX_TIMEOUT_S = 300.0
MAX_ATTEMPTS = 10
MAX_PUT_TIMEOUT_S = 3600.0
MAX_PUT_URLS = 1000
MAX_WEBHOOKS = 10
MAX_THUMBNAIL_PIXELS = 2048
THUMBNAIL_PIXELS = 256
LOC: Loc = ("body", "input")
E = TypeVar("E", bound=StrEnum)
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_OWN_HEADERS = frozenset(
    {
        *("host", "content-length", "content-encoding", "transfer-encoding", "connection", "keep-alive"),
        *("expect", "upgrade", "te", "trailer"),
    }
)
"""What belongs to our end of the connection."""


def plan_s3(
    block: Mapping[str, Any] | None, settings: DeliverySettings, *, guard: AddressGuard | None = None
) -> S3Target | None:
    """Decide the bucket for a request with the ``s3`` block ``block``; ``None``: nothing is uploaded.

    With a ``guard`` an endpoint whose address is plainly private is refused here, before any GPU time is spent.

    Raises: InvalidRequest (half of a configuration), UnsafeInput.
    """
    loc = (*LOC, "s3")
    given = _given(block, loc)
    keys = [name for name in ("access_key_id", "secret_access_key") if name in given]
    if len(keys) == 1:
        missing = "secret_access_key" if keys == ["access_key_id"] else "access_key_id"
        raise invalid((*loc, missing), f"is needed together with {keys[0]}")
    return _own_target(given, guard) if keys else _operator_target(given, settings)


def _own_target(given: Mapping[str, Any], guard: AddressGuard | None) -> S3Target:
    """A block with keys of its own stands alone: region and endpoint come from nowhere else."""
    if "bucket_name" not in given:
        raise invalid((*LOC, "s3", "bucket_name"), "is needed together with credentials")
    endpoint = given.get("endpoint_url")
    if endpoint is not None:
        _check_url(str(endpoint), guard, loc=(*LOC, "s3", "endpoint_url"))
    return S3Target(
        bucket_name=str(given["bucket_name"]),
        access_key_id=str(given["access_key_id"]),
        secret_access_key=str(given["secret_access_key"]),
        session_token=given.get("session_token"),
        endpoint_url=endpoint,
        region=given.get("region"),
        folder=_folder(given.get("prefix", "")),
        connect_timeout_s=_bounded(
            given.get("connect_timeout", 60.0), MAX_TIMEOUT_S, loc=(*LOC, "s3", "connect_timeout")
        ),
        connect_attempts=int(
            _bounded(given.get("connect_attempts", 3), MAX_ATTEMPTS, loc=(*LOC, "s3", "connect_attempts"))
        ),
    )


def _folder(prefix: Any) -> str:
    """A request's ``prefix`` as folders: ``a/b`` and ``/a/b/`` are the same."""
    parts = [part for part in str(prefix).split("/") if part]
    if not isinstance(prefix, str) or len(prefix) > MAX_PREFIX or not prefix.isprintable() or {".", ".."} & {*parts}:
        raise invalid((*LOC, "s3", "prefix"), f"must be folder names of at most {MAX_PREFIX} printable characters")
    return "".join(f"{part}/" for part in parts)


def _operator_target(given: Mapping[str, Any], settings: DeliverySettings) -> S3Target | None:
    """The operator's place, at most with another of the allowed buckets or another region."""
    endpoint = given.get("endpoint_url")
    if endpoint is not None and str(endpoint).rstrip("/") != (settings.s3_endpoint_url or "").rstrip("/"):
        raise invalid((*LOC, "s3", "endpoint_url"), "needs access_key_id and secret_access_key of its own")
    bucket = given.get("bucket_name") or settings.s3_bucket_name
    asked = next((name for name in ("bucket_name", "region", "endpoint_url") if name in given), None)
    if settings.s3_access_key_id is None or settings.s3_secret_access_key is None or bucket is None:
        if asked is not None:
            raise invalid(
                (*LOC, "s3", asked), "needs access_key_id, secret_access_key and bucket_name: none are configured here"
            )
        return None
    if bucket != settings.s3_bucket_name and bucket not in settings.s3_allow_buckets:
        raise invalid(
            (*LOC, "s3", "bucket_name"), "needs access_key_id and secret_access_key; it is not on S3_ALLOW_BUCKETS"
        )
    token = settings.s3_session_token
    return S3Target(
        bucket_name=str(bucket),
        access_key_id=settings.s3_access_key_id.get_secret_value(),
        secret_access_key=settings.s3_secret_access_key.get_secret_value(),
        session_token=token.get_secret_value() if token else None,
        endpoint_url=settings.s3_endpoint_url,
        region=given.get("region") or settings.s3_region,
        prefix=settings.s3_prefix,
        folder=_folder(given.get("prefix", "")),
        connect_timeout_s=settings.s3_connect_timeout_s,
        connect_attempts=settings.s3_connect_attempts,
        operator=True,
    )


def plan_put(
    block: Mapping[str, Any] | Sequence[str] | None, *, guard: AddressGuard | None = None, loc: Loc = (*LOC, "put")
) -> PutTarget | None:
    """Read presigned PUT URLs, one a file in the order of the outputs: ``{"urls": [...], "headers": {...},
    "timeout": seconds}``, or the list alone. They win over S3, see ``OutputDelivery``.

    Raises: InvalidRequest, UnsafeInput.
    """
    given = _given(block if block is None or isinstance(block, Mapping) else {"urls": block}, loc)
    _known(given, ("urls", "headers", "timeout"), loc)
    urls = given.get("urls")
    if not given or urls == []:
        return None
    if not isinstance(urls, list | tuple) or len(urls) > MAX_PUT_URLS:
        raise invalid((*loc, "urls"), f"must be a list of at most {MAX_PUT_URLS} URLs")
    for number, url in enumerate(urls):
        _check_url(url, guard, loc=(*loc, "urls", number), own=False)
    timeout_s = _bounded(given.get("timeout", MAX_TIMEOUT_S), MAX_PUT_TIMEOUT_S, loc=(*loc, "timeout"))
    return PutTarget(urls=tuple(urls), headers=_headers(given.get("headers"), (*loc, "headers")), timeout_s=timeout_s)


def _headers(given: Any, loc: Loc) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or len(given) > 32:
        raise invalid(loc, "must be an object of at most 32 headers")
    for name, value in given.items():
        if not isinstance(value, str) or len(value) > 4096 or not (value.isascii() and value.isprintable()):
            raise invalid((*loc, name), "must be a printable ASCII string")
        if not _HEADER.fullmatch(name) or name.lower() in _OWN_HEADERS:
            raise invalid((*loc, name), "is not a header that may be set")
    return dict(given)


def plan_convert(block: Mapping[str, Any] | str | None, *, loc: Loc = (*LOC, "convert_output")) -> ConvertSpec | None:
    """Read ``{"format": ..., "options": {...}}``, or the format alone; options by libvips' names or sharp's.

    Raises: InvalidRequest naming the field, and the names, types or range that were expected.
    """
    given = _given({"format": block} if isinstance(block, str) else block, loc)
    if not given:
        return None
    _known(given, ("format", "options"), loc)
    format_ = given.get("format")
    if format_ not in FORMATS:
        raise invalid((*loc, "format"), f"must be one of {', '.join(FORMATS)}")
    options = given.get("options", {})
    if not isinstance(options, Mapping):
        raise invalid((*loc, "options"), "must be an object")
    chosen, warnings = read_options(format_, options, loc=(*loc, "options"))
    return ConvertSpec(format=format_, options=chosen, warnings=warnings)


def plan_thumbnail(
    block: Mapping[str, Any] | bool | int | None, *, loc: Loc = (*LOC, "thumbnail")
) -> ThumbnailSpec | None:
    """Read ``{"width": pixels, "height": pixels, "format": "webp" or "jpeg"}``, ``true``, or one number for both.

    Raises: InvalidRequest.
    """
    if block is None or block is False:
        return None
    if isinstance(block, int):
        block = {} if block is True else {"width": block}
    given = _given(block, loc)
    _known(given, ("width", "height", "format"), loc)
    width = given.get("width", given.get("height", THUMBNAIL_PIXELS))
    height = given.get("height", width)
    for name, value in (("width", width), ("height", height)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_THUMBNAIL_PIXELS:
            raise invalid((*loc, name), f"must be a whole number from 1 to {MAX_THUMBNAIL_PIXELS}")
    format_ = given.get("format", "webp")
    if format_ not in ("webp", "jpeg", "jpg"):
        raise invalid((*loc, "format"), "must be webp, jpeg or jpg")
    return ThumbnailSpec(width=width, height=height, format=format_)


def plan_webhooks(
    block: Mapping[str, Any] | None,
    blocks: Sequence[Mapping[str, Any]] | None,
    settings: DeliverySettings,
    *,
    guard: AddressGuard | None = None,
) -> tuple[WebhookTarget, ...]:
    """Decide whom to tell for a request with one ``webhook`` block and a ``webhooks`` list; without either's URL the
    operator's default, if there is one.

    Raises: InvalidRequest, UnsafeInput.
    """
    further = blocks or ()
    if not isinstance(further, list | tuple) or len(further) >= MAX_WEBHOOKS:
        raise invalid((*LOC, "webhooks"), f"must be a list of fewer than {MAX_WEBHOOKS} webhooks")
    own = [
        _own_webhook(one, settings, guard, (*LOC, "webhooks", number), needed=True)
        for number, one in enumerate(further)
    ]
    first = _own_webhook(block, settings, guard, (*LOC, "webhook"))
    found = tuple(target for target in (first, *own) if target is not None)
    if found:
        return found
    default = plan_webhook(block, settings, guard=guard)
    return () if default is None else (default,)


def plan_webhook(
    block: Mapping[str, Any] | None, settings: DeliverySettings, *, guard: AddressGuard | None = None
) -> WebhookTarget | None:
    """Decide whom to tell for a request with the ``webhook`` block ``block``; ``None``: nobody.

    Without a URL of the caller's it is ``WEBHOOK_URL``, which keeps the caller's ``extra_params``. Only that one is
    signed with the operator's secret.

    Raises: InvalidRequest, UnsafeInput.
    """
    own = _own_webhook(block, settings, guard, (*LOC, "webhook"))
    default = default_webhook(settings) if own is None else None
    if default is None:
        return own
    return replace(default, extra_params=(block or {}).get("extra_params") or {})


def default_webhook(settings: DeliverySettings) -> WebhookTarget | None:
    """Return the operator's own target; ``lib.app`` asks once at start, so that a mistake is seen there.

    Raises: SettingsError.
    """
    if settings.webhook_url is None:
        return None
    scheme, secret = WebhookScheme(settings.webhook_scheme), settings.webhook_secret
    try:
        if scheme is WebhookScheme.STANDARD and secret is not None:
            standard_keys(secret.get_secret_value())
        events = frozenset(map(JobEvent, settings.webhook_events)) or OUTCOMES
    except UnusableSecret as error:
        raise SettingsError(f"WEBHOOK_SECRET=***: {error}; WEBHOOK_SCHEME=standard needs base64") from error
    except ValueError as error:
        raise SettingsError(f"WEBHOOK_EVENTS: {error}; expected some of {', '.join(JobEvent)}") from error
    return WebhookTarget(
        url=settings.webhook_url,
        scheme=scheme,
        events=events,
        timeout_s=settings.webhook_timeout_s,
        secret=secret.get_secret_value() if secret else None,
        operator=True,
    )


def _own_webhook(
    block: Mapping[str, Any] | None,
    settings: DeliverySettings,
    guard: AddressGuard | None,
    loc: Loc,
    *,
    needed: bool = False,
) -> WebhookTarget | None:
    """A caller's own target, with nothing of the operator's."""
    given = _given(block, loc)
    if "url" not in given:
        if needed:
            raise invalid((*loc, "url"), "is needed")
        return None
    _check_url(given["url"], guard, loc=(*loc, "url"))
    scheme = _named(WebhookScheme, given.get("scheme", WebhookScheme.WRAPPER), (*loc, "scheme"))
    if scheme is WebhookScheme.STANDARD and "secret" in given:
        check_secret(str(given["secret"]), loc=[str(part) for part in (*loc, "secret")])
    return WebhookTarget(
        url=given["url"],
        scheme=scheme,
        events=_events(given.get("events"), (*loc, "events")),
        extra_params=given.get("extra_params") or {},
        timeout_s=_bounded(given.get("timeout", settings.webhook_timeout_s), MAX_TIMEOUT_S, loc=(*loc, "timeout")),
        secret=given.get("secret"),
    )


def _events(given: Any, loc: Loc) -> frozenset[JobEvent]:
    if given is None or given == []:
        return OUTCOMES
    if not isinstance(given, list | tuple):
        raise invalid(loc, "must be a list")
    return frozenset(_named(JobEvent, name, loc) for name in given)


def _named(kind: type[E], value: Any, loc: Loc) -> E:
    try:
        return kind(value)
    except ValueError as error:
        raise invalid(loc, f"must be of {', '.join(kind)}, not {str(value)[:40]!r}") from error


def _given(block: Mapping[str, Any] | None, loc: Loc) -> dict[str, Any]:
    if block is not None and not isinstance(block, Mapping):
        raise invalid(loc, "must be an object")
    return {name: value for name, value in (block or {}).items() if value not in ("", None)}


def _known(given: Mapping[str, Any], names: tuple[str, ...], loc: Loc) -> None:
    for name in given:
        if name not in names:
            raise invalid((*loc, name), f"is not known; expected {', '.join(names)}")


def _bounded(value: Any, most: float, *, loc: Loc) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid(loc, "must be a number")
    return min(max(float(value), 1.0), most)


def _check_url(url: Any, guard: AddressGuard | None, *, loc: Loc, own: bool = True) -> None:
    """``own``: our own URLs may be named too."""
    try:
        parts = urlsplit(url) if isinstance(url, str) and len(url) <= MAX_URL_CHARS else None
        usable = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise invalid(loc, "must be an http or https URL")
    if guard is None or (own and guard.is_own(url)):
        return
    try:
        guard.check_url(url)
    except UnsafeInput as error:
        field = dotted(loc)
        raise UnsafeInput(f"{field}: {error.message}", details={"field": field, **error.details}) from error
