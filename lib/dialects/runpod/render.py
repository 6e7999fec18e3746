"""From jobs to RunPod's JSON: job objects, outputs, progress, error texts. Pure.

Times are whole milliseconds, since RunPod's Go client reads integers only; ``error`` is a text for the same reason.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from lib import errors
from lib.errors import ErrorCode, ExecutionFailed, JobTimeout, ServiceError
from lib.jobs.model import Job, JobStatus, Output, OutputKind
from lib.protocol.runpod import Shown

FAILED = "Job processing failed"
NO_IMAGES = "success_no_images"
_MILLISECOND = timedelta(milliseconds=1)


def shown(job: Job) -> Shown:
    """Return RunPod's word. A job that is being stopped is cancelled already; one whose files are all gone failed."""
    match job.status:
        case JobStatus.COMPLETED:
            return Shown.FAILED if _is_lost(job) else Shown.COMPLETED
        case JobStatus.FAILED:
            return Shown.TIMED_OUT if isinstance(job.error, JobTimeout) else Shown.FAILED
        case JobStatus.CANCELLED:
            return Shown.CANCELLED
    if job.stopping:
        return Shown.CANCELLED
    return Shown.IN_QUEUE if job.status is JobStatus.QUEUED else Shown.IN_PROGRESS


def brief(job: Job, *, worker_id: str, now: datetime) -> dict[str, Any]:
    """Return ``id, status``, and from its start or end on ``delayTime, executionTime, workerId``; ``retries`` of a job
    that was tried again."""
    timings, status = job.timings, shown(job)
    body: dict[str, Any] = {"id": job.spec.request_id, "status": status}
    started_at = timings.execution_started_at if job.status is not JobStatus.QUEUED else None
    end = timings.finished_at or now
    if started_at is not None or status.final:
        picked_up_at = started_at or end
        body["delayTime"] = _ms(picked_up_at - timings.accepted_at)
        body["executionTime"] = _ms(end - picked_up_at)
        body["workerId"] = worker_id
    if job.run > 1:
        body["retries"] = job.run - 1
    return body


def told(job: Job, *, legacy: bool) -> dict[str, Any]:
    """Return ``output`` and ``error``, each where the job's state has one."""
    match shown(job):
        case Shown.COMPLETED:
            return {"output": output(job, legacy=legacy)}
        case Shown.FAILED | Shown.TIMED_OUT:
            return {"error": error_text(job), "output": failure(job)}
        case Shown.IN_PROGRESS if (news := progress(job)) is not None:
            return {"output": news}
    return {}


def progress(job: Job) -> dict[str, Any] | None:
    """Return how far a running job is: ``type, value, max, percent, node``; ``None`` while there is nothing to tell."""
    told_of = job.progress
    if job.status is not JobStatus.RUNNING or (not told_of.percent and told_of.node_id is None):
        return None
    value, most = told_of.value, told_of.maximum
    if value is None or most is None:
        value, most = told_of.percent, 100.0
    news = {"type": "progress", "value": _number(value), "max": _number(most), "percent": _number(told_of.percent)}
    return news if told_of.node_id is None else {**news, "node": told_of.node_id}


def output(job: Job, *, legacy: bool) -> dict[str, Any]:
    """Return what a completed job made.

    As of worker-comfyui 5.0: ``images`` (all pictures, and whatever ComfyUI lists as such), ``errors`` and ``status``
    where they apply; ours beside them: ``videos``, ``audio``, ``files``, ``text``, ``warnings``. ``legacy``: as before
    5.0, the last picture in ``message``.
    """
    images = [_file(item) for item in job.outputs if _is_image(item) and _has_content(item)]
    beside = _beside(job)
    if problems := [*job.problems, *_problems(job)]:
        beside["errors"] = problems
    if notes := [text for text in job.warnings if text not in job.problems]:
        beside["warnings"] = notes
    if legacy and images:
        return {"status": "success", "message": images[-1]["data"], **beside}
    if legacy:
        return {"status": "error", "message": "The workflow made no picture", **beside}
    return {"images": images, **beside} if images else {"status": NO_IMAGES, "images": [], **beside}


def error_text(job: Job) -> str:
    """Return what is wrong in a sentence: worker-comfyui's, with the reason behind it."""
    error = job.error
    if error is None:
        return f"{FAILED}: {'; '.join(_problems(job)) or job.message}"
    if (node := _of_node(error)) is not None:
        return f"{FAILED}: {node}"
    if _of_images(error):
        return f"Failed to upload one or more input images: {error.message}"
    lead = next((text for kind, text in _LEADS.items() if isinstance(error, kind)), "")
    return f"{lead}{error.message}"


def failure(job: Job) -> dict[str, Any]:
    """Return the ``output`` of a job that failed: ``details`` (texts), ``code``, ``retryable``, and what the error
    names (``node_id``, ``node_errors``, ...)."""
    error = job.error
    if error is None:
        return {"details": _problems(job) or [job.message], "code": ErrorCode.EXECUTION_FAILED, "retryable": False}
    facts = {_RENAMED.get(name, name): value for name, value in error.details.items() if name not in _UNTOLD}
    details = [*(_of_images(error) or (_of_node(error) or error.message,)), *job.warnings]
    return {**facts, "details": details, "code": error.code, "retryable": error.retryable}


_LEADS: Mapping[type[ServiceError], str] = {
    errors.EngineUnreachable: "ComfyUI server not reachable after multiple retries: ",
    errors.EngineDied: f"{FAILED}: ",
    ExecutionFailed: f"{FAILED}: ",
}
_RENAMED = {"error": "comfyui_error"}
"""RunPod's client code takes ``error`` in a handler's result for the job's own."""
_UNTOLD = frozenset({"errors"})
"""Told in ``details``."""


def _of_node(error: ServiceError) -> str | None:
    """worker-comfyui's sentence about a node that failed."""
    kind, node_id = error.details.get("node_type"), error.details.get("node_id")
    if not isinstance(error, ExecutionFailed) or kind is None or node_id is None:
        return None
    message = error.details.get("exception_message") or error.message
    return f"Workflow execution error: Node Type: {kind}, Node ID: {node_id}, Message: {message}"


def _of_images(error: ServiceError) -> tuple[str, ...]:
    """What is wrong with each of the request's own files."""
    field, listed = error.details.get("field"), error.details.get("errors")
    if not isinstance(field, str) or not field.startswith("images") or not isinstance(listed, list):
        return ()
    return tuple(text for text in listed if isinstance(text, str))


def _is_lost(job: Job) -> bool:
    """Whether ComfyUI named files, and none of them is there."""
    files = [item for item in job.outputs if item.filename]
    return bool(files) and all(item.error is not None and not item.local_path and item.url is None for item in files)


def _is_image(item: Output) -> bool:
    return bool(item.filename) and (item.source_key == "images" or item.kind is OutputKind.IMAGE)


def _has_content(item: Output) -> bool:
    return item.data_base64 is not None or item.url is not None


def _file(item: Output) -> dict[str, str]:
    if item.data_base64 is not None:
        return {"filename": item.filename, "type": "base64", "data": item.data_base64}
    return {"filename": item.filename, "type": "s3_url", "data": item.url or ""}


def _beside(job: Job) -> dict[str, Any]:
    found: dict[str, list[dict[str, str]]] = {}
    keys = {OutputKind.VIDEO: "videos", OutputKind.AUDIO: "audio"}
    for item in job.outputs:
        if item.text is not None and not item.filename:
            found.setdefault("text", []).append({"node_id": item.node_id, "text": item.text})
        elif item.filename and not _is_image(item) and _has_content(item):
            facts = {"mime_type": item.mime_type, "node_id": item.node_id}
            found.setdefault(keys.get(item.kind, "files"), []).append(_file(item) | facts)
    return dict(found)


def _problems(job: Job) -> list[str]:
    """Files that did not get to the caller, or not as asked; never where they lie on this host."""
    found = []
    for item in job.outputs:
        reason = item.upload_error or (item.error if item.filename and not _has_content(item) else None)
        if reason is not None:
            text = reason.replace(item.local_path, item.filename) if item.local_path else reason
            found.append(f"{item.filename}: {text}")
    return found


def _number(value: float) -> int | float:
    rounded = round(float(value), 2)
    return int(rounded) if rounded.is_integer() else rounded


def _ms(duration: timedelta) -> int:
    return max(duration // _MILLISECOND, 0)
