"""Values that tests of the stores write."""

from typing import Any

from router.model import Assignment
from router.ports import RelayJob, RequestRecord, WorkerRecord

NOW = 1767225600.0
"""The fake clock's start, in epoch seconds."""


def job(job_id: str = "j1", **changes: Any) -> RelayJob:
    values: dict[str, Any] = {
        "job_id": job_id,
        "request_id": f"name of {job_id}",
        "tenant": "acme",
        "endpoint": "sd",
        "dialect": "native",
        "path": "/generate",
        "body": b'{"prompt": "a secret \xff"}',
        "created_at": NOW,
        "models": ("a.safetensors", "b.safetensors"),
        "headers": {"Authorization": "Bearer hidden"},
    }
    return RelayJob(**values | changes)


def worker(name: str = "sd/1", **changes: Any) -> WorkerRecord:
    values: dict[str, Any] = {
        "worker": name,
        "endpoint": "sd",
        "id": 1,
        "group": "a",
        "url": "https://10.0.0.1:3000",
        "report": {"cur_load": 12.5, "unknown": {"kept": [1, None]}},
        "heard_at": NOW,
        "first_at": NOW - 60.25,
    }
    return WorkerRecord(**values | changes)


def request(number: int = 7, **changes: Any) -> RequestRecord:
    values: dict[str, Any] = {
        "request_idx": number,
        "endpoint": "sd",
        "tenant": "acme",
        "cost": 100.0,
        "created_at": NOW,
        "polled_at": NOW,
        "replay_timeout_s": 60.0,
        "refused_by": {"sd/3": NOW + 30},
    }
    return RequestRecord(**values | changes)


def assignment(request_id: str = "r1", to: str = "sd/1", **changes: Any) -> Assignment:
    values: dict[str, Any] = {
        "request_id": request_id,
        "worker": to,
        "endpoint": "sd",
        "at": NOW,
        "cost": 100.0,
        "size": 80.0,
        "models": ("a.safetensors",),
    }
    return Assignment(**values | changes)
