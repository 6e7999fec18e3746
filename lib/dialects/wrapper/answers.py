"""Answers of the ComfyUI API Wrapper, as the docs page describes them; ``render`` and ``events`` write them.

Upstream's keys come first and are unchanged; what is ours comes after them, and only where it says something.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from lib.serving.schemas import WireModel


class Shown(StrEnum):
    """The wrapper's words for where a job is; ``queued``, ``final_result`` and ``error`` are those of events only."""

    PENDING = "pending"
    PROCESSING = "processing"
    GENERATING = "generating"
    GENERATED = "generated"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    QUEUED = "queued"
    FINAL = "final_result"
    ERROR = "error"


State = Literal["pending", "processing", "generating", "generated", "completed", "failed", "cancelled"]


class OutputEntry(WireModel):
    """One file that the workflow made."""

    filename: str
    local_path: str = Field(description="Where the file is on the worker's disk.")
    type: str
    subfolder: str
    node_id: str
    output_type: str = Field(description="ComfyUI's key: `images`, `gifs`, `audio`, ...")
    url: str | None = Field(None, description="Where it can be fetched: presigned, public, or signed by this worker.")
    upload_error: str | None = Field(None, description="Why the upload of this file failed; the job is completed.")
    data: str | None = Field(None, description="Base64 of the content, when asked for.")
    mimetype: str
    error: str | None = Field(None, description="Why there is no `data`.")
    kind: str = Field(description="`image`, `video`, `audio`, `3d`, `text`, `latent` or `file`, by the content.")
    size_bytes: int
    width: int | None = Field(None, description="Of a picture, in pixels; `height` too.")
    height: int | None = None
    url_expires_at: datetime | None = Field(None, description="`url` works until then.")
    thumbnail_url: str | None = None
    thumbnail: str | None = Field(None, description="Base64 of the thumbnail, where `data` was asked for.")
    warnings: list[str] | None = Field(None, description="What could not be done with this file as asked.")


class TextEntry(WireModel):
    """One text that the workflow made."""

    node_id: str
    output_type: str
    text: str


class TimingsEntry(WireModel):
    """Milliseconds, integers; `*_at_ms` since the epoch."""

    queued_at_ms: int | None = Field(None, description="Absent when the request was not accepted.")
    preprocess_ms: int | None = None
    generation_ms: int | None = None
    postprocess_ms: int | None = None
    completed_at_ms: int | None = None
    total_ms: int | None = None


class Result(WireModel):
    """State of a job. The fields after `timings` are ours and absent when they say nothing."""

    id: str
    message: str
    status: State
    comfyui_response: dict[str, Any] = Field(description="ComfyUI's history entry under its prompt id.")
    output: list[OutputEntry]
    timings: TimingsEntry
    text_output: list[TextEntry] | None = None
    warnings: list[str] | None = None
    error: str | None = Field(None, description="Stable code of what went wrong.")
    retryable: bool | None = Field(None, description="Whether the same request may succeed later or elsewhere.")
    details: dict[str, Any] | None = Field(None, description="For programs: `node_errors`, `node_id`, `expected`, ...")


class Links(WireModel):
    """Where a job can be asked for, and when it is expected; times are predictions and absent when unknown."""

    job_id: str
    status_url: str = Field(description="`GET` it: the result, `?wait=60` waits for it.")
    stream_url: str = Field(description="`GET` it: its events, for an EventSource.")
    cancel_url: str = Field(description="`POST` to it.")
    expected_wait_s: float | None = Field(None, description="Seconds from acceptance to the start of its execution.")
    expected_s: float | None = Field(None, description="Seconds of execution.")


class Accepted(Links, Result):
    """A job that goes on without its caller."""


class Conflict(Result):
    """A refusal because of a job that is not finished, and where that one can be asked for."""

    status_url: str | None = None


class Cancelled(WireModel):
    """What became of a request to cancel."""

    message: str
    status: State


class Unknown(WireModel):
    """No such job."""

    error: str


class QueueInfo(WireModel):
    """How much is waiting now. The three sizes count what waits, not what is being worked on."""

    preprocess_queue_size: int
    generation_queue_size: int
    postprocess_queue_size: int
    running_count: int = Field(description="Jobs that ComfyUI executes.")
    waiting_count: int = Field(description="Jobs that wait, in all three.")
    expected_wait_s: float | None = Field(description="What a job that came now would wait; null while unknown.")
    expected_start_at: datetime | None = Field(description="When it would start.")
    expected_s: float | None = Field(description="How long it would run, if it is like those of late.")


class RequestProblem(WireModel):
    """One mistake in a request."""

    type: str
    loc: list[str | int]
    msg: str


class Rejection(WireModel):
    """Answer to a request that does not fit the schema."""

    detail: list[RequestProblem]
    error: str
    message: str
    retryable: bool = False
