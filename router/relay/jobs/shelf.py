"""Jobs as their owners reach them: found by either name, listed, waited for, cancelled, begun anew."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace

from aiohttp import web

from lib.clock import Clock
from lib.errors import JobNotFound
from router.access import bearer_of
from router.endpoints import Bearer, Endpoints, Scope
from router.ports import JobState, JobStore, LeaseLost, RelayJob
from router.relay.jobs.endings import Endings
from router.relay.jobs.forms import Dialect
from router.relay.jobs.naming import owner_of, tenant_of
from router.relay.ports import Visitor
from router.relay.visiting import visitor_of

UNKNOWN = "Request ID not found"
MOST_NAME_CHARS = 1024
PAGE = 100
"""Records that are read at a time."""


class Shelf:
    """``told`` hears of what was changed here; ``notice`` of jobs whose end we have to tell."""

    def __init__(
        self,
        jobs: JobStore,
        *,
        endpoints: Endpoints,
        endings: Endings,
        clock: Clock,
        told: Callable[[RelayJob], Awaitable[None]],
        notice: Callable[[RelayJob], None],
    ) -> None:
        self._jobs = jobs
        self._endpoints = endpoints
        self._endings = endings
        self._clock = clock
        self._told = told
        self._notice = notice

    def now(self) -> float:
        """Epoch seconds."""
        return self._clock.now().timestamp()

    def visitor(self, request: web.Request, *, endpoint: str = "") -> Visitor:
        """Who asks, and for which endpoint; see ``visitor_of``."""
        return visitor_of(request, self._endpoints, endpoint=endpoint)

    async def find(self, request: web.Request, *, endpoint: str = "", dialect: Dialect | None = None) -> RelayJob:
        """The job that the path names, by the router's name or the caller's own, without its body, which nobody who
        waits shall hold. Raises: JobNotFound."""
        named = request.match_info["job_id"]
        if len(named) > MOST_NAME_CHARS:
            raise JobNotFound(UNKNOWN)
        visitor, bearer = self.visitor(request, endpoint=endpoint), bearer_of(request)
        job = await self._jobs.get(named) or await self._jobs.find(named, tenant=owner_of(visitor))
        if job is None or not sees(bearer, job) or dialect not in (None, job.dialect) or self._is_gone(job):
            raise JobNotFound(UNKNOWN)
        return replace(job, body=b"")

    async def listed(
        self,
        bearer: Bearer,
        *,
        tenant: str | None,
        states: Collection[JobState] = tuple(JobState),
        fits: Callable[[RelayJob], bool],
        before: str = "",
        most: int,
    ) -> list[RelayJob]:
        """Jobs that this caller sees, and that fit, the newest first, without body and result: a tenant's (None:
        everybody's), those that came before the job ``before``, where that is named."""
        found: list[RelayJob] = []
        while True:
            page = await self._jobs.listed(tenant=tenant, states=states, before=before, limit=PAGE)
            found += [job for job in page if sees(bearer, job) and fits(job)]
            if len(page) < PAGE or len(found) >= most:
                return found[:most]
            before = page[-1].job_id

    async def dead(self, bearer: Bearer, *, tenant: str | None, most: int) -> Sequence[RelayJob]:
        """Dead letters that this caller sees, the latest first."""
        return [job for job in await self._jobs.dead(tenant=tenant, limit=most) if sees(bearer, job)]

    async def wait(self, job: RelayJob, wait_s: float, *, or_begun: bool = False) -> RelayJob:
        """The job at its end (or when a worker has it), or as it is then."""
        if wait_s <= 0 or job.state.over or job.cancel_wanted:
            return job
        return await self._endings.of(job, wait_s, or_begun=or_begun)

    async def cancel(self, job: RelayJob) -> RelayJob:
        """Have it stopped; from now on it is cancelled, whatever a worker still says. Raises: JobNotFound."""
        wanted = await self._jobs.want_cancel(job.job_id)
        if wanted is None:
            raise JobNotFound(UNKNOWN)
        if wanted.state is JobState.CANCELLED and not wanted.notice_at and wanted.hooked:
            wanted = replace(wanted, notice_at=self.now())
            await self.save(wanted)
            self._notice(wanted)
        await self._told(wanted)
        return wanted

    async def again(self, job: RelayJob) -> bool:
        """Begin a job anew that is over; False: it can't be."""
        states = (JobState.DONE, JobState.DEAD)
        if not await self._jobs.revive(job.job_id, tenant=job.tenant, states=states):
            return False
        await self._told(replace(job, state=JobState.WAITING))
        return True

    async def forget_at(self, job: RelayJob, moment: float) -> None:
        """Have a job that is over forgotten earlier."""
        if job.state.over:
            await self.save(replace(job, forget_at=moment))

    async def save(self, job: RelayJob) -> None:
        """Write a job that is over; one that was begun anew meanwhile stays as it is."""
        try:
            await self._jobs.save(job)
        except LeaseLost:
            return

    def _is_gone(self, job: RelayJob) -> bool:
        return 0 < job.forget_at <= self.now()


def sees(bearer: Bearer, job: RelayJob) -> bool:
    """Tenants see their own jobs, an endpoint's key those of its tenants too, the operator all."""
    if not bearer.reaches(job.endpoint):
        return False
    return bearer.scope is not Scope.TENANT or bearer.tenant == tenant_of(job)
