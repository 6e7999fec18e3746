"""Answers of RunPod's serverless API, as the docs page describes them; ``render`` writes most of them."""

from typing import Any

from pydantic import Field

from lib.protocol.runpod import Shown
from lib.serving.schemas import WireModel


class RunPodJob(WireModel):
    """State of a job. What does not apply is absent, never null."""

    id: str
    status: Shown
    delayTime: int | None = Field(None, description="Milliseconds in the queue, from its start on.")
    executionTime: int | None = Field(None, description="Milliseconds of work so far.")
    workerId: str | None = None
    retries: int | None = Field(None, description="How often it was tried again.")
    output: Any = Field(
        None,
        description="COMPLETED: `images`, beside them `videos`, `audio`, `files`, `text` and `errors` where there are "
        "any. IN_PROGRESS: the newest progress. FAILED: `details`, `code`, `retryable`, and what the error names.",
    )
    error: str | None = Field(None, description="Why it failed.")


class RunPodChunk(WireModel):
    """One piece of a stream."""

    output: Any


class RunPodStream(WireModel):
    """What is new since the last look, each piece once; over when the status is final and there is nothing left."""

    id: str
    status: Shown
    stream: list[RunPodChunk]
    error: str | None = None


class RunPodTrouble(WireModel):
    """A refused request. ``id`` and ``status`` are there wherever the route is about a job, for clients that look at
    nothing else."""

    error: str
    code: str = Field(description="Stable code.")
    retryable: bool
    id: str | None = None
    status: Shown | None = None
    stream: list[RunPodChunk] | None = None
    details: dict[str, Any] | None = None


class JobCounts(WireModel):
    """Jobs of this worker's life, and those that it has now."""

    completed: int
    failed: int
    inProgress: int
    inQueue: int
    retried: int


class WorkerCounts(WireModel):
    """This worker; exactly one of them is 1, and `ready` beside `idle`."""

    idle: int = 0
    initializing: int = 0
    ready: int = 0
    running: int = 0
    throttled: int = 0
    unhealthy: int = 0


class Health(WireModel):
    """What RunPod tells of an endpoint."""

    jobs: JobCounts
    workers: WorkerCounts


class Purged(WireModel):
    """How many jobs were taken out of the queue."""

    removed: int
    status: str = Field(description="Lower case here, as RunPod has it.")


class RunPodRequests(WireModel):
    """The caller's newest jobs, newest first, without what they made."""

    requests: list[RunPodJob]
