"""Which job a request asks for again: by its idempotency key, its request id, or a router's number for it."""

from lib.errors import IdempotencyMismatch, JobConflict
from lib.jobs.live import LiveJob
from lib.jobs.model import Idempotency, Job, JobSpec, JobStatus
from lib.jobs.ports import JobStore
from lib.jobs.registry import LiveJobs


class Repeats:
    """Looks among live jobs first, then in the store. Whoever accepts a job on its answer lets nobody else ask in
    between: the store suspends."""

    def __init__(self, *, live: LiveJobs, store: JobStore) -> None:
        self._live = live
        self._store = store

    async def of(self, spec: JobSpec) -> LiveJob | Job | None:
        """Return the live job to attach to, the finished job to answer with, or ``None``: it is a new one.

        Raises: JobConflict, IdempotencyMismatch."""
        if spec.idempotency is not None and (job := await self._keyed(spec.idempotency, spec)) is not None:
            return job
        if (live := self._live.named(spec.request_id, owner=spec.owner)) is not None:
            if live.job.spec.body_hash != spec.body_hash:
                raise _conflict(live.job, "This request_id is in use by a job that is not finished, with another body")
            return live
        if (job_id := self._live.tagged(spec)) is None:
            return None
        if (live := self._live.get(job_id)) is not None:
            return live
        stored = await self._store.get(job_id)
        return stored if stored is not None and stored.status is JobStatus.COMPLETED else None

    async def _keyed(self, key: Idempotency, spec: JobSpec) -> Job | None:
        live = self._live.keyed(key)
        job = live.job if live is not None else await self._store.keyed(key)
        if job is None:
            return None
        if job.spec.body_hash != spec.body_hash:
            raise IdempotencyMismatch(
                "This Idempotency-Key was used before, with another body; choose another key.",
                details={"request_id": job.spec.request_id, "job_id": job.job_id},
            )
        if live is not None or not job.status.terminal:
            raise _conflict(job, "The job of this Idempotency-Key is not finished")
        return job


def _conflict(job: Job, reason: str) -> JobConflict:
    details = {"request_id": job.spec.request_id, "job_id": job.job_id, "status": str(job.status)}
    return JobConflict(f"{reason}; ask for its result, or choose another one.", details=details)
