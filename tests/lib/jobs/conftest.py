"""Both job stores, for tests of the service over them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lib.jobs.sqlite_store import SqliteJobStore
from lib.jobs.store import MemoryJobStore
from tests.fakes.clock import FakeClock
from tests.fakes.jobs import RETENTION


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "sqlite"])
async def any_store(
    request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path
) -> AsyncIterator[MemoryJobStore | SqliteJobStore]:
    """An empty store."""
    if request.param == "memory":
        yield MemoryJobStore(clock=clock, retention=RETENTION)
        return
    async with SqliteJobStore(tmp_path, clock=clock, retention=RETENTION) as opened:
        yield opened
