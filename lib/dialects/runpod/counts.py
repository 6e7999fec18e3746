"""RunPod's eleven counters of an endpoint, for one worker: jobs by what became of them, and what the worker does."""

from collections.abc import Callable
from enum import StrEnum
from typing import Any

from lib.dialects.runpod.answers import Health, JobCounts, WorkerCounts
from lib.jobs.model import Job, JobStatus
from lib.jobs.service import JobService


class WorkerState(StrEnum):
    """What a worker is able to do."""

    STARTING = "starting"
    READY = "ready"
    UNHEALTHY = "unhealthy"


class RunPodCounts:
    """Counts the jobs of all dialects, since they share the worker, from this life's start on; our own benchmark is not
    among them. ``state`` is asked when somebody wants to know."""

    def __init__(self, jobs: JobService, *, state: Callable[[], str]) -> None:
        self._jobs = jobs
        self._state = state
        self._completed = 0
        self._failed = 0
        self._retried = 0
        jobs.listen(self._listen)

    def health(self) -> dict[str, Any]:
        """Return ``{"jobs": {...}, "workers": {...}}``."""
        live = [job for job in self._jobs.live_jobs if not job.spec.internal and not job.stopping]
        running = sum(job.status is JobStatus.RUNNING for job in live)
        counted = JobCounts(
            completed=self._completed,
            failed=self._failed,
            inProgress=running,
            inQueue=sum(job.status is JobStatus.QUEUED for job in live),
            retried=self._retried,
        )
        return Health(jobs=counted, workers=self._workers(busy=running > 0)).model_dump()

    def _workers(self, *, busy: bool) -> WorkerCounts:
        match self._state():
            case WorkerState.STARTING:
                return WorkerCounts(initializing=1)
            case WorkerState.READY:
                return WorkerCounts(running=1) if busy else WorkerCounts(idle=1, ready=1)
        return WorkerCounts(unhealthy=1)

    def _listen(self, job: Job) -> None:
        if not job.status.terminal or job.spec.internal:
            return
        self._completed += job.status is JobStatus.COMPLETED
        self._failed += job.status is JobStatus.FAILED
        self._retried += job.run > 1
