"""What a job of an earlier life of the worker is when it is taken up again. Pure."""

from datetime import datetime

from lib.errors import JobCancelled
from lib.jobs.lifetimes import OUTLIVED
from lib.jobs.live import LiveJob
from lib.jobs.model import Job, JobStatus, OnDisconnect, Progress, Stage

GONE = "The worker was restarted, and with it went the connection of the caller who waited for this job."


def revived(job: Job) -> Job:
    """A recorded job as it goes on. What ran counts as running until the engines have been asked for it; what was
    collected is delivered again."""
    if job.stage is Stage.DELIVER:
        return job
    if job.status is JobStatus.RUNNING:
        return job.with_(message="The worker was restarted; looking for the prompt")
    return job.with_(stage=Stage.PREPARE, message="Queued again after a restart of the worker")


def parked(job: Job) -> Job:
    """A job as it is left to the worker's next life; an execution that we stopped ourselves was no attempt."""
    if job.stage is Stage.DELIVER:
        return job
    return job.with_(
        status=JobStatus.QUEUED,
        stage=Stage.PREPARE,
        message="Waiting for the worker to come back",
        attempts=job.attempts - (job.status is JobStatus.RUNNING),
        engine=None,
        prompt_id=None,
        progress=Progress(),
    )


def abandoned(job: Job, now: datetime) -> JobCancelled | None:
    """Why nobody wants a recorded job any more, ``None`` where somebody may: it was being cancelled, its time to live
    is over, or nobody waits for it and nobody can come back."""
    if job.stopping:
        return JobCancelled(job.message)
    if job.expires_at is not None and job.expires_at <= now:
        return JobCancelled(OUTLIVED)
    gone = job.spec.on_disconnect is OnDisconnect.CANCEL and job.spec.disconnect_grace_s <= 0
    return JobCancelled(GONE) if gone else None


def orphan(live: LiveJob, reason: JobCancelled) -> None:
    """Nobody wants it any more: only its prompt is to go."""
    live.ending, live.orphaned = True, True
    live.cancel_error = reason
    live.note(stopping=True, message=reason.message)
