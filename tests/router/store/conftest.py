"""The stores that the contract is checked for."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from router.store import Stores
from tests.router.store.redis_server import REDIS_SERVER, RedisServer
from tests.router.store.worlds import World, fake_redis_world, redis_world, sqlite_world


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One for all tests, which no slow disk holds up; who uses it begins by emptying it."""
    if REDIS_SERVER is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    server = RedisServer(tmp_path_factory.mktemp("redis"), fsync="no")
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "fakeredis", "redis"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """Each kind of store in turn."""
    if request.param == "sqlite":
        return sqlite_world(tmp_path)
    if request.param == "fakeredis":
        return fake_redis_world()
    return redis_world(request.getfixturevalue("redis_server").url, tmp_path)


@pytest.fixture
async def pair(world: World) -> AsyncIterator[tuple[Stores, Stores]]:
    """The stores of two replicas, empty at first."""
    async with world.replicas(2) as (one, other):
        yield one, other
