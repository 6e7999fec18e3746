"""Which jobs a router holds, whatever the store does to it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from lib.clock import SystemClock
from lib.lifecycle import Tasks
from lib.storage.vault import Vault
from router.ports import Damaged, JobState, RelayJob, StoreDown
from router.relay.jobs.holding import Holding
from router.relay.jobs.runner import ALL, EACH, Runner
from router.store.codec import JobCodec
from router.store.sqlite_file import SqliteFile
from router.store.sqlite_jobs import SqliteJobs
from tests.router.store.values import job


class Deaf(SqliteJobs):
    """Does not hear the first answer that has jobs in it; can't read the job ``damaged``."""

    lost: Sequence[RelayJob] = ()
    damaged = ""

    async def get(self, job_id: str) -> RelayJob | None:
        if job_id == self.damaged:
            raise Damaged("it can't be read")
        return await super().get(job_id)

    async def lease(
        self, holder: str, *, limit: int, until: float, now: float, apart: Collection[str] = ()
    ) -> Sequence[RelayJob]:
        taken = await super().lease(holder, limit=limit, until=until, now=now, apart=apart)
        if not taken or self.lost:
            return taken
        self.lost = taken
        raise StoreDown("the connection broke off")


class Done:
    """Brings each job to its end at once."""

    async def run(self, held: Holding) -> RelayJob:
        return await held.write(state=JobState.DONE, reason="completed")


class Waits:
    """Has no worker for any job."""

    def __init__(self) -> None:
        self.held: list[Holding] = []

    async def run(self, held: Holding) -> RelayJob:
        self.held.append(held)
        return await asyncio.get_running_loop().create_future()


@asynccontextmanager
async def runner_on(
    folder: Path, doing: Done | Waits, *, ended: Callable[[RelayJob], None] = lambda job: None
) -> AsyncIterator[tuple[Runner, Deaf, Tasks]]:
    """The router ``a``."""
    clock = SystemClock()
    vault = Vault(bytes(32))
    file = await asyncio.to_thread(SqliteFile.open, folder / "a.db", vault, now=clock.now())
    jobs = Deaf(file, JobCodec(vault), clock=clock)
    async with Tasks() as tasks:
        yield (
            Runner(
                jobs=jobs,
                doing=doing,
                tasks=tasks,
                clock=clock,
                holder="a",
                lease_s=3600.0,
                places=lambda endpoint: 1,
                count=lambda number: None,
                ended=ended,
            ),
            jobs,
            tasks,
        )
    await file.close()


async def test_a_lease_whose_answer_is_lost_is_found(tmp_path: Path) -> None:
    """With the next look, and not when the lease is over; what others hold stays theirs."""
    ended = asyncio.Queue[RelayJob]()
    async with runner_on(tmp_path, Done(), ended=ended.put_nowait) as (runner, jobs, tasks):
        await jobs.add(job("other"))
        until = SystemClock().now().timestamp() + 3600
        (other,) = await SqliteJobs.lease(jobs, "b", limit=1, until=until, now=0.0)
        await jobs.add(job("mine"))
        tasks.spawn(runner.run(), name="runner")
        while not jobs.lost:
            await asyncio.sleep(0)
        runner.wake()
        assert (await ended.get()).job_id == "mine"
        assert await jobs.get("other") == replace(other, body=job().body)


async def test_what_is_damaged_keeps_nobody_out(tmp_path: Path) -> None:
    """Nobody can do it; the others are found and done."""
    ended = asyncio.Queue[RelayJob]()
    async with runner_on(tmp_path, Done(), ended=ended.put_nowait) as (runner, jobs, tasks):
        for name in ("bad", "mine"):
            await jobs.add(job(name))
        jobs.damaged = "bad"
        tasks.spawn(runner.run(), name="runner")
        while not jobs.lost:
            await asyncio.sleep(0)
        runner.wake()
        assert (await ended.get()).job_id == "mine"
        await jobs.add(job("later"))
        runner.wake()
        assert (await ended.get()).job_id == "later"


async def test_many_with_much_keep_nobody_out(tmp_path: Path) -> None:
    """Each tenant has jobs here that may be next, and none of them its body in memory until a worker gets it."""
    doing, tenants = Waits(), [f"ep/{number}" for number in range(ALL // EACH + 3)]
    async with runner_on(tmp_path, doing) as (runner, jobs, tasks):
        jobs.lost = [job()]
        for tenant in tenants:
            for number in range(EACH + 8):
                await jobs.add(job(f"{tenant} {number}", tenant=tenant, body=b"large"))
        tasks.spawn(runner.run(), name="runner")
        while len({held.job.tenant for held in doing.held}) < len(tenants):
            await asyncio.sleep(0)
        assert len(runner) <= ALL + 3 * EACH
        assert {held.job.body for held in doing.held} == {b""}
        assert (await doing.held[-1].whole()).body == b"large"
