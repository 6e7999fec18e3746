"""Jobs as RunPod's API shows them. Pure.

Times are whole milliseconds and ``error`` is a text, as its Go client wants it. Ids are the router's: what a worker
calls the job is nobody's business.
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from lib.protocol.runpod import Shown
from lib.serving.payloads import dumps
from router.ports import JobState, RelayJob
from router.relay.jobs.forms import End

_STATUS = re.compile(rb'"status": ?"([A-Z_]{1,20})"')
_HEAD_BYTES = 512


def shown(job: RelayJob) -> Shown:
    """RunPod's word for a job; one that is to be cancelled is cancelled."""
    if job.cancel_wanted or job.state is JobState.CANCELLED:
        return Shown.CANCELLED
    match job.state:
        case JobState.DEAD:
            return Shown.FAILED
        case JobState.DONE:
            found = _STATUS.search((job.result or b"")[:_HEAD_BYTES])
            if found is not None:
                return Shown(found[1].decode())
            return {End.COMPLETED: Shown.COMPLETED, End.CANCELLED: Shown.CANCELLED}.get(End(job.reason), Shown.FAILED)
    return Shown.IN_PROGRESS if job.state is JobState.LEASED and job.remote_id else Shown.IN_QUEUE


def brief(job: RelayJob, *, now: float) -> dict[str, Any]:
    """``id, status``, and from its start or end on the times; ``retries`` of a job that was tried again."""
    status = shown(job)
    body: dict[str, Any] = {"id": job.request_id, "status": status}
    begun_at = job.attempts[-1].begun_at if job.attempts else None
    if status.final or (begun_at is not None and status is Shown.IN_PROGRESS):
        end = job.finished_at or now
        picked_up_at = begun_at or end
        body["delayTime"] = _ms(picked_up_at - job.created_at)
        body["executionTime"] = _ms(end - picked_up_at)
    return body | _retries(job)


def whole(job: RelayJob, *, now: float) -> bytes:
    """The job object as the record has it."""
    if job.state is JobState.DONE and not job.cancel_wanted:
        return job.result or b""
    body = brief(job, now=now)
    if job.state is JobState.DEAD and not job.cancel_wanted:
        body["error"] = job.reason
        body["output"] = {"details": [one.ended for one in job.attempts], "code": "internal", "retryable": True}
    return dumps(body)


def stored(job: RelayJob, body: bytes) -> bytes:
    """A worker's job object as the router's own."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        told = {}
    return dumps(renamed(job, told if isinstance(told, dict) else {}))


def renamed(job: RelayJob, told: Mapping[str, Any]) -> dict[str, Any]:
    """The same decoded: with the router's id, and the time that the job spent in its queue."""
    own: dict[str, Any] = {"id": job.request_id, "status": told.get("status", Shown.FAILED)}
    if own["status"] == Shown.FAILED and not isinstance(told.get("error"), str):
        own["error"] = "Job processing failed"
    rest = {name: value for name, value in told.items() if name not in (*own, "webhook", "retries") or name == "error"}
    begun_at = job.attempts[-1].begun_at if job.attempts else job.created_at
    if isinstance(delay_ms := told.get("delayTime"), int):
        rest["delayTime"] = delay_ms + _ms(begun_at - job.created_at)
    return own | rest | _retries(job)


def _retries(job: RelayJob) -> dict[str, int]:
    return {"retries": job.run - 1} if job.run > 1 else {}


def _ms(duration_s: float) -> int:
    return max(round(duration_s * 1000), 0)
