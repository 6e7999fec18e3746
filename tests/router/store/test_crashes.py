"""What is left when a store's process is killed: all that was said to be recorded, and nothing half."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from router.ports import JobState, News, NewsKind, StoreDown
from router.store import Stores, open_stores
from tests.fakes.clock import FakeClock
from tests.router.store.redis_server import REDIS_SERVER, RedisServer
from tests.router.store.values import NOW, assignment, job, worker
from tests.router.store.worlds import shared

ROOT = Path(__file__).resolve().parents[3]
Started = Callable[[str], RedisServer]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    """Start servers of one's own, to kill."""
    if REDIS_SERVER is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    servers: list[RedisServer] = []

    def start(fsync: str) -> RedisServer:
        servers.append(RedisServer(tmp_path, fsync=fsync))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
async def mortal(started: Started, tmp_path: Path) -> AsyncIterator[tuple[RedisServer, Stores]]:
    """A server that may be killed, in the mode that is recommended for jobs, and its store."""
    server = started("always")
    async with shared(server.url, tmp_path, FakeClock()) as stores:
        yield server, stores


def test_a_killed_writer_leaves_what_was_recorded(tmp_path: Path) -> None:
    """In the midst of a transaction: that is undone, the jobs before are there, no number comes again."""
    command = [sys.executable, "-m", "tests.router.store.writer", str(tmp_path), "25"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        lines = [line.strip() for line in iter(program.stdout.readline, "midst\n")]
        program.kill()
    assert lines == [f"number {number}" for number in range(1, 26)]

    async def look() -> None:
        async with open_stores("sqlite://", state_dir=tmp_path, clock=FakeClock()) as stores:
            counts = await stores.jobs.counts()
            assert (counts[JobState.WAITING], counts[JobState.DONE]) == (24, 1)
            done = await stores.jobs.get("j0")
            assert done is not None and done.result == b"answer"
            assert await stores.shared.next_number("route") > 25

    asyncio.run(look())


@pytest.mark.parametrize("fsync", ["everysec", "always"])
async def test_a_killed_server_leaves_whole_jobs(started: Started, tmp_path: Path, fsync: str) -> None:
    """None half there; with ``always`` all that were acknowledged, with ``everysec`` all but the last second's."""
    server = started(fsync)
    acknowledged: list[str] = []

    async def write(stores: Stores, name: str) -> None:
        for number in range(1000):
            await stores.jobs.add(job(f"{name}{number}", idempotency_key=f"{name}{number}"))
            acknowledged.append(f"{name}{number}")
            if len(acknowledged) == 300:
                server.kill()

    async with shared(server.url, tmp_path, FakeClock()) as stores:
        ended = await asyncio.gather(*(write(stores, name) for name in "abcd"), return_exceptions=True)
        assert [type(one) for one in ended] == [StoreDown] * 4
        await asyncio.to_thread(server.start)
        found = [await stores.jobs.get(name) for name in acknowledged]
        there = [one.job_id for one in found if one is not None]
        assert fsync == "everysec" or there == acknowledged
        waiting = (await stores.jobs.counts())[JobState.WAITING]
        leased = await stores.jobs.lease("a", limit=2000, until=NOW + 45, now=NOW)
        assert len({one.job_id for one in leased}) == len(leased) == waiting >= len(there)
        for one in leased:
            whole = replace(one, body=job().body)
            assert await stores.jobs.find(one.request_id, tenant="acme") == whole
            assert await stores.jobs.add(job("x", idempotency_key=one.idempotency_key)) == whole


async def test_the_store_is_found_again(mortal: tuple[RedisServer, Stores]) -> None:
    """While the server is away each call says so; when it is back all goes on, the first call already."""
    server, stores = mortal
    assert await stores.shared.next_number("route") == 1
    await stores.shared.put_worker(worker(), ttl_s=60)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    assert await stores.shared.next_number("route") == 2
    await asyncio.to_thread(server.kill)
    with pytest.raises(StoreDown):
        await stores.shared.next_number("route")
    with pytest.raises(StoreDown):
        await stores.jobs.add(job())
    with pytest.raises(StoreDown):
        async with stores.shared.news():
            raise AssertionError("nothing to listen to")
    await asyncio.to_thread(server.start)
    assert await stores.shared.next_number("route") == 3
    assert list(await stores.shared.workers()) == [worker()]
    assert await stores.shared.reserve(assignment(), slots=1, ttl_s=60)


async def test_news_end_with_the_connection(mortal: tuple[RedisServer, Stores]) -> None:
    """Who listens is told, as news may have been missed, and may listen again."""
    server, stores = mortal
    news = News(kind=NewsKind.JOB, origin="a", body={})
    async with stores.shared.news() as heard:
        await stores.shared.tell(news)
        assert await anext(heard) == news
        await asyncio.to_thread(server.kill)
        with pytest.raises(StoreDown):
            await anext(heard)
    await asyncio.to_thread(server.start)
    async with stores.shared.news() as heard:
        await stores.shared.tell(news)
        assert await anext(heard) == news
