"""Tells the limits of API keys which jobs of their tenants are not finished."""

from datetime import datetime, timedelta

from lib.jobs.model import Job
from lib.jobs.ports import JobListener
from lib.serving.limits import KeyLimits


def follow(limits: KeyLimits) -> JobListener:
    """Return the listener that keeps the count of unfinished jobs."""

    def heard(job: Job) -> None:
        tenant = job.spec.owner
        if not tenant:
            return
        if job.status.terminal:
            limits.finished(tenant, job.job_id)
        else:
            limits.working(tenant, job.job_id, ends_at=lambda: _predicted_end(job))

    return heard


def _predicted_end(job: Job) -> datetime | None:
    if job.expected_s is None or job.expected_wait_s is None:
        return None
    return job.timings.accepted_at + timedelta(seconds=job.expected_wait_s + job.expected_s)
