"""Where a job's files and its webhook go: pure decisions from the request's blocks and the operator's settings.

An empty string or ``null`` counts as not given, since published examples send blocks full of them. The operator's
credentials and secrets never leave for a place that a caller names, but for buckets on the allow-list.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from lib.errors import InvalidRequest, UnsafeInput
from lib.jobs.model import S3Target, WebhookTarget
from lib.settings import DeliverySettings
from lib.storage.guard import AddressGuard

MAX_TIMEOUT_S = 300.0
MAX_ATTEMPTS = 10
LOC = ("body", "input")


def plan_s3(
    block: Mapping[str, Any] | None, settings: DeliverySettings, *, guard: AddressGuard | None = None
) -> S3Target | None:
    """Decide the bucket for a request with the ``s3`` block ``block``; ``None``: nothing is uploaded.

    With a ``guard`` an endpoint whose address is plainly private is refused here, before any GPU time is spent.

    Raises: InvalidRequest (half of a configuration), UnsafeInput.
    """
    given = _given(block)
    keys = [name for name in ("access_key_id", "secret_access_key") if name in given]
    if len(keys) == 1:
        missing = "secret_access_key" if keys == ["access_key_id"] else "access_key_id"
        raise _invalid("s3", missing, f"is needed together with {keys[0]}")
    return _own_target(given, guard) if keys else _operator_target(given, settings)


def _own_target(given: Mapping[str, Any], guard: AddressGuard | None) -> S3Target:
    """A block with keys of its own stands alone: region and endpoint come from nowhere else."""
    if "bucket_name" not in given:
        raise _invalid("s3", "bucket_name", "is needed together with credentials")
    endpoint = given.get("endpoint_url")
    if endpoint is not None:
        _check_url(str(endpoint), guard, block="s3", name="endpoint_url")
    return S3Target(
        bucket_name=str(given["bucket_name"]),
        access_key_id=str(given["access_key_id"]),
        secret_access_key=str(given["secret_access_key"]),
        session_token=given.get("session_token"),
        endpoint_url=endpoint,
        region=given.get("region"),
        connect_timeout_s=_bounded(given.get("connect_timeout", 60.0), MAX_TIMEOUT_S),
        connect_attempts=int(_bounded(given.get("connect_attempts", 3), MAX_ATTEMPTS)),
    )


def _operator_target(given: Mapping[str, Any], settings: DeliverySettings) -> S3Target | None:
    """The operator's place, at most with another of the allowed buckets or another region."""
    endpoint = given.get("endpoint_url")
    if endpoint is not None and str(endpoint).rstrip("/") != (settings.s3_endpoint_url or "").rstrip("/"):
        raise _invalid("s3", "endpoint_url", "needs access_key_id and secret_access_key of its own")
    bucket = given.get("bucket_name") or settings.s3_bucket_name
    asked = next((name for name in ("bucket_name", "region", "endpoint_url") if name in given), None)
    if settings.s3_access_key_id is None or settings.s3_secret_access_key is None or bucket is None:
        if asked is not None:
            raise _invalid(
                "s3", asked, "needs access_key_id, secret_access_key and bucket_name: none are configured here"
            )
        return None
    if bucket != settings.s3_bucket_name and bucket not in settings.s3_allow_buckets:
        raise _invalid("s3", "bucket_name", "needs access_key_id and secret_access_key; it is not on S3_ALLOW_BUCKETS")
    token = settings.s3_session_token
    return S3Target(
        bucket_name=str(bucket),
        access_key_id=settings.s3_access_key_id.get_secret_value(),
        secret_access_key=settings.s3_secret_access_key.get_secret_value(),
        session_token=token.get_secret_value() if token else None,
        endpoint_url=settings.s3_endpoint_url,
        region=given.get("region") or settings.s3_region,
        prefix=settings.s3_prefix,
        connect_timeout_s=settings.s3_connect_timeout_s,
        connect_attempts=settings.s3_connect_attempts,
        operator=True,
    )


def plan_webhook(
    block: Mapping[str, Any] | None, settings: DeliverySettings, *, guard: AddressGuard | None = None
) -> WebhookTarget | None:
    """Decide whom to tell for a request with the ``webhook`` block ``block``; ``None``: nobody.

    Without a URL of the caller's it is ``WEBHOOK_URL``, which keeps the caller's ``extra_params``. Only that one is
    signed with the operator's secret.

    Raises: InvalidRequest, UnsafeInput.
    """
    given = _given(block)
    extra = given.get("extra_params") or {}
    if "url" in given:
        _check_url(str(given["url"]), guard, block="webhook", name="url")
        timeout_s = _bounded(given.get("timeout", settings.webhook_timeout_s), MAX_TIMEOUT_S)
        return WebhookTarget(url=str(given["url"]), extra_params=extra, timeout_s=timeout_s, secret=given.get("secret"))
    if settings.webhook_url is None:
        return None
    secret = settings.webhook_secret
    return WebhookTarget(
        url=settings.webhook_url,
        extra_params=extra,
        timeout_s=settings.webhook_timeout_s,
        secret=secret.get_secret_value() if secret else None,
        operator=True,
    )


def _given(block: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (block or {}).items() if value not in ("", None)}


def _bounded(value: float, most: float) -> float:
    return min(max(float(value), 1.0), most)


def _check_url(url: str, guard: AddressGuard | None, *, block: str, name: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise _invalid(block, name, "must be an http or https URL")
    if guard is None or guard.is_own(url):
        return
    try:
        guard.check_url(url)
    except UnsafeInput as error:
        field = f"input.{block}.{name}"
        raise UnsafeInput(f"{field}: {error.message}", details={"field": field, **error.details}) from error


def _invalid(block: str, name: str, text: str) -> InvalidRequest:
    loc = [*LOC, block, name]
    message = f"input.{block}.{name} {text}"
    return InvalidRequest(message, details={"errors": [{"loc": loc, "msg": message, "type": "value_error"}]})
