"""Vast's wire and our words: envelope to job spec, job and error to status and body. Pure."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from lib import errors
from lib.dialects.vast.schema import Envelope, Refusal
from lib.errors import InvalidRequest, JobConflict, ServiceError
from lib.jobs.model import Job, JobSpec, JobStatus, OnDisconnect
from lib.serving.errors import error_fields, error_headers, status_of
from lib.settings import JobsSettings

NAME = "vast"
PREFIX_NEEDS_KEYS = "input.s3.prefix needs access_key_id and secret_access_key of its own"

STATUS: Mapping[type[ServiceError], int] = {
    errors.InvalidWorkflow: 422,
    errors.UnsafeInput: 422,
    errors.ExecutionFailed: 422,
    errors.JobTimeout: 422,
    errors.StorageFailed: 422,
}
"""Vast's SDK repeats 408, 429 and 5xx on another paid GPU, without end. So 5xx is left for what another worker may do
better (EngineDied, EngineUnreachable, NotReady, Draining); a node that fails, a job that is too big for the memory or
too long for its limit, and an upload that does not work end here."""


def job_spec(
    spec: JobSpec, envelope: Envelope, *, tag: int | None, keep: bool, base_url: str, settings: JobsSettings
) -> JobSpec:
    """Complete what the payload asks for by what the envelope means. ``tag`` is the router's number, ``None`` for jobs
    of a session, which all have the session's own; ``keep``: the job outlives the connection; ``base_url`` is how its
    caller reaches us.

    Raises: InvalidRequest, for a folder of the caller's own in the operator's bucket: nobody knows who else has it."""
    if spec.delivery.s3 is not None and spec.delivery.s3.operator and spec.delivery.s3.folder:
        problem = {"type": "value_error", "loc": ["body", "input", "s3", "prefix"], "msg": PREFIX_NEEDS_KEYS}
        raise InvalidRequest(PREFIX_NEEDS_KEYS, details={"field": "input.s3.prefix", "errors": [problem]})
    return replace(
        spec,
        dialect=NAME,
        stranger=True,
        body_hash=spec.body_hash or payload_hash(envelope.payload),
        cost=spec.cost if spec.cost is not None else settings.workload_units,
        delivery=replace(spec.delivery, base_url=base_url),
        on_disconnect=OnDisconnect.KEEP if keep else OnDisconnect.CANCEL,
        disconnect_grace_s=settings.disconnect_grace_s if tag is not None else 0.0,
        max_wait_s=settings.vast_max_queue_time_s,
        tag=tag,
    )


def payload_hash(payload: Mapping[str, Any]) -> str:
    """Identify a payload, whatever the order of its keys."""
    return hashlib.blake2b(orjson.dumps(payload, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()


def same_auth(one: object, other: object) -> tuple[bytes, bytes]:
    """Return two byte strings that are equal if and only if both ``auth_data`` are (100 equals 100.0), for a
    comparison in constant time."""
    return _canonical(one), _canonical(other)


def _canonical(value: object) -> bytes:
    if isinstance(value, dict):
        value = {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in value.items()}
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def answer(job: Job, result: Mapping[str, Any]) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Return status, body and headers for a job in any state: 2xx while it is not over, or completed."""
    if not job.status.terminal or job.status is JobStatus.COMPLETED:
        return 200, dict(result), {}
    return failure(job, result)


def cancel_answer(job: Job, *, already: bool) -> dict[str, str]:
    """Return the API wrapper's answer to a cancel."""
    name, status = job.spec.request_id, str(job.status)
    said = f"Request {name} is already {status}" if already else f"Successfully cancelled request {name}"
    return {"message": said, "status": status}


def failure(job: Job, result: Mapping[str, Any]) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Return status, body and headers for a job that did not complete: its result object, and what went wrong."""
    error = job.error or ServiceError(job.message)
    status, body, headers = refusal(error, job.spec.tag)
    return status, {**result, **body}, headers


def refusal(error: ServiceError, tag: int | None) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Return status, body and headers for an error. Bodies that the protocol fixes go out as they are."""
    if isinstance(error, Refusal):
        return error.status, error.body, {}
    status = status_of(error, STATUS)
    body = error_fields(error)
    if isinstance(error, JobConflict):  # with another one's job: it is there, and that is all a stranger hears
        body.pop("details", None)
    if tag:
        body["request_idx"] = tag
    return status, body, error_headers(error, status)
