"""Finds jobs by their names: those that live as they are now, the others in the store."""

from lib.errors import JobNotFound
from lib.jobs.ids import is_job_id
from lib.jobs.live import LiveJob
from lib.jobs.model import Job, JobFilter
from lib.jobs.ports import JobStore
from lib.jobs.registry import LiveJobs


class Lookup:
    """What ``JobService`` says under ``get``, ``find`` and ``listed``."""

    def __init__(self, *, live: LiveJobs, store: JobStore) -> None:
        self._live = live
        self._store = store

    def live(self, job_id: str) -> LiveJob | None:
        """The live job of this id, unless its time is over."""
        live = self._live.get(job_id)
        return None if live is None or live.forgotten else live

    async def get(self, job_id: str) -> Job:
        """Return the newest snapshot. Raises: JobNotFound."""
        if (live := self._live.get(job_id)) is not None:
            job = None if live.forgotten else live.job
        else:
            job = await self._store.get(job_id)
        if job is None:
            raise missing()
        return job

    async def find(self, name: str, *, owner: str | None) -> Job:
        """Return the owner's job of this id, else the newest run of the owner's request id. Raises: JobNotFound."""
        for live in (self._live.get(name), self._live.named(name, owner=owner or "")):
            if live is not None and not live.forgotten and owner in (None, live.job.spec.owner):
                return live.job
        job = await self._store.get(name) if is_job_id(name) else None
        if job is None or owner not in (None, job.spec.owner):
            job = await self._store.latest(name, owner=owner or "")
        if job is None and owner is None and (others := await self.listed(JobFilter(request_id=name, limit=1))):
            job = await self.get(others[0].job_id)
        if job is None or owner not in (None, job.spec.owner):
            raise missing()
        return job

    async def listed(self, asked: JobFilter) -> list[Job]:
        """Return jobs that fit, newest first."""
        found = await self._store.listed(asked)
        lives = [(job, self._live.get(job.job_id)) for job in found]
        newest = [job if live is None else live.job for job, live in lives if live is None or not live.forgotten]
        return [job for job in newest if not asked.statuses or job.status in asked.statuses]


def missing() -> JobNotFound:
    """What is said of a job that is not, or no longer, there."""
    return JobNotFound("No such job; results are kept for a limited time.")
