"""Which status may follow which; the only code that changes one. Terminal states are sticky."""

from typing import Any

from lib.errors import JobCancelled, ServiceError
from lib.jobs.model import Job, JobStatus

ALLOWED: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.RUNNING: frozenset({JobStatus.QUEUED, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.COMPLETED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}
"""``running -> queued`` is a resubmission after the engine died; ``queued -> completed`` a harvest."""


class IllegalTransition(RuntimeError):
    """A defect of ours: somebody tried to change a job's status against the table."""


def advance(job: Job, status: JobStatus, **changes: Any) -> Job:
    """Return the job in its new status, with ``changes``. Raises IllegalTransition."""
    if status is not job.status and status not in ALLOWED[job.status]:
        raise IllegalTransition(f"{job.status} -> {status}")
    return job.with_(status=status, **changes)


def outcome_of(error: ServiceError) -> JobStatus:
    """The outcome of a job that ended with ``error``."""
    return JobStatus.CANCELLED if isinstance(error, JobCancelled) else JobStatus.FAILED
