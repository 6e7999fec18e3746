"""Where files of Salad's jobs go: the upload blocks of its requests and the operator's accounts. Pure.

Blocks name a place only; keys are always the operator's. A storage that is not configured is refused, or passed over
as comfyui-api does (``SALAD_UNCONFIGURED_UPLOADS=ignore``).
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from lib.delivery.blocks import check_url, given
from lib.delivery.refusals import Fields, Loc, dotted, invalid
from lib.errors import InvalidRequest
from lib.jobs.model import S3Target, StoreKind, StoreTarget
from lib.settings import DeliverySettings, SaladSettings
from lib.storage.azure import AzureAccount
from lib.storage.guard import AddressGuard
from lib.storage.operator_keys import aws_keys
from lib.storage.packages import HUGGING_FACE, absence

S3_BLOCK = Fields(loc=("body", "s3"))
BLOCKS = {
    StoreKind.AZURE: Fields(loc=("body", "azure_blob_upload")),
    StoreKind.HUGGING_FACE: Fields(loc=("body", "hf_upload")),
    StoreKind.HTTP: Fields(loc=("body", "http_upload")),
}
UNCONFIGURED = "unconfigured"
"""Key in an error's details: the block that is of no use here, however it is written."""
MAX_CHARS = 1024
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_CONTAINER = re.compile(r"(?=.{3,63}\Z)[a-z0-9]+(?:-[a-z0-9]+)*|\$root|\$web")
_REPO = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}(?<!\.git)")
_REVISION = re.compile(r"(?!.*(?:\.\.|//|@\{))[A-Za-z0-9_][A-Za-z0-9._/@+-]{0,254}")
_NEEDED = {
    StoreKind.AZURE: "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT",
    StoreKind.HUGGING_FACE: "HF_TOKEN",
}


def missing_packages(salad: SaladSettings) -> dict[StoreKind, str]:
    """Say of each storage that is configured, but whose package is not installed, what to install; for the start, and
    for ``plan_store``. Blocking. Raises: SettingsError, an account that can't be one."""
    account = AzureAccount.from_settings(salad)
    found = {
        StoreKind.AZURE: account.absence() if account else None,
        StoreKind.HUGGING_FACE: absence(HUGGING_FACE) if salad.hf_token else None,
    }
    return {kind: text for kind, text in found.items() if text is not None}


def plan_salad_s3(
    block: Mapping[str, Any] | None, salad: SaladSettings, delivery: DeliverySettings, *, fields: Fields = S3_BLOCK
) -> S3Target | None:
    """Read ``{"bucket", "prefix"}``: any bucket that the keys (``AWS_*``, or without them this machine's own) open, or
    those of ``S3_ALLOW_BUCKETS`` where it is set. ``None``: no block, or one that is passed over.

    Raises: InvalidRequest, with ``details["unconfigured"]`` where there are no keys.
    """
    said = _said(block, fields)
    if said is None:
        return None
    keys = aws_keys(salad)
    if keys is None:
        _refuse_unconfigured(salad, fields, "AWS_REGION, and AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY or neither")
        return None
    bucket = _text(said, "bucket", fields, pattern=_BUCKET, expected="a bucket's name")
    if delivery.s3_allow_buckets and bucket not in delivery.s3_allow_buckets:
        raise invalid(fields.at("bucket"), "is not on S3_ALLOW_BUCKETS")
    return S3Target(
        bucket_name=bucket,
        access_key_id=keys.key_id,
        secret_access_key=keys.secret,
        session_token=keys.token,
        endpoint_url=salad.aws_endpoint_url,
        region=salad.aws_region,
        prefix=_path(said, "prefix", fields),
        connect_timeout_s=delivery.s3_connect_timeout_s,
        connect_attempts=delivery.s3_connect_attempts,
        operator=True,
        plain=True,
    )


def plan_store(
    kind: StoreKind,
    block: Mapping[str, Any] | None,
    salad: SaladSettings,
    *,
    guard: AddressGuard | None = None,
    missing: Mapping[StoreKind, str] | None = None,
    fields: Fields | None = None,
) -> StoreTarget | None:
    """Read ``{"container", "blob_prefix"}``, ``{"repo", "repo_type", "revision", "directory"}`` or ``{"url_prefix"}``;
    other keys are passed over. ``missing``: what ``missing_packages`` said. ``None``: no block, or one that is passed
    over.

    Raises: InvalidRequest, with ``details["unconfigured"]`` where the account or its package is missing; UnsafeInput,
    a URL that plainly leads inwards.
    """
    fields = fields or BLOCKS[kind]
    said = _said(block, fields)
    if said is None:
        return None
    if not _configured(kind, salad):
        _refuse_unconfigured(salad, fields, _NEEDED[kind])
        return None
    if missing and kind in missing:
        raise _useless(fields, missing[kind])
    if kind is StoreKind.HTTP:
        check_url(said.get("url_prefix"), guard, loc=fields.at("url_prefix"), own=False)
    return StoreTarget(kind=kind, place=_PLACES[kind](said, fields))


def _configured(kind: StoreKind, salad: SaladSettings) -> bool:
    if kind is StoreKind.AZURE:
        return salad.azure_connection_string is not None or salad.azure_account is not None
    return kind is StoreKind.HTTP or salad.hf_token is not None


def _azure(said: Mapping[str, Any], fields: Fields) -> dict[str, str]:
    container = _text(said, "container", fields, pattern=_CONTAINER, expected="a container's name")
    return {"container": container, "prefix": _path(said, "blob_prefix", fields).lstrip("/")}


def _hugging_face(said: Mapping[str, Any], fields: Fields) -> dict[str, str]:
    repo_type = said.get("repo_type", "model")
    if repo_type not in ("model", "dataset"):
        raise invalid(fields.at("repo_type"), "must be model or dataset")
    parts = [part for part in _path(said, "directory", fields).split("/") if part]
    return {
        "repo": _text(said, "repo", fields, pattern=_REPO, expected="<user or organisation>/<repository>"),
        "repo_type": repo_type,
        "revision": _text(
            {"revision": "main"} | dict(said), "revision", fields, pattern=_REVISION, expected="a branch"
        ),
        "directory": "".join(f"{part}/" for part in parts),
    }


def _http(said: Mapping[str, Any], fields: Fields) -> dict[str, str]:
    return {"url_prefix": str(said["url_prefix"])}


_PLACES: Mapping[StoreKind, Callable[[Mapping[str, Any], Fields], dict[str, str]]] = {
    StoreKind.AZURE: _azure,
    StoreKind.HUGGING_FACE: _hugging_face,
    StoreKind.HTTP: _http,
}


def _said(block: Mapping[str, Any] | None, fields: Fields) -> dict[str, Any] | None:
    return None if block is None else given(block, fields.loc)


def _text(said: Mapping[str, Any], name: str, fields: Fields, *, pattern: re.Pattern[str], expected: str) -> str:
    value = said.get(name)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise invalid(fields.at(name), f"must be {expected}")
    return value


def _path(said: Mapping[str, Any], name: str, fields: Fields) -> str:
    """What stands before a file's name, as it is."""
    value = said.get(name, "")
    if not isinstance(value, str) or len(value) > MAX_CHARS or not value.isprintable() or {".", ".."} & _steps(value):
        raise invalid(fields.at(name), f"must be at most {MAX_CHARS} printable characters without '.' and '..' parts")
    return value


def _steps(value: str) -> set[str]:
    return set(value.split("/"))


def _refuse_unconfigured(salad: SaladSettings, fields: Fields, needed: str) -> None:
    if salad.unconfigured_uploads == "refuse":
        raise _useless(fields, f"this storage is not configured on the worker ({needed})")


def _useless(fields: Fields, text: str) -> InvalidRequest:
    loc: Loc = fields.loc
    error = invalid(loc, f"can't be used: {text}")
    return InvalidRequest(error.message, details={**error.details, UNCONFIGURED: dotted(loc)})
