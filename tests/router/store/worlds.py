"""Each kind of store, opened as often as a test wants, all upon the same state: replicas, or the one router."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fakeredis import FakeServer
from fakeredis.aioredis import FakeAsyncRedisConnection
from redis.asyncio import Redis

from lib.clock import Clock
from lib.storage.vault import Vault
from router.store import Stores, open_stores
from router.store.redis_opening import open_redis
from tests.fakes.clock import FakeClock


@dataclass(frozen=True, slots=True)
class World:
    """``replicas(2)`` opens two routers' stores; SQLite's have but one, which both use."""

    kind: str
    clock: FakeClock
    replicas: Callable[[int], AbstractAsyncContextManager[list[Stores]]]


def sqlite_world(folder: Path) -> World:
    clock = FakeClock()

    @asynccontextmanager
    async def replicas(count: int) -> AsyncIterator[list[Stores]]:
        async with open_stores("sqlite://", state_dir=folder, clock=clock) as stores:
            yield [stores] * count

    return World("sqlite", clock, replicas)


def fake_redis_world() -> World:
    clock, server = FakeClock(), FakeServer(version=(6, 2))

    def opened() -> AbstractAsyncContextManager[Stores]:
        return open_redis(
            lambda: FakeAsyncRedisConnection(server=server, protocol=2), vault=Vault(bytes(32)), clock=clock
        )

    return World("fakeredis", clock, lambda count: _both(opened, count))


def redis_world(url: str, folder: Path) -> World:
    clock = FakeClock()
    return World("redis", clock, lambda count: _both(lambda: shared(url, folder, clock), count, flushed=url))


def shared(url: str, folder: Path, clock: Clock) -> AbstractAsyncContextManager[Stores]:
    return open_stores(url, state_dir=folder, clock=clock, state_key="ab" * 32)


@asynccontextmanager
async def _both(
    opened: Callable[[], AbstractAsyncContextManager[Stores]], count: int, flushed: str = ""
) -> AsyncIterator[list[Stores]]:
    if flushed:
        async with Redis.from_url(flushed) as server:
            await server.flushall()
    if count == 1:
        async with opened() as one:
            yield [one]
    else:
        async with opened() as one, opened() as other:
            yield [one, other]
