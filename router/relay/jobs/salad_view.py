"""Jobs as Salad's API shows them. Pure."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson

from lib.errors import ErrorCode
from router.ports import RelayJob
from router.relay.jobs.forms import End
from router.relay.jobs.wrapper_view import CANCELLED_BY_CLIENT, PROCESSING, iso, state_of

MOST_TEXT_CHARS = 64 * 1024
"""A text that is longer is a file, and not told again."""
LEFT_OUT = "(left out)"
_ECHOED = (
    *("prompt", "id", "webhook", "webhook_v2", "convert_output", "credentials"),
    *("s3", "hf_upload", "azure_blob_upload", "http_upload", "input"),
)
_TOLD_OF_AUTH = ("type", "username", "header_name", "query_param", "endpoint", "region")


def accepted(body: bytes) -> dict[str, Any]:
    """The request again, without files and secrets; its job goes on."""
    request = orjson.loads(body)
    told = {name: _lean(request[name]) for name in _ECHOED if request.get(name)}
    if isinstance(listed := request.get("credentials"), list):
        told["credentials"] = [_public(one) for one in listed if isinstance(one, dict)]
    return told | {"status": "ok"}


def live(job: RelayJob) -> dict[str, Any]:
    """A job that is not over."""
    state = "running" if state_of(job) == PROCESSING else "queued"
    return {"id": job.request_id, "status": state, "progress": 0.0}


def trouble(job: RelayJob) -> tuple[int, dict[str, Any]]:
    """Status and body of a job that ended here, and not on a worker."""
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    cancelled = state_of(job) == End.CANCELLED
    return status, {
        "statusCode": int(status),
        "code": ErrorCode.JOB_CANCELLED if cancelled else ErrorCode.ENGINE_UNREACHABLE,
        "error": status.phrase,
        "message": (job.reason or CANCELLED_BY_CLIENT) if cancelled else job.reason,
        "retryable": not cancelled,
        "id": job.request_id,
        "status": state_of(job),
    }


def webhook(job: RelayJob) -> dict[str, Any]:
    """What its webhook is told of such a job."""
    _, told = trouble(job)
    about = {"type": "prompt.failed", "timestamp": iso(job.finished_at), "id": job.request_id}
    return about | {"error": told["message"], "code": told["code"]}


def _lean(value: Any) -> Any:
    if isinstance(value, str):
        return LEFT_OUT if len(value) > MOST_TEXT_CHARS else value
    if isinstance(value, dict):
        return {name: _lean(item) for name, item in value.items()}
    return [_lean(item) for item in value] if isinstance(value, list) else value


def _public(credential: Mapping[str, Any]) -> dict[str, Any]:
    auth = credential.get("auth")
    told = {name: auth[name] for name in _TOLD_OF_AUTH if name in auth} if isinstance(auth, dict) else {}
    return {"url_pattern": credential.get("url_pattern"), "auth": told}
