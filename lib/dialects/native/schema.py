"""Answers of our own routes. Fields that say nothing are absent; moments are ISO 8601 in UTC, durations seconds."""

from datetime import datetime
from typing import Any

from pydantic import Field

from lib.jobs.model import JobEvent, JobStatus, OutputKind, Stage
from lib.serving.schemas import WireModel


class ProgressObject(WireModel):
    """Latest news of the execution; `percent` never goes back."""

    percent: float
    node_id: str | None = None
    node_type: str | None = None
    value: float | None = Field(None, description="Step of the node that runs, of `maximum`.")
    maximum: float | None = None


class QueueObject(WireModel):
    """Where a job stands that waits for a GPU."""

    position: int = Field(description="From 1; 0 = it does not wait.")
    waiting_count: int
    expected_wait_s: float | None = None


class DurationsObject(WireModel):
    """How long it waits for its execution, and how long that takes."""

    wait_s: float | None = None
    execute_s: float | None = None


class TimingsObject(WireModel):
    """When each thing happened, and what the stages took."""

    accepted_at: datetime
    execution_started_at: datetime | None = None
    finished_at: datetime | None = None
    prepare_s: float | None = None
    wait_s: float | None = None
    execute_s: float | None = None
    collect_s: float | None = None
    deliver_s: float | None = None


class OutputObject(WireModel):
    """One thing that the workflow made. `path` is where this listener has the file; `url` is what was delivered."""

    node_id: str
    kind: OutputKind
    source_key: str = Field(description="ComfyUI's key: `images`, `gifs`, `audio`, ...")
    filename: str | None = None
    subfolder: str | None = None
    type: str = Field(description="ComfyUI's folder: `output` or `temp`.")
    mime_type: str
    size_bytes: int
    width: int | None = None
    height: int | None = None
    text: str | None = None
    path: str | None = None
    url: str | None = None
    url_expires_at: datetime | None = None
    thumbnail_url: str | None = None
    upload_error: str | None = None
    error: str | None = None
    warnings: list[str] | None = None


class ErrorObject(WireModel):
    """Why the job did not complete."""

    error: str = Field(description="Stable code.")
    message: str
    retryable: bool
    details: dict[str, Any] | None = None


class JobObject(WireModel):
    """A job, whichever API it came by."""

    job_id: str
    request_id: str
    run: int = Field(description="How often this request_id has come, from 1.")
    dialect: str = Field(description="The API that it came by.")
    tenant: str | None = Field(None, description="Whose it is; empty: the operator's, or of the public listener.")
    status: JobStatus
    stage: Stage
    message: str
    cost: float = Field(description="Size in workload units.")
    attempts: int = Field(description="How often it began to execute.")
    engine: str | None = None
    prompt_id: str | None = None
    progress: ProgressObject
    queue: QueueObject | None = None
    timings: TimingsObject
    predicted: DurationsObject = Field(description="As predicted at acceptance.")
    actual: DurationsObject
    outputs: list[OutputObject]
    warnings: list[str]
    error: ErrorObject | None = None


class JobPage(WireModel):
    """Jobs, newest first. `next` is the path of the page after this one, absent on the last."""

    jobs: list[JobObject]
    next: str | None = None


class DeadLetter(WireModel):
    """A webhook message that was given up."""

    message_id: str
    job_id: str
    tenant: str | None = None
    event: JobEvent
    host: str = Field(description="Of the target; its path and query are the caller's secret.")
    attempts: int
    last_error: str | None = None
    created_at: datetime


class DeadLetters(WireModel):
    """Messages that were given up, newest first."""

    messages: list[DeadLetter]


class Revived(WireModel):
    """A message that is due again."""

    message_id: str


class UploadedInput(WireModel):
    """A file that is here now. `reference` is good in any field of a loader node, in this tenant's jobs."""

    reference: str
    filename: str
    size_bytes: int


class UploadedInputs(WireModel):
    """What was uploaded, in the order of the parts."""

    inputs: list[UploadedInput]
