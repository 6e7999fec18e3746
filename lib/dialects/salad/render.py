"""What a job made, in Salad's JSON: ``images``, ``filenames``, ``stats``, and ours beside them. Pure.

``images`` holds every file that was written, as base64 or as a URL, in the order of the graph's nodes.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from lib.dialects.salad.echo import told_graph
from lib.errors import ServiceError, StorageFailed
from lib.jobs.model import Job, JobStatus, Output, Timings
from lib.serving.payloads import dumps

LOST = "None of the files that ComfyUI reported can be read"
BIG_CHARS = 1024 * 1024
"""Results that inline more than this, or have a larger graph, are encoded in a thread."""


def error_of(job: Job) -> ServiceError | None:
    """Return why a finished job failed. One whose files are all gone failed too."""
    if job.status is JobStatus.COMPLETED:
        files = [item for item in job.outputs if item.filename]
        return StorageFailed(LOST) if files and all(map(_is_lost, files)) else None
    return job.error or ServiceError(job.message)


def result(job: Job) -> dict[str, Any]:
    """Return what a completed job made: ``images, filenames, stats``; ``outputs`` and, where there are any, ``text``
    and ``warnings`` are ours."""
    files = list(told_files(job))
    made: dict[str, Any] = {
        "images": [content(item) for item in files],
        "filenames": [name(item) for item in files],
        "stats": stats(job),
        "outputs": [_entry(item) for item in job.outputs if item.filename],
    }
    texts = [item for item in job.outputs if item.text is not None and not item.filename]
    if texts:
        made["text"] = [{"node_id": item.node_id, "key": item.source_key, "text": item.text} for item in texts]
    if warnings := [*job.warnings, *(text for item in job.outputs for text in _troubles(item))]:
        made["warnings"] = list(dict.fromkeys(warnings))
    return made


def graph_of(job: Job) -> dict[str, Any]:
    """Return ``prompt``, while the job's request is there."""
    return {"prompt": told_graph(job.spec.workflow)} if job.spec.workflow else {}


def told_files(job: Job) -> Iterable[Output]:
    """Yield the files that there are to tell of."""
    return (item for item in job.outputs if item.filename and not _is_lost(item))


def content(item: Output) -> str:
    """Return a file's URL in the storage, else its base64; a URL of ours where it is too large for that."""
    if item.data_base64 is not None:
        return item.data_base64
    return item.url or ""


def name(item: Output) -> str:
    """Return a file's name, with the folder that it has below ComfyUI's output folder."""
    return f"{item.subfolder}/{item.filename}" if item.subfolder else item.filename


def stats(job: Job, *, to_the_end: bool = True) -> dict[str, Any]:
    """Return where the time went, in milliseconds; ``start`` and ``end`` since the epoch. What follows ComfyUI is
    ``upload_time`` where files go to a storage, ``postprocess_time`` elsewhere. ``to_the_end``: with the times that
    are known only then."""
    timings, delivery = job.timings, job.spec.delivery
    uploads = delivery.s3 is not None or delivery.store is not None
    delivered_ms = _ms(timings.deliver_s)
    shown = {
        "comfy_execution": _execution(timings),
        "preprocess_time": _ms(timings.prepare_s),
        "comfy_round_trip_time": _ms(sum(filter(None, (timings.wait_s, timings.execute_s, timings.collect_s)))),
        "postprocess_time": 0 if uploads else delivered_ms,
    }
    if to_the_end:
        end = timings.finished_at or timings.accepted_at
        shown["upload_time"] = delivered_ms if uploads else 0
        shown["total_time"] = _ms((end - timings.accepted_at).total_seconds())
    return shown


def stamp(moment: datetime) -> str:
    """Return ISO 8601 in UTC, with milliseconds and ``Z``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def is_big(job: Job) -> bool:
    """Whether encoding what is told of a job would hold up the event loop."""
    return len(job.spec.workflow) + sum(len(item.data_base64 or "") for item in job.outputs) > BIG_CHARS


def encoded(body: Mapping[str, Any]) -> bytes:
    """Encode an object part by part, so that a graph that is JSON already stays as it is."""
    parts = {
        key: value if isinstance(value, orjson.Fragment) else orjson.Fragment(dumps(value))
        for key, value in body.items()
    }
    return orjson.dumps(parts)


def _execution(timings: Timings) -> dict[str, Any]:
    """ComfyUI's part; ``total`` is what the README of comfyui-api promises."""
    if timings.execution_started_at is None or timings.execute_s is None:
        return {"start": None, "end": None, "duration": None, "nodes": {}, "total": None}
    start, duration = _epoch_ms(timings.execution_started_at), round(timings.execute_s * 1000)
    whole = {"start": start, "end": start + duration, "duration": duration}
    nodes = {node_id: {"start": start + round(at_s * 1000)} for node_id, at_s in timings.node_starts_s.items()}
    return {**whole, "nodes": nodes, "total": whole}


def _entry(item: Output) -> dict[str, Any]:
    optional = {
        "width": item.width,
        "height": item.height,
        "url": item.url,
        "url_expires_at": None if item.url_expires_at is None else stamp(item.url_expires_at),
        "error": _without_path(item, item.upload_error or item.error),
    }
    return {
        "node_id": item.node_id,
        "key": item.source_key,
        "filename": item.filename,
        "subfolder": item.subfolder,
        "type": item.folder_type,
        "kind": item.kind,
        "mime": item.mime_type,
        "size": item.size_bytes,
        **{key: value for key, value in optional.items() if value is not None},
    }


def _troubles(item: Output) -> Iterable[str]:
    """What could not be done with a file as it was asked."""
    yield from item.warnings
    if (problem := _without_path(item, item.upload_error or item.error)) is not None:
        yield f"{name(item)}: {problem}"


def _without_path(item: Output, text: str | None) -> str | None:
    """Where a file lies on this host is nobody's business."""
    return text.replace(item.local_path, item.filename) if text and item.local_path else text


def _is_lost(item: Output) -> bool:
    return item.error is not None and not item.local_path and item.url is None and item.data_base64 is None


def _epoch_ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _ms(duration_s: float | None) -> float:
    return max(round((duration_s or 0.0) * 1000, 1), 0)
