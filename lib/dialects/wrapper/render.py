"""From jobs to the wrapper's JSON: results, entries, timings, refusals, webhook bodies, HTTP statuses. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from lib import errors
from lib.dialects.wrapper.answers import Shown
from lib.errors import InvalidRequest, JobCancelled, ServiceError
from lib.jobs.model import Job, JobStatus, Output, OutputKind, Stage, Timings, WebhookTarget
from lib.serving.access import TOKEN_PARAMETER
from lib.serving.errors import error_fields, status_of
from lib.serving.payloads import dumps

STATUS: Mapping[type[ServiceError], int] = {
    errors.Overloaded: 503,
    errors.RateLimited: 429,
    errors.EngineDied: 500,
    errors.StorageFailed: 500,
    errors.JobTimeout: 500,
}
"""Where the documented statuses differ from our table: 500 and 502 for failed jobs, 503 when full."""
UNKNOWN_ID = "Request ID not found"

_STAGE_FAILED = {
    Stage.PREPARE: "Preprocessing failed: ",
    Stage.EXECUTE: "Generation failed: ",
    Stage.COLLECT: "Generation failed: ",
    Stage.DELIVER: "Post-processing failed: ",
}


def render(job: Job, *, include_response: bool) -> dict[str, Any]:
    """Return the wrapper's result object; keys of ours only where they say something."""
    result: dict[str, Any] = {
        "id": job.spec.request_id,
        "message": message_of(job),
        "status": shown(job),
        "comfyui_response": job.response if include_response else {},
        "output": [_entry(output) for output in job.outputs if output.kind is not OutputKind.TEXT or output.filename],
        "timings": _timings(job.timings, terminal=job.status.terminal),
    }
    texts = [output for output in job.outputs if output.text is not None]
    if texts:
        result["text_output"] = [
            {"node_id": output.node_id, "output_type": output.source_key, "text": output.text} for output in texts
        ]
    if job.warnings:
        result["warnings"] = list(job.warnings)
    if job.error is not None:
        result.update((name, value) for name, value in error_fields(job.error).items() if name not in result)
    return result


def render_accepted(job: Job, *, base_url: str, job_token: str | None = None) -> dict[str, Any]:
    """Return the result object with where to ask for the job, and when it is expected."""
    return render(job, include_response=False) | links(job, base_url=base_url, job_token=job_token)


def links(job: Job, *, base_url: str, job_token: str | None = None) -> dict[str, Any]:
    """Return what ``answers.Links`` describes."""
    shown_links: dict[str, Any] = {
        "job_id": job.job_id,
        "status_url": status_url(base_url, job.job_id, job_token=job_token),
        "stream_url": _url(base_url, "generate/stream", job.job_id, job_token),
        "cancel_url": _url(base_url, "cancel", job.job_id, job_token),
    }
    if job.expected_wait_s is not None:
        shown_links["expected_wait_s"] = round(job.expected_wait_s, 3)
    if job.expected_s is not None:
        shown_links["expected_s"] = round(job.expected_s, 3)
    return shown_links


def status_url(base_url: str, name: str, *, job_token: str | None = None) -> str:
    """Return where a job's result is; ``name`` is its id, or its request's."""
    return _url(base_url, "result", name, job_token)


def render_webhook(job: Job, target: WebhookTarget) -> bytes:
    """Return the webhook's body: ``id, status, message, output, timings, extra``."""
    result = render(job, include_response=False)
    body = {name: result[name] for name in ("id", "status", "message", "output", "timings")}
    if target.extra_params:
        body["extra"] = target.extra_params
    return dumps(body)


def render_refusal(error: ServiceError, request_id: str) -> dict[str, Any]:
    """Return the body for an error that has no job: ``detail`` for a schema error, else a failed result."""
    if isinstance(error, InvalidRequest):
        fields = error_fields(error)
        fields.pop("details", None)
        return {"detail": _problems(error), **fields}
    result = {
        "id": request_id,
        "message": UNKNOWN_ID if isinstance(error, errors.JobNotFound) else error.message,
        "status": Shown.FAILED,
        "comfyui_response": {},
        "output": [],
        "timings": {},
    }
    return error_fields(error) | result


def http_status(job: Job) -> int:
    """Return the HTTP status of a job's result; 2xx only while it is unfinished or when it is completed."""
    if not job.status.terminal or job.status is JobStatus.COMPLETED:
        return 200
    unexplained = JobCancelled if job.status is JobStatus.CANCELLED else ServiceError
    return status_of(job.error or unexplained(job.message), STATUS)


def shown(job: Job) -> Shown:
    """Return the wrapper's word for where the job is."""
    if job.status.terminal:
        return Shown(job.status.value)
    if job.stage is Stage.DELIVER:
        return Shown.GENERATED
    if job.status is JobStatus.RUNNING:
        return Shown.GENERATING
    return Shown.PENDING if job.stage is Stage.PREPARE else Shown.PROCESSING


def message_of(job: Job) -> str:
    """Return the text for people; while ComfyUI executes it tells the progress."""
    if job.status is JobStatus.FAILED:
        return _STAGE_FAILED[job.stage] + job.message
    if job.status is JobStatus.RUNNING and job.stage is Stage.EXECUTE and job.progress.percent:
        progress = job.progress
        steps = f" ({progress.value:g}/{progress.maximum:g})" if progress.value and progress.maximum else ""
        return f"Progress: {progress.percent:.1f}%{steps}"
    return job.message


def iso(moment: datetime) -> str:
    """Return ISO 8601 in UTC, with ``Z``."""
    return f"{(moment if moment.tzinfo is UTC else moment.astimezone(UTC)).isoformat()[:-6]}Z"


def _url(base_url: str, route: str, name: str, job_token: str | None) -> str:
    query = f"?{TOKEN_PARAMETER}={quote(job_token, safe='')}" if job_token else ""
    return f"{base_url}/{route}/{quote(name, safe='')}{query}"


def _problems(error: InvalidRequest) -> list[dict[str, Any]]:
    """Return FastAPI's list of problems; places are counted from ``body``, unless they say ``query`` or ``header``."""
    listed = error.details.get("errors")
    if not isinstance(listed, list) or not listed:
        return [{"type": "value_error", "loc": ["body"], "msg": error.message}]
    known = (["body"], ["query"], ["header"])
    return [item if item["loc"][:1] in known else {**item, "loc": ["body", *item["loc"]]} for item in listed]


def _entry(output: Output) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "filename": output.filename,
        "local_path": output.local_path,
        "type": output.folder_type,
        "subfolder": output.subfolder,
        "node_id": output.node_id,
        "output_type": output.source_key,
    }
    optional = {
        "url": output.url,
        "upload_error": output.upload_error,
        "data": output.data_base64,
        "mimetype": output.mime_type,
        "error": output.error,
        "kind": output.kind.value,
        "size_bytes": output.size_bytes,
        "width": output.width,
        "height": output.height,
        "url_expires_at": iso(output.url_expires_at) if output.url_expires_at is not None else None,
        "thumbnail_url": output.thumbnail_url,
        "thumbnail": output.thumbnail_base64,
        "warnings": list(output.warnings) or None,
    }
    entry.update((name, value) for name, value in optional.items() if value is not None)
    return entry


def _timings(timings: Timings, *, terminal: bool) -> dict[str, int]:
    measured = {"queued_at_ms": _epoch_ms(timings.accepted_at)}
    if timings.prepare_s is not None:
        measured["preprocess_ms"] = _ms(timings.prepare_s)
    if timings.execute_s is not None:
        measured["generation_ms"] = _ms(timings.execute_s + (timings.collect_s or 0.0))
    if timings.deliver_s is not None or terminal:
        measured["postprocess_ms"] = _ms(timings.deliver_s or 0.0)
    if terminal and timings.finished_at is not None:
        measured["completed_at_ms"] = _epoch_ms(timings.finished_at)
        took_ms = measured["completed_at_ms"] - measured["queued_at_ms"]
        measured["total_ms"] = max(took_ms, 0)  # the clock may have been set back in between
    return measured


def _epoch_ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _ms(duration_s: float) -> int:
    return max(int(duration_s * 1000), 0)
