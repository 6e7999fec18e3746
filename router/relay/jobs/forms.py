"""How a worker is asked to do a job in each dialect, and what its answers mean. Pure.

A job is submitted by the dialect's own asynchronous route and followed by its long poll. What says that it failed says
as well whether another worker may do better.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import orjson

from lib.protocol.runpod import Shown
from router.ports import RelayJob

POLL_S = 25.0
"""Below what proxies cut, and what workers allow (30 s)."""
KEY_HEADER = "Idempotency-Key"


class Dialect(StrEnum):
    """Whose API a job came by."""

    WRAPPER = "wrapper"
    RUNPOD = "runpod"
    SALAD = "salad"


class Standing(StrEnum):
    """What an answer about a job says of it. ``UNKNOWN``: the worker does not have it; ``TROUBLE``: it can't say."""

    LIVE = "live"
    OVER = "over"
    UNKNOWN = "unknown"
    TROUBLE = "trouble"


class End(StrEnum):
    """How a job came out."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A worker's answer. ``remote_id`` is its name of the job, where it gives one; ``elsewhere``: another worker may
    do better; ``why`` is what went wrong, for people."""

    standing: Standing
    status: int
    body: bytes = field(repr=False, default=b"")
    end: End = End.FAILED
    remote_id: str = ""
    elsewhere: bool = False
    why: str = ""
    run_s: float | None = None


ENDS = {
    "completed": End.COMPLETED,
    "failed": End.FAILED,
    "cancelled": End.CANCELLED,
    "COMPLETED": End.COMPLETED,
    "FAILED": End.FAILED,
    "CANCELLED": End.CANCELLED,
    "TIMED_OUT": End.FAILED,
}
_LIVE = frozenset(
    ("pending", "processing", "generating", "generated", "queued", "running", "IN_QUEUE", "IN_PROGRESS", "ok")
)
_NOT_NOW = frozenset(
    (
        *(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS),
        *(HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.SERVICE_UNAVAILABLE),
    )
)


def submit_path(dialect: Dialect, path: str) -> str:
    """Where a worker takes the job; ``path`` is the one that the caller used, without its endpoint."""
    match dialect:
        case Dialect.WRAPPER:
            return "/generate"
        case Dialect.RUNPOD:
            return "/v2/relay/run"
        case Dialect.SALAD:
            return path


def poll_path(dialect: Dialect, remote_id: str, *, wait_s: float = POLL_S) -> str:
    """Where a worker tells of it, at its end or after ``wait_s`` seconds."""
    name = quote(remote_id, safe="")
    if dialect is Dialect.RUNPOD:
        return f"/v2/relay/status-sync/{name}?wait={int(wait_s * 1000)}" if wait_s else f"/v2/relay/status/{name}"
    return f"/result/{name}?wait={wait_s:g}" if wait_s else f"/result/{name}"


def cancel_path(dialect: Dialect, remote_id: str) -> str:
    """Where a worker is told to stop it."""
    name = quote(remote_id, safe="")
    return f"/v2/relay/cancel/{name}" if dialect is Dialect.RUNPOD else f"/cancel/{name}"


def read_submitted(status: int, body: bytes) -> Seen:
    """What a worker says to a job that it is given. Over at once is one that can't be done: the same everywhere."""
    told = _object(body)
    if status == HTTPStatus.CONFLICT and isinstance(known := _part(told, "details").get("job_id"), str):
        return Seen(standing=Standing.LIVE, status=status, remote_id=known)  # it was given to it before
    remote = told.get("job_id") or told.get("id")
    if status < HTTPStatus.MULTIPLE_CHOICES and isinstance(remote, str):
        seen = read_answer(status, body)
        over = seen.standing is Standing.OVER and "job_id" not in told
        return seen if over else Seen(standing=Standing.LIVE, status=status, remote_id=remote)
    if status in _NOT_NOW or status >= HTTPStatus.INTERNAL_SERVER_ERROR or status < HTTPStatus.BAD_REQUEST:
        return Seen(standing=Standing.TROUBLE, status=status, why=_why(told) or f"it answered {status}")
    return Seen(standing=Standing.OVER, status=status, body=body, why=_why(told))


def read_answer(status: int, body: bytes) -> Seen:
    """What a worker says of a job that it was given."""
    if status == HTTPStatus.NOT_FOUND:
        return Seen(standing=Standing.UNKNOWN, status=status, why="it does not know the job any more")
    told = _object(body)
    state = told.get("status")
    if status in _NOT_NOW or not isinstance(state, str):
        return Seen(standing=Standing.TROUBLE, status=status, why=_why(told) or f"it answered {status}")
    if state in _LIVE:
        return Seen(standing=Standing.LIVE, status=status, body=body)
    if (end := ENDS.get(state)) is None:
        return Seen(standing=Standing.TROUBLE, status=status, why="its answer is strange")
    return Seen(
        standing=Standing.OVER,
        status=status,
        body=body,
        end=end,
        elsewhere=end is End.FAILED
        and (told.get("retryable") is True or _part(told, "output").get("retryable") is True),
        why=_why(told),
        run_s=_run_s(told),
    )


def unkept(job: RelayJob, status: int, why: str) -> Seen:
    """What is recorded of a result that is too large to be: how the job ended, and no result. Its worker has that, and
    tells whom the job names. Where it reaches nobody that way, the job failed, and another try would not change it."""
    if job.dialect == Dialect.RUNPOD:
        told = {"status": Shown.FAILED, "error": why, "output": {"details": [why], "retryable": False}}
        return Seen(standing=Standing.OVER, status=status, body=orjson.dumps(told), why=why)
    good = status < HTTPStatus.BAD_REQUEST and (job.remote_id or job.hooked)
    return Seen(standing=Standing.OVER, status=status, end=End.COMPLETED if good else End.FAILED, why=why)


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return told if isinstance(told, dict) else {}


def _part(told: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = told.get(name)
    return value if isinstance(value, dict) else {}


def _why(told: Mapping[str, Any]) -> str:
    """The wrapper's and Salad's ``message``, RunPod's ``error``."""
    value = told.get("message") or told.get("error")
    return value[:500] if isinstance(value, str) else ""


def _run_s(told: Mapping[str, Any]) -> float | None:
    execution = _part(_part(told, "stats"), "comfy_execution")
    for value in (_part(told, "timings").get("generation_ms"), told.get("executionTime"), execution.get("duration")):
        if isinstance(value, int | float) and value > 0:
            return value / 1000
    return None
