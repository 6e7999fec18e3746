"""Where a job's files go, and in which form: pure decisions from the request's blocks and the operator's settings.

The operator's credentials never leave for a place that a caller names, but for buckets on the allow-list.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lib.delivery.blocks import INPUT, bounded, check_url, given, known
from lib.delivery.encoders import FORMATS, read_options
from lib.delivery.endpoints import Endpoint, Unclear, read_endpoint
from lib.delivery.refusals import Fields, Loc, invalid
from lib.jobs.model import ConvertSpec, PutTarget, S3Target, ThumbnailSpec
from lib.settings import DeliverySettings
from lib.storage.guard import AddressGuard

MAX_PREFIX = 512
MAX_TIMEOUT_S = 300.0
MAX_ATTEMPTS = 10
MAX_PUT_TIMEOUT_S = 3600.0
MAX_PUT_URLS = 1000
MAX_THUMBNAIL_PIXELS = 2048
THUMBNAIL_PIXELS = 256
S3_FIELDS = Fields(loc=(*INPUT, "s3"))
PUT_FIELDS = Fields(loc=(*INPUT, "upload"), names={"urls": "put_urls"})
CONVERT_LOC: Loc = (*INPUT, "convert_output")
THUMBNAIL_LOC: Loc = (*INPUT, "thumbnail")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_OWN_HEADERS = frozenset(
    {
        *("host", "content-length", "content-encoding", "transfer-encoding", "connection", "keep-alive"),
        *("expect", "upgrade", "te", "trailer"),
    }
)
"""What belongs to our end of the connection."""


def plan_s3(
    block: Mapping[str, Any] | None,
    settings: DeliverySettings,
    *,
    guard: AddressGuard | None = None,
    fields: Fields = S3_FIELDS,
) -> S3Target | None:
    """Decide the bucket for a request with the ``s3`` block ``block``; ``None``: nothing is uploaded. ``fields``: where
    the request has that block, for errors.

    With a ``guard`` an endpoint whose address is plainly private is refused here, before any GPU time is spent.

    Raises: InvalidRequest (half of a configuration), UnsafeInput.
    """
    said = given(block, fields.loc)
    keys = [name for name in ("access_key_id", "secret_access_key") if name in said]
    if len(keys) == 1:
        missing = "secret_access_key" if keys == ["access_key_id"] else "access_key_id"
        raise invalid(fields.at(missing), f"is needed together with {fields.called(keys[0])}")
    return _own_target(said, guard, fields) if keys else _operator_target(said, settings, fields)


def missing_for_s3(settings: DeliverySettings) -> tuple[str, ...]:
    """Name the variables without which the operator's bucket, or one key of two, is set to no effect."""
    keys = {"S3_ACCESS_KEY_ID": settings.s3_access_key_id, "S3_SECRET_ACCESS_KEY": settings.s3_secret_access_key}
    missing = tuple(name for name, key in keys.items() if key is None)
    return missing if settings.s3_bucket_name is not None or len(missing) == 1 else ()


def _own_target(said: Mapping[str, Any], guard: AddressGuard | None, fields: Fields) -> S3Target:
    """A block with keys of its own stands alone: region and endpoint come from nowhere else."""
    place = _own_place(said, guard, fields)
    if place.bucket_name is None:
        raise invalid(fields.at("bucket_name"), "is needed together with credentials")
    return S3Target(
        bucket_name=place.bucket_name,
        access_key_id=str(said["access_key_id"]),
        secret_access_key=str(said["secret_access_key"]),
        session_token=said.get("session_token"),
        endpoint_url=place.url,
        region=said.get("region") or place.region,
        folder=place.folder + _folder(said.get("prefix", ""), fields),
        connect_timeout_s=bounded(said.get("connect_timeout", 60.0), MAX_TIMEOUT_S, loc=fields.at("connect_timeout")),
        connect_attempts=int(bounded(said.get("connect_attempts", 3), MAX_ATTEMPTS, loc=fields.at("connect_attempts"))),
    )


def _own_place(said: Mapping[str, Any], guard: AddressGuard | None, fields: Fields) -> Endpoint:
    bucket_name = str(said["bucket_name"]) if "bucket_name" in said else None
    endpoint = said.get("endpoint_url")
    if endpoint is None:
        return Endpoint(url=None, bucket_name=bucket_name)
    check_url(endpoint, guard, loc=fields.at("endpoint_url"))
    try:
        return read_endpoint(str(endpoint), bucket_name=bucket_name)
    except Unclear as error:
        raise invalid(fields.at("endpoint_url"), str(error)) from error


def _folder(prefix: Any, fields: Fields) -> str:
    """A request's ``prefix`` as folders: ``a/b`` and ``/a/b/`` are the same."""
    parts = [part for part in str(prefix).split("/") if part]
    if not isinstance(prefix, str) or len(prefix) > MAX_PREFIX or not prefix.isprintable() or {".", ".."} & {*parts}:
        raise invalid(fields.at("prefix"), f"must be folder names of at most {MAX_PREFIX} printable characters")
    return "".join(f"{part}/" for part in parts)


def _operator_target(said: Mapping[str, Any], settings: DeliverySettings, fields: Fields) -> S3Target | None:
    """The operator's place, at most with another of the allowed buckets or another region."""
    keys = f"{fields.called('access_key_id')} and {fields.called('secret_access_key')}"
    endpoint = said.get("endpoint_url")
    if endpoint is not None and str(endpoint).rstrip("/") != (settings.s3_endpoint_url or "").rstrip("/"):
        raise invalid(fields.at("endpoint_url"), f"needs {keys} of its own")
    bucket = said.get("bucket_name") or settings.s3_bucket_name
    asked = next((name for name in ("bucket_name", "region", "endpoint_url") if name in said), None)
    if settings.s3_access_key_id is None or settings.s3_secret_access_key is None or bucket is None:
        if asked is not None:
            raise invalid(
                fields.at(asked), f"needs {keys}, and {fields.called('bucket_name')}: none are configured here"
            )
        return None
    if bucket != settings.s3_bucket_name and bucket not in settings.s3_allow_buckets:
        raise invalid(fields.at("bucket_name"), f"needs {keys}; it is not on S3_ALLOW_BUCKETS")
    token = settings.s3_session_token
    return S3Target(
        bucket_name=str(bucket),
        access_key_id=settings.s3_access_key_id.get_secret_value(),
        secret_access_key=settings.s3_secret_access_key.get_secret_value(),
        session_token=token.get_secret_value() if token else None,
        endpoint_url=settings.s3_endpoint_url,
        region=said.get("region") or settings.s3_region,
        prefix=settings.s3_prefix,
        folder=_folder(said.get("prefix", ""), fields),
        connect_timeout_s=settings.s3_connect_timeout_s,
        connect_attempts=settings.s3_connect_attempts,
        operator=True,
    )


def plan_put(
    block: Mapping[str, Any] | Sequence[str] | None, *, guard: AddressGuard | None = None, fields: Fields = PUT_FIELDS
) -> PutTarget | None:
    """Read presigned PUT URLs, one a file in the order of the outputs: ``{"urls": [...], "headers": {...},
    "timeout": seconds}``, or the list alone. They win over S3, see ``OutputDelivery``.

    Raises: InvalidRequest, UnsafeInput.
    """
    said = given(block if block is None or isinstance(block, Mapping) else {"urls": block}, fields.loc)
    known(said, ("urls", "headers", "timeout"), fields)
    urls = said.get("urls")
    if not said or urls == []:
        return None
    if not isinstance(urls, list | tuple) or len(urls) > MAX_PUT_URLS:
        raise invalid(fields.at("urls"), f"must be a list of at most {MAX_PUT_URLS} URLs")
    for number, url in enumerate(urls):
        check_url(url, guard, loc=(*fields.at("urls"), number), own=False)
    timeout_s = bounded(said.get("timeout", MAX_TIMEOUT_S), MAX_PUT_TIMEOUT_S, loc=fields.at("timeout"))
    return PutTarget(urls=tuple(urls), headers=_headers(said.get("headers"), fields.at("headers")), timeout_s=timeout_s)


def _headers(said: Any, loc: Loc) -> dict[str, str]:
    if said is None:
        return {}
    if not isinstance(said, Mapping) or len(said) > 32:
        raise invalid(loc, "must be an object of at most 32 headers")
    for name, value in said.items():
        if not isinstance(value, str) or len(value) > 4096 or not (value.isascii() and value.isprintable()):
            raise invalid((*loc, name), "must be a printable ASCII string")
        if not _HEADER.fullmatch(name) or name.lower() in _OWN_HEADERS:
            raise invalid((*loc, name), "is not a header that may be set")
    return dict(said)


def plan_convert(block: Mapping[str, Any] | str | None, *, loc: Loc = CONVERT_LOC) -> ConvertSpec | None:
    """Read ``{"format": ..., "options": {...}}``, or the format alone; options by libvips' names or sharp's.

    Raises: InvalidRequest naming the field, and the names, types or range that were expected.
    """
    said = given({"format": block} if isinstance(block, str) else block, loc)
    if not said:
        return None
    known(said, ("format", "options"), Fields(loc=loc))
    format_ = said.get("format")
    if format_ not in FORMATS:
        raise invalid((*loc, "format"), f"must be one of {', '.join(FORMATS)}")
    options = said.get("options", {})
    if not isinstance(options, Mapping):
        raise invalid((*loc, "options"), "must be an object")
    chosen, warnings = read_options(format_, options, loc=(*loc, "options"))
    return ConvertSpec(format=format_, options=chosen, warnings=warnings)


def plan_thumbnail(block: Mapping[str, Any] | bool | int | None, *, loc: Loc = THUMBNAIL_LOC) -> ThumbnailSpec | None:
    """Read ``{"width": pixels, "height": pixels, "format": "webp" or "jpeg"}``, ``true``, or one number for both.

    Raises: InvalidRequest.
    """
    if block is None or block is False:
        return None
    if isinstance(block, int):
        block = {} if block is True else {"width": block}
    said = given(block, loc)
    known(said, ("width", "height", "format"), Fields(loc=loc))
    width = said.get("width", said.get("height", THUMBNAIL_PIXELS))
    height = said.get("height", width)
    for name, value in (("width", width), ("height", height)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_THUMBNAIL_PIXELS:
            raise invalid((*loc, name), f"must be a whole number from 1 to {MAX_THUMBNAIL_PIXELS}")
    format_ = said.get("format", "webp")
    if format_ not in ("webp", "jpeg", "jpg"):
        raise invalid((*loc, "format"), "must be webp, jpeg or jpg")
    return ThumbnailSpec(width=width, height=height, format=format_)
