"""How stores are opened: files, keys, servers, and what an operator is told when it does not work."""

import asyncio
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis.asyncio import Redis

from lib.lifecycle import Tasks
from lib.settings import SettingsError
from lib.storage.vault import Vault
from router.ports import JobState, JobStore, StoreDown
from router.store import DATABASE, KEY, open_stores
from router.store.codec import JobCodec
from router.store.redis_line import PREFIX, RedisLine, connections
from router.store.sqlite_file import SqliteFile
from router.store.sqlite_jobs import SqliteJobs
from tests.fakes.clock import FakeClock
from tests.router.store.redis_server import RedisServer
from tests.router.store.values import NOW, job
from tests.router.store.worlds import redis_world, shared

CLOCK = FakeClock()


async def test_a_file_is_opened_again(tmp_path: Path) -> None:
    """With its jobs and counters; the numbers go on without a gap after a proper end."""
    for number in (1, 2, 3):
        async with open_stores(f"sqlite://{tmp_path}/own/jobs.db", state_dir=tmp_path, clock=CLOCK) as stores:
            assert await stores.shared.next_number("route") == number
            assert await stores.jobs.add(job()) == job()
    assert not (tmp_path / DATABASE).exists()


async def test_an_older_file_is_brought_up_to_date(tmp_path: Path) -> None:
    """With the jobs that are in it."""
    async with open_stores("sqlite://", state_dir=tmp_path, clock=CLOCK) as stores:
        await stores.jobs.add(job())
    with closing(sqlite3.connect(tmp_path / DATABASE)) as before:
        before.executescript("DROP INDEX jobs_by_notice; ALTER TABLE jobs DROP COLUMN notice_at")
        before.execute("PRAGMA user_version = 1")
    for _ in range(2):
        async with open_stores("sqlite://", state_dir=tmp_path, clock=CLOCK) as stores:
            assert await stores.jobs.get("j1") == job()
            assert await stores.jobs.due(before=NOW, limit=1) == []


async def test_nothing_of_a_caller_lies_in_clear(tmp_path: Path) -> None:
    """Nor may others read the files."""
    put = job(idempotency_key="a-private-key", request_id="private-name", result=b"private answer")
    async with open_stores("sqlite://", state_dir=tmp_path, clock=CLOCK) as stores:
        await stores.jobs.add(put)
        written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        for secret in (b"a secret", b"a-private-key", b"private-name", b"private answer", b"Bearer hidden"):
            assert secret not in written
        assert b"acme" in written
    for name in (KEY, DATABASE):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


async def test_nothing_of_a_caller_lies_in_clear_on_a_server(redis_server: RedisServer, tmp_path: Path) -> None:
    """Its append-only file has none of it."""
    async with redis_world(redis_server.url, tmp_path).replicas(1) as (stores,):
        await stores.jobs.add(job("sealed", idempotency_key="a-private-key"))
    written = b"".join(path.read_bytes() for path in redis_server.folder.rglob("*.aof"))
    assert b"job:sealed" in written
    assert all(secret not in written for secret in (b"a secret", b"a-private-key", b"Bearer hidden"))


async def test_one_router_has_the_file(tmp_path: Path) -> None:
    """Another is told what to do."""
    async with open_stores("sqlite://", state_dir=tmp_path, clock=CLOCK):
        with pytest.raises(SettingsError, match="in use by another router"):
            async with open_stores("sqlite://", state_dir=tmp_path, clock=CLOCK):
                raise AssertionError("two have it")


async def test_another_key_is_named(tmp_path: Path) -> None:
    """The file stays as it is, and opens with the right one."""
    async with open_stores("sqlite://", state_dir=tmp_path, clock=CLOCK, state_key="01" * 32) as stores:
        await stores.jobs.add(job())
    with pytest.raises(SettingsError, match="ROUTER_STATE_KEY"):
        async with open_stores("sqlite://", state_dir=tmp_path, clock=CLOCK, state_key="02" * 32):
            raise AssertionError("it fits")
    async with open_stores("sqlite://", state_dir=tmp_path, clock=CLOCK, state_key="01" * 32) as stores:
        assert await stores.jobs.get("j1") == job()


async def test_routers_with_unlike_keys_do_not_share(redis_server: RedisServer, tmp_path: Path) -> None:
    """The second to come is told."""
    async with redis_world(redis_server.url, tmp_path).replicas(1):
        with pytest.raises(SettingsError, match="ROUTER_STATE_KEY"):
            async with open_stores(redis_server.url, state_dir=tmp_path, clock=CLOCK, state_key="02" * 32):
                raise AssertionError("it fits")


async def test_a_damaged_file_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A new one is begun, and the operator told."""
    (tmp_path / DATABASE).write_bytes(b"no database " * 1000)
    async with open_stores("sqlite://", state_dir=tmp_path, clock=CLOCK) as stores:
        assert await stores.jobs.add(job()) == job()
    assert len(list(tmp_path.glob(f"{DATABASE}.damaged-*"))) == 1
    assert "set aside" in caplog.text


@pytest.mark.parametrize(("key", "url"), [("abc", "sqlite://"), ("zz" * 32, "sqlite://"), ("", "redis://h:port/0")])
async def test_bad_values_are_named(tmp_path: Path, key: str, url: str) -> None:
    """By the variable, without the value, which may be a secret."""
    with pytest.raises(SettingsError, match=r"ROUTER_ST(ATE_KEY|ORE)") as told:
        async with open_stores(url, state_dir=tmp_path, clock=CLOCK, state_key=key):
            raise AssertionError("it opened")
    assert not key or key not in str(told.value)


async def test_a_server_that_would_lose_jobs_is_named(
    redis_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One that keeps no file, one that throws keys out; nothing is said of one that does neither."""
    bad = {"appendonly": "no", "maxmemory": "1gb", "maxmemory-policy": "allkeys-lru"}
    async with Redis.from_url(redis_server.url) as server:
        for settings, events in (({}, []), (bad, ["store.forgets", "store.evicts"])):
            before = {name: (await server.config_get(name))[name] for name in settings}
            for name, value in settings.items():
                await server.config_set(name, value)
            caplog.clear()
            async with shared(redis_server.url, tmp_path, CLOCK):
                assert [getattr(one, "event", "") for one in caplog.records] == events
            for name, value in before.items():
                await server.config_set(name, value)


async def test_a_server_may_come_later(tmp_path: Path) -> None:
    """The router starts without it; each call says that it is not there."""
    async with open_stores("redis://127.0.0.1:9/0", state_dir=tmp_path, clock=CLOCK) as stores:
        with pytest.raises(StoreDown):
            await stores.shared.next_number("route")


async def test_a_silent_server_ends_calls_in_time() -> None:
    """Those that wait for the next flight as well, and none waits longer for that."""
    silent = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        silent.set()

    async def look(_: object) -> None:
        pass

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Tasks() as tasks:
        line = RedisLine(connections(f"redis://127.0.0.1:{port}/0"), tasks=tasks, prepare=look, call_s=0.05)
        first = tasks.spawn(line.call("PING"), name="first")
        await asyncio.sleep(0)
        ended = await asyncio.wait_for(asyncio.gather(first, line.call("PING"), return_exceptions=True), timeout=60)
        assert [type(one) for one in ended] == [StoreDown, StoreDown]
        await line.close()
        with pytest.raises(StoreDown):
            await line.call("PING")
        await silent.wait()


async def test_a_damaged_job_does_not_keep_others(tmp_path: Path) -> None:
    """It is left out, and named when it is asked for."""
    async with open_stores("sqlite://", state_dir=tmp_path, clock=CLOCK) as stores:
        for name in ("j1", "j2"):
            await stores.jobs.add(job(name))
    database = sqlite3.connect(tmp_path / DATABASE)
    database.execute("UPDATE jobs SET head = x'00' WHERE job_id = 'j1'")
    database.commit()
    database.close()
    async with open_stores("sqlite://", state_dir=tmp_path, clock=CLOCK) as stores:
        now = datetime.now(UTC).timestamp()
        assert [one.job_id for one in await stores.jobs.lease("a", limit=2, until=now, now=now)] == ["j2"]
        with pytest.raises(StoreDown, match="j1"):
            await stores.jobs.get("j1")
        await ended(stores.jobs, now)


async def test_nor_does_it_in_a_store_that_is_shared(redis_server: RedisServer, tmp_path: Path) -> None:
    """The same on a server."""
    async with redis_world(redis_server.url, tmp_path).replicas(1) as (stores,):
        for name in ("j1", "j2"):
            await stores.jobs.add(job(name))
        async with Redis.from_url(redis_server.url) as server:
            await server.hset(f"{PREFIX}job:j1", "head", b"x")
        now = datetime.now(UTC).timestamp()
        assert [one.job_id for one in await stores.jobs.lease("a", limit=2, until=now, now=now)] == ["j2"]
        await ended(stores.jobs, now)


async def ended(jobs: JobStore, now: float) -> None:
    """The other one is leased; the damaged one is over, by the store's books too, and forgotten in time."""
    counts = await jobs.counts(tenant="acme")
    assert (counts[JobState.LEASED], counts[JobState.DEAD]) == (1, 1)
    assert list(await jobs.held("a")) == ["j2"]
    assert [one.job_id for one in await jobs.lease("b", limit=2, until=now + 1, now=now + 1)] == ["j2"]
    assert await jobs.expire(older_than=now + 1) == 1
    assert await jobs.get("j1") is None


async def test_a_fault_of_ours_costs_one_flight(redis_server: RedisServer) -> None:
    """Nobody waits for ever: those calls have StoreDown, the next ones are made."""
    faults = [RuntimeError("a fault")]

    async def look(_: object) -> None:
        if faults:
            raise faults.pop()

    async with Tasks() as tasks:
        line = RedisLine(connections(redis_server.url), tasks=tasks, prepare=look)
        with pytest.raises(StoreDown):
            await line.call("PING")
        assert await line.call("PING") == b"PONG"
        await line.close()


async def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """The job is not recorded, and says so; when there is room again it is."""
    vault = Vault(bytes(32))
    file = await asyncio.to_thread(SqliteFile.open, tmp_path / "a.db", vault, now=CLOCK.now())
    jobs = SqliteJobs(file, JobCodec(vault), clock=CLOCK)
    large = job(body=b"x" * 1_000_000)
    await file.run(lambda connection: connection.execute("PRAGMA max_page_count = 50").fetchall())
    with pytest.raises(StoreDown, match="full"):
        await jobs.add(large)
    assert await jobs.get("j1") is None
    await file.run(lambda connection: connection.execute("PRAGMA max_page_count = 5000").fetchall())
    assert await jobs.add(large) == large
    await file.close()


@asynccontextmanager
async def scripted(answer: Callable[[list[bytes]], bytes]) -> AsyncIterator[str]:
    """A server that answers each command as it is told; its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            parts = []
            for _ in range(int(head[1:])):
                size = int((await reader.readline())[1:])
                parts.append((await reader.readexactly(size + 2))[:-2])
            writer.write(answer(parts))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"


async def test_an_old_server_is_refused(tmp_path: Path) -> None:
    """Redis 6.2 is the oldest; the operator reads which version was found."""

    def answer(command: list[bytes]) -> bytes:
        return b"$20\r\nredis_version:6.0.16\r\n" if command[0] == b"INFO" else b"+OK\r\n"

    async with scripted(answer) as url:
        with pytest.raises(SettingsError, match=r"6\.0; 6\.2"):
            async with open_stores(url, state_dir=tmp_path, clock=CLOCK):
                raise AssertionError("it opened")


async def test_a_connection_without_news_is_tried() -> None:
    """It lives while the server answers; when it does not, who listens is told."""
    pings: list[bytes] = []

    def answer(command: list[bytes]) -> bytes:
        if command[0] == b"SUBSCRIBE":
            return b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"
        if command[0] != b"PING":
            return b"+OK\r\n"
        pings.append(command[0])
        pong = b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"
        news = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n"
        return {1: pong, 2: pong + news}.get(len(pings), b"")

    async def look(_: object) -> None:
        pass

    async with scripted(answer) as url, Tasks() as tasks:
        line = RedisLine(connections(url), tasks=tasks, prepare=look, idle_s=0.5)
        async with line.listen("c") as heard:
            assert await anext(heard) == b"hi"
            with pytest.raises(StoreDown, match="does not answer"):
                await anext(heard)
        await line.close()
    assert len(pings) == 3
