"""What becomes of a job that is sent on its way again; the same in every store."""

from dataclasses import replace

from router.ports import JobState, RelayJob


def revived(job: RelayJob) -> RelayJob:
    """The job as new, with all its attempts before it. Its fence moves on: nobody who had it before may write."""
    return replace(
        job,
        state=JobState.WAITING,
        fence=job.fence + 1,
        lease_until=0.0,
        holder="",
        attempts=(),
        remote_id="",
        worker="",
        cancel_wanted=False,
        finished_at=0.0,
        result_status=0,
        result=None,
        reason="",
        run=job.run + 1,
        notice_at=0.0,
        notices=0,
    )
