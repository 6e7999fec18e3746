"""When the store counts as down, and when as back: each half of it by itself, and only what writes shows it."""

import asyncio
from pathlib import Path

import pytest

from lib.lifecycle import Tasks
from lib.storage.vault import Vault
from router.joblink import JobLink
from router.ports import Damaged, StoreDown
from router.store.codec import JobCodec
from router.store.sqlite_file import SqliteFile
from router.store.sqlite_jobs import SqliteJobs
from router.storelink import Half, StoreLink
from tests.fakes.clock import FakeClock
from tests.fakes.shared_state import FakeStore
from tests.router.store.values import job


async def number(link: StoreLink, *, writes: bool = True) -> int:
    return await link.attempt(lambda state: state.next_number("n"), otherwise=0, writes=writes)


async def test_a_store_that_can_be_read_may_still_be_full() -> None:
    """What is read is used, and proves nothing; what is written does."""
    clock, store = FakeClock(), FakeStore(down=True)
    link = StoreLink(store, clock=clock)
    assert await number(link) == 0 and link.trouble
    store.down = False
    assert await number(link) == 0, "not so soon"
    await clock.advance(1)
    assert await number(link, writes=False) == 1 and link.trouble
    await clock.advance(1)
    assert await number(link) == 2 and link.trouble is None


async def test_both_halves_have_to_work() -> None:
    """One that is down keeps nobody from the other; the news come once."""
    heard: list[str | None] = []
    link = StoreLink(FakeStore(), clock=FakeClock())
    link.listen(heard.append)
    link.down("no room", half=Half.JOBS)
    assert await number(link) == 1 and link.trouble == "no room"
    link.down("away")
    assert not link.usable
    link.up(half=Half.JOBS)
    assert link.trouble == "away"
    link.up()
    assert heard == ["no room", None]


async def test_jobs_that_cannot_be_recorded_are_trouble_until_something_can(tmp_path: Path) -> None:
    """That is tried each second; one damaged job is no trouble of the store's."""
    clock, back = FakeClock(), asyncio.Event()
    file = await asyncio.to_thread(SqliteFile.open, tmp_path / "a.db", Vault(bytes(32)), now=clock.now())
    link = StoreLink(FakeStore(), clock=clock)
    link.listen(lambda trouble: back.set() if trouble is None else back.clear())
    async with Tasks() as tasks:
        jobs = JobLink(SqliteJobs(file, JobCodec(Vault(bytes(32))), clock=clock), link=link, tasks=tasks, clock=clock)
        await jobs.add(job("j1"))
        await file.run(lambda connection: connection.execute("UPDATE jobs SET head = x'00'").rowcount)
        with pytest.raises(Damaged):
            await jobs.get("j1")
        assert link.trouble is None
        await file.run(lambda connection: connection.execute("PRAGMA max_page_count = 50").fetchall())
        with pytest.raises(StoreDown):
            await jobs.add(job("j2", body=b"x" * 1_000_000))
        assert "full" in str(link.trouble)
        await clock.advance(1)
        await back.wait()
    await file.close()
