"""Requests that run as they are, and answers as they look, for the docs page."""

from typing import Any

from lib.dialects.runpod.answers import Health, JobCounts, WorkerCounts

ENDPOINT = "local"
ID = "6c1a5b52-0a3e-4d4f-8a51-0c9b1b8b0f6e-u1"
SYNC_ID = "sync-0f1b6c0e-7d5c-4c57-9d0b-1f6f7b1f8a11-u1"
_PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
_PICTURE: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 3368703}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "example"}},
}
_INVERTED: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "mine.png"}},
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "inverted"}},
}
REQUESTS: dict[str, Any] = {
    "Picture without a model": {"input": {"workflow": _PICTURE}},
    "Picture of your own": {
        "input": {"workflow": _INVERTED, "images": [{"name": "mine.png", "image": _PIXEL}]},
    },
    "With limits": {
        "input": {"workflow": _PICTURE},
        "policy": {"executionTimeout": 60_000, "ttl": 3_600_000, "lowPriority": True},
    },
}
ACCEPTED: dict[str, Any] = {"id": ID, "status": "IN_QUEUE"}
COMPLETED: dict[str, Any] = {
    "id": SYNC_ID,
    "status": "COMPLETED",
    "delayTime": 12,
    "executionTime": 980,
    "workerId": "oqk7ao1uomckye",
    "output": {"images": [{"filename": "example_00001_.png", "type": "base64", "data": "iVBORw0KGgo..."}]},
}
RUNNING: dict[str, Any] = {
    "id": ID,
    "status": "IN_PROGRESS",
    "delayTime": 12,
    "executionTime": 420,
    "workerId": "oqk7ao1uomckye",
    "output": {"type": "progress", "value": 2, "max": 4, "percent": 50, "node": "3"},
}
STREAMED: dict[str, Any] = {
    "id": ID,
    "status": "IN_PROGRESS",
    "stream": [{"output": {"type": "progress", "value": 2, "max": 4, "percent": 50, "node": "3"}}],
}
CANCELLED: dict[str, Any] = {"id": ID, "status": "CANCELLED", "delayTime": 12, "executionTime": 420}
HEALTH: dict[str, Any] = Health(
    jobs=JobCounts(completed=1, failed=0, inProgress=0, inQueue=2, retried=0), workers=WorkerCounts(idle=1, ready=1)
).model_dump()
LISTED: dict[str, Any] = {"requests": [{"id": ID, "status": "IN_QUEUE"}]}


def trouble(code: str, message: str, *, job: bool = True, retryable: bool = False) -> dict[str, Any]:
    """Return an error body, as an answer shows it."""
    about = {"id": ID, "status": "FAILED"} if job else {}
    return {"error": message, "code": code, "retryable": retryable, **about}
