"""Which jobs a router holds, whatever the store does to it."""

import asyncio
from collections.abc import Collection, Sequence
from pathlib import Path

from lib.clock import SystemClock
from lib.lifecycle import Tasks
from lib.storage.vault import Vault
from router.ports import JobState, RelayJob, StoreDown
from router.relay.jobs.holding import Holding
from router.relay.jobs.runner import Runner
from router.store.codec import JobCodec
from router.store.sqlite_file import SqliteFile
from router.store.sqlite_jobs import SqliteJobs
from tests.router.store.values import job


class Deaf(SqliteJobs):
    """Does not hear the first answer that has jobs in it."""

    lost: Sequence[RelayJob] = ()

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


async def test_a_lease_whose_answer_is_lost_is_found(tmp_path: Path) -> None:
    """With the next look, and not when the lease is over; what others hold stays theirs."""
    clock = SystemClock()
    vault, ended = Vault(bytes(32)), asyncio.Queue[RelayJob]()
    file = await asyncio.to_thread(SqliteFile.open, tmp_path / "a.db", vault, now=clock.now())
    jobs = Deaf(file, JobCodec(vault), clock=clock)
    async with Tasks() as tasks:
        runner = Runner(
            jobs=jobs,
            doing=Done(),
            tasks=tasks,
            clock=clock,
            holder="a",
            lease_s=3600.0,
            places=lambda endpoint: 1,
            count=lambda number: None,
            ended=ended.put_nowait,
        )
        await jobs.add(job("other"))
        (other,) = await SqliteJobs.lease(jobs, "b", limit=1, until=clock.now().timestamp() + 3600, now=0.0)
        await jobs.add(job("mine"))
        tasks.spawn(runner.run(), name="runner")
        while not jobs.lost:
            await asyncio.sleep(0)
        runner.wake()
        assert (await ended.get()).job_id == "mine"
        assert await jobs.get("other") == other
    await file.close()
