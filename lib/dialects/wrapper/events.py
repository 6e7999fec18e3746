"""What a stream tells of one job: first, progress, result, trouble. Pure but for the clock.

Shapes are the API wrapper's (``_stream_status_updates``), with ours after them. A progress event costs little: nothing
of the result is rendered for it.
"""

import base64
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from lib.clock import Clock
from lib.dialects.wrapper.answers import Shown
from lib.dialects.wrapper.render import http_status, iso, message_of, render, shown
from lib.jobs.model import Job, JobStatus, JobView, Preview
from lib.serving.sse import encode

FINAL_ID = "final"
"""The id of the last event: who comes back with it has everything."""
RESUME_HEADER = "Last-Event-ID"
NOT_WAITING: Mapping[str, Any] = {
    "current_queue": "processing",
    "position": 0,
    "queue_size": 0,
    "estimated_wait_time": 0,
}
Sizes = Callable[[], Mapping[str, int]]
"""The wrapper's three queue sizes."""


class Events:
    """Encodes the events of one stream. ``first_links`` go into the first one."""

    def __init__(self, job: Job, *, first_links: Mapping[str, Any], sizes: Sizes, clock: Clock) -> None:
        self._request_id = job.spec.request_id
        self._accepted_at = job.timings.accepted_at
        self._links = first_links
        self._sizes = sizes
        self._clock = clock
        self.percent = 0.0
        """The highest that was told."""
        self._preview: Preview | None = None

    def first(self) -> bytes:
        """The job is accepted."""
        return encode({**self._head(Shown.QUEUED, "Request queued"), **self._links})

    def progress(self, view: JobView) -> bytes:
        """Where it is now."""
        job = view.job
        now = self._clock.now()
        body = {
            "request_id": self._request_id,
            "status": shown(job),
            "message": message_of(job),
            "timestamp": iso(now),
            "elapsed_time": self._elapsed_s(now),
            "queue_info": self._sizes(),
            "queue_position": _position(view) if view.position else NOT_WAITING,
            "stage": job.stage,
            "percent": self._highest(job.progress.percent),
        }
        if job.outputs:
            body["output_count"] = len(job.outputs)
        if job.status is JobStatus.RUNNING:
            _add_node(body, job)
        if view.expected_wait_s is not None:
            body["expected_wait_s"] = round(view.expected_wait_s, 3)
        if view.preview is not None and view.preview is not self._preview:
            self._preview = view.preview
            body["preview"] = _picture(view.preview)
        return encode(body, event_id=str(view.version))

    def shares(self, view: JobView, percent: float) -> bool:
        """Whether the event that told another stream of this view, with ``percent``, can be this one's too."""
        if self.percent > percent or view.preview is not None:
            return False
        self.percent = percent
        return True

    def final(self, job: Job, *, include_response: bool) -> bytes:
        """The result, however it came out; ``http_status`` is what ``/generate/sync`` would have answered."""
        body = {
            "request_id": self._request_id,
            "status": Shown.FINAL,
            "result": render(job, include_response=include_response),
            "elapsed_time": self._elapsed_s(job.timings.finished_at or self._clock.now()),
            "http_status": http_status(job),
        }
        return encode(body, event_id=FINAL_ID)

    def trouble(self, text: str) -> bytes:
        """The stream ends before the job does."""
        return encode({**self._head(Shown.ERROR, f"Stream error: {text}"), **self._links})

    def _head(self, status: Shown, message: str) -> dict[str, Any]:
        return {
            "request_id": self._request_id,
            "status": status,
            "message": message,
            "timestamp": iso(self._clock.now()),
        }

    def _elapsed_s(self, now: datetime) -> float:
        return round(max((now - self._accepted_at).total_seconds(), 0.0), 1)

    def _highest(self, percent: float) -> float:
        """A job that runs a second time (its engine died) begins anew; what its watcher sees never goes back."""
        self.percent = max(self.percent, percent)
        return round(self.percent, 2)


def _position(view: JobView) -> dict[str, Any]:
    expected = view.expected_wait_s
    return {
        "current_queue": "generation",
        "position": view.position,
        "queue_size": view.waiting_count,
        "estimated_wait_time": None if expected is None else round(expected, 1),
    }


def _add_node(body: dict[str, Any], job: Job) -> None:
    progress = job.progress
    if progress.node_id is not None:
        body["node_id"] = progress.node_id
        body["node_type"] = progress.node_type
    if progress.value is not None and progress.maximum is not None:
        body["step"] = progress.value
        body["steps"] = progress.maximum


def _picture(preview: Preview) -> dict[str, str]:
    data = base64.b64encode(preview.data).decode("ascii")
    return {"node_id": preview.node_id, "mimetype": preview.mime_type, "data": data}
