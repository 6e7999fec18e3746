"""Jobs as the API wrapper shows them. Pure. A worker's own answers are passed on as they are."""

from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from lib.errors import ErrorCode
from router.ports import JobState, RelayJob
from router.relay.jobs.forms import End

CANCELLED = 499
"""The wrapper's status of a cancelled job."""
ACCEPTED, GIVEN = "Request accepted", "A worker has it"
CANCELLED_BY_CLIENT = "Request cancelled by client"
PENDING, PROCESSING = "pending", "processing"


def state_of(job: RelayJob) -> str:
    """The wrapper's word for where a job is."""
    if job.cancel_wanted or job.state is JobState.CANCELLED:
        return End.CANCELLED
    if job.state is JobState.DEAD:
        return End.FAILED
    if job.state is JobState.DONE:
        return job.reason
    return PROCESSING if job.remote_id else PENDING


def http_status(job: RelayJob) -> int:
    """2xx only while it is unfinished, or when it is completed."""
    match state_of(job):
        case End.CANCELLED:
            return CANCELLED
        case End.FAILED:
            return job.result_status if job.state is JobState.DONE else HTTPStatus.BAD_GATEWAY
    return HTTPStatus.OK


def result(job: RelayJob) -> dict[str, Any]:
    """The result object of a job whose worker has said nothing."""
    state = state_of(job)
    body: dict[str, Any] = {
        "id": job.request_id,
        "message": _message(job, state),
        "status": state,
        "comfyui_response": {},
        "output": [],
        "timings": _timings(job),
    }
    if state == End.CANCELLED:
        body |= {"error": ErrorCode.JOB_CANCELLED, "retryable": False}
    elif state == End.FAILED:
        details = {"attempts": attempts(job)}
        body |= {"error": ErrorCode.ENGINE_UNREACHABLE, "retryable": True, "details": details}
    return body


def attempts(job: RelayJob) -> list[dict[str, Any]]:
    """What happened at each attempt; on which worker is the operator's business."""
    return [{"number": one.number, "begun_at": iso(one.begun_at), "ended": one.ended} for one in job.attempts]


def links(job: RelayJob, base_url: str) -> dict[str, str]:
    """Where a job can be asked for."""
    name = quote(job.job_id, safe="")
    return {
        "job_id": job.job_id,
        "status_url": f"{base_url}/result/{name}",
        "cancel_url": f"{base_url}/cancel/{name}",
    }


def row(job: RelayJob, *, with_tenant: bool) -> dict[str, Any]:
    """A job in a list."""
    words = {PENDING: "queued", PROCESSING: "running"}
    state = state_of(job)
    fields: dict[str, Any] = {
        "job_id": job.job_id,
        "request_id": job.request_id,
        "run": job.run,
        "dialect": job.dialect,
        "endpoint": job.endpoint,
        "status": words.get(state, state),
        "priority": job.priority,
        "cost": round(job.cost, 3),
        "attempts": len(job.attempts),
        "accepted_at": iso(job.created_at),
    }
    if with_tenant:
        fields |= {"tenant": job.tenant.partition("/")[2], "worker": job.worker}
    if job.finished_at:
        fields["finished_at"] = iso(job.finished_at)
    if job.state is JobState.DEAD:
        fields["dead"] = True
        fields["reason"] = job.reason
    return fields


def webhook(job: RelayJob, extra: Mapping[str, Any]) -> dict[str, Any]:
    """What a webhook is told of a job that no worker told of."""
    told = result(job)
    body = {name: told[name] for name in ("id", "status", "message", "output", "timings")}
    return body | ({"extra": dict(extra)} if extra else {})


def iso(epoch_s: float) -> str:
    """ISO 8601 in UTC, with ``Z``."""
    return datetime.fromtimestamp(epoch_s, UTC).isoformat().replace("+00:00", "Z")


def _message(job: RelayJob, state: str) -> str:
    if state == End.CANCELLED:
        return job.reason or CANCELLED_BY_CLIENT
    if state == End.FAILED:
        return f"Generation failed: {job.reason}"
    return GIVEN if job.remote_id else ACCEPTED


def _timings(job: RelayJob) -> dict[str, int]:
    timings = {"queued_at_ms": int(job.created_at * 1000)}
    if job.state.over:
        end_ms = int(job.finished_at * 1000)
        timings |= {"completed_at_ms": end_ms, "total_ms": max(end_ms - timings["queued_at_ms"], 0)}
    return timings
