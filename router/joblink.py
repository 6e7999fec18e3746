"""The store of jobs as the process uses it: what it answers goes on to who asked, that it is down to everybody.

A store that can only be read is down for jobs: while it is, one small write a second finds out whether it is back.
"""

from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import TypeVar

from lib.clock import Clock
from lib.lifecycle import Tasks
from router.ports import Damaged, JobState, JobStore, RelayJob, StoreDown
from router.storelink import RETRY_S, Half, StoreLink

T = TypeVar("T")


class JobLink:
    """Implements ``JobStore`` over another one; ``link`` hears of trouble."""

    def __init__(self, jobs: JobStore, *, link: StoreLink, tasks: Tasks, clock: Clock) -> None:
        self._jobs = jobs
        self._link = link
        self._tasks = tasks
        self._clock = clock
        self._proving = False

    async def add(self, job: RelayJob) -> RelayJob:
        return await self._told(self._jobs.add(job))

    async def get(self, job_id: str) -> RelayJob | None:
        return await self._told(self._jobs.get(job_id))

    async def find(self, request_id: str, *, tenant: str) -> RelayJob | None:
        return await self._told(self._jobs.find(request_id, tenant=tenant))

    async def lease(
        self, holder: str, *, limit: int, until: float, now: float, apart: Collection[str] = ()
    ) -> Sequence[RelayJob]:
        return await self._told(self._jobs.lease(holder, limit=limit, until=until, now=now, apart=apart))

    async def held(self, holder: str) -> Mapping[str, int]:
        return await self._told(self._jobs.held(holder))

    async def renew(self, fences: Mapping[str, int], *, until: float) -> Mapping[str, bool]:
        return await self._told(self._jobs.renew(fences, until=until))

    async def save(self, job: RelayJob) -> None:
        await self._told(self._jobs.save(job))

    async def want_cancel(self, job_id: str) -> RelayJob | None:
        return await self._told(self._jobs.want_cancel(job_id))

    async def counts(self, *, tenant: str | None = None) -> Mapping[JobState, int]:
        return await self._told(self._jobs.counts(tenant=tenant))

    async def listed(
        self, *, tenant: str | None, states: Collection[JobState] = tuple(JobState), before: str = "", limit: int
    ) -> Sequence[RelayJob]:
        return await self._told(self._jobs.listed(tenant=tenant, states=states, before=before, limit=limit))

    async def due(self, *, before: float, limit: int) -> Sequence[RelayJob]:
        return await self._told(self._jobs.due(before=before, limit=limit))

    async def prove(self) -> None:
        await self._told(self._jobs.prove())

    async def dead(self, *, tenant: str | None, limit: int) -> Sequence[RelayJob]:
        return await self._told(self._jobs.dead(tenant=tenant, limit=limit))

    async def revive(self, job_id: str, *, tenant: str | None, states: Collection[JobState] = (JobState.DEAD,)) -> bool:
        return await self._told(self._jobs.revive(job_id, tenant=tenant, states=states))

    async def expire(self, *, older_than: float) -> int:
        return await self._told(self._jobs.expire(older_than=older_than))

    async def _told(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except Damaged:
            raise
        except StoreDown as error:
            self._link.down(error.message, half=Half.JOBS)
            if not self._proving:
                self._proving = True
                self._tasks.spawn(self._prove(), name="store: proof")
            raise

    async def _prove(self) -> None:
        try:
            while True:
                await self._clock.sleep(RETRY_S)
                try:
                    await self._jobs.prove()
                except StoreDown as error:
                    self._link.down(error.message, half=Half.JOBS)
                else:
                    self._link.up(half=Half.JOBS)
                    return
        finally:
            self._proving = False
