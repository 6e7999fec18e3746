"""Vast's wire and our words: envelope to job spec, job and error to status and body. Pure."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from lib import errors
from lib.dialects.vast.schema import Envelope, Refusal
from lib.errors import ServiceError
from lib.jobs.model import Job, JobSpec, OnDisconnect
from lib.serving.errors import error_fields, error_headers, status_of
from lib.settings import JobsSettings

NAME = "vast"

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


def job_spec(spec: JobSpec, envelope: Envelope, *, in_session: bool, settings: JobsSettings) -> JobSpec:
    """Complete what the payload asks for by what the envelope means.

    Jobs of a session carry no tag: they all have the session's own ``request_idx``.
    """
    tag = None if in_session else envelope.tag
    return replace(
        spec,
        dialect=NAME,
        body_hash=spec.body_hash or payload_hash(envelope.payload),
        on_disconnect=OnDisconnect.CANCEL,
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
    if tag:
        body["request_idx"] = tag
    return status, body, error_headers(error, status)
