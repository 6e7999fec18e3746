"""Which jobs this router holds: it leases what waits, does it, keeps its leases, and gives them back when it stops.

It takes a small part of each tenant's line, so that the work stays where any router can take it, and no tenant keeps
another waiting. Who has many jobs, and who goes first, is the dispatcher's to decide among those.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from lib.clock import Clock
from lib.lifecycle import Tasks
from router.ports import Damaged, JobState, JobStore, LeaseLost, RelayJob, StoreDown
from router.relay.jobs.doing import Doing
from router.relay.jobs.holding import Holding

log = logging.getLogger(__name__)

RENEWALS = 3
"""A lease is renewed so often in its life."""
EACH = 32
"""Jobs of one tenant that wait here for a worker, at most; more where an endpoint has more places."""
ALL = 512
"""The same of all tenants; beyond, those come in who have none here."""
STOP_S = 5.0


class Runner:
    """``ended`` is told of each job that this router brought to its end. ``places``: how many jobs an endpoint's
    workers may hold. ``count`` has the request of this number count against its worker on."""

    def __init__(
        self,
        *,
        jobs: JobStore,
        doing: Doing,
        tasks: Tasks,
        clock: Clock,
        holder: str,
        lease_s: float,
        places: Callable[[str], int],
        count: Callable[[str], None],
        ended: Callable[[RelayJob], None],
    ) -> None:
        self._jobs = jobs
        self._doing = doing
        self._tasks = tasks
        self._clock = clock
        self._holder = holder
        self._lease_s = lease_s
        self._places = places
        self._count = count
        self._ended = ended
        self._held: dict[str, Holding] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._unsure = True
        self._stopping = False

    def __len__(self) -> int:
        return len(self._held)

    def wake(self) -> None:
        """There may be something to lease."""
        self._wake.set()

    def cancel(self, job_id: str) -> None:
        """Its owner wants it stopped."""
        if (held := self._held.get(job_id)) is not None:
            held.cancel.set()

    async def run(self) -> None:
        """Lease what there is room for whenever something may have changed."""
        self._wake.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._recover()
                await self._lease()
            except StoreDown as error:
                self._unsure = True
                log.debug("nothing is leased", extra={"event": "relay.unleased", "reason": error.message})

    async def keep(self) -> None:
        """Renew what is held, and look for leases of others that are over."""
        while True:
            await self._clock.sleep(self._lease_s / RENEWALS)
            self._wake.set()
            self._count_on()
            try:
                await self._renew()
            except StoreDown as error:
                log.warning("leases were not renewed", extra={"event": "relay.unrenewed", "reason": error.message})

    async def stop(self) -> None:
        """Give back what is held, where it is: a worker that does it goes on."""
        self._stopping = True
        held = list(self._held.values())
        for task in self._running.values():
            task.cancel()
        if self._running:
            await asyncio.wait(self._running.values(), timeout=STOP_S)
        try:
            async with asyncio.timeout(STOP_S):
                for one in held:
                    await self._give_back(one)
        except TimeoutError:
            log.warning("leases were not given back", extra={"event": "relay.kept", "count": len(held)})

    # -- leases -------------------------------------------------------------------------------------------------------

    async def _recover(self) -> None:
        """Take what is leased by us and not held, as the store's answer was lost, or an earlier life of this router."""
        if not self._unsure or self._stopping:
            return
        for job_id, fence in (await self._jobs.held(self._holder)).items():
            try:
                job = await self._jobs.get(job_id) if self._lacks(job_id, fence) else None
            except Damaged:  # the store ends it when its lease is over
                continue
            ours = job is not None and job.state is JobState.LEASED and job.holder == self._holder
            if job is not None and ours and self._lacks(job_id, job.fence):
                self._take(replace(job, body=b""))
        self._unsure = False

    def _lacks(self, job_id: str, fence: int) -> bool:
        held = self._held.get(job_id)
        return held is None or held.job.fence < fence

    async def _lease(self) -> None:
        waiting = Counter(held.job.tenant for held in self._held.values() if not held.given)
        while not self._stopping:
            room = ALL - waiting.total()
            full = [tenant for tenant, count in waiting.items() if room <= 0 or count >= self._most(tenant)]
            now = self._clock.now().timestamp()
            asked = min(room, EACH) if room > 0 else EACH
            taken = await self._jobs.lease(self._holder, limit=asked, until=now + self._lease_s, now=now, apart=full)
            for job in taken:
                self._take(job)
            waiting.update(job.tenant for job in taken)
            if len(taken) < asked:
                return

    def _most(self, tenant: str) -> int:
        return max(EACH, 2 * self._places(tenant.partition("/")[0]))

    def _take(self, job: RelayJob) -> None:
        before = self._running.pop(job.job_id, None)
        if before is not None:  # its lease was over; we are next in the line ourselves
            before.cancel()
        held = self._held[job.job_id] = Holding(job, jobs=self._jobs, clock=self._clock, lease_s=self._lease_s)
        self._running[job.job_id] = self._tasks.spawn(self._do(held), name=f"job {job.job_id}")

    async def _do(self, held: Holding) -> None:
        job_id = held.job.job_id
        try:
            self._ended(await self._doing.run(held))
        except LeaseLost as error:
            log.warning("a job was lost to another router", extra={"event": "relay.lease_lost", "why": error.message})
        finally:
            if self._held.get(job_id) is held and not self._stopping:
                del self._held[job_id]
                self._running.pop(job_id, None)
            self._wake.set()

    def _count_on(self) -> None:
        """Not what was only just given: its worker may not list it yet, and would seem to have lost it."""
        limit = self._clock.now().timestamp() - self._lease_s / RENEWALS
        for held in self._held.values():
            if held.given and held.job.remote_id and held.job.attempts[-1].begun_at <= limit:
                self._count(str(held.job.number))

    async def _renew(self) -> None:
        fences = {job_id: held.job.fence for job_id, held in self._held.items()}
        if not fences:
            return
        until = self._clock.now().timestamp() + self._lease_s
        wanted = await self._jobs.renew(fences, until=until)
        for job_id, fence in fences.items():
            held = self._held.get(job_id)
            if held is None or held.job.fence != fence:
                continue
            if wanted.get(job_id):
                held.cancel.set()
            elif job_id not in wanted and not held.busy and not held.job.state.over:
                self._let_go(job_id)

    def _let_go(self, job_id: str) -> None:
        """Somebody else has it by now."""
        log.warning("a lease was lost", extra={"event": "relay.lease_lost", "job": job_id})
        del self._held[job_id]
        if (task := self._running.pop(job_id, None)) is not None:
            task.cancel()

    async def _give_back(self, held: Holding) -> None:
        if held.job.state is not JobState.LEASED:
            return
        try:
            await held.give_back()
        except (LeaseLost, StoreDown) as error:
            log.debug("a lease runs out", extra={"event": "relay.kept", "job": held.job.job_id, "why": error.message})
