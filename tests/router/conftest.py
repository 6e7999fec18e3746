"""Routers to test, on a clock that is turned by hand."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.fakes.router_world import Replica, make_replica

Make = Callable[..., Awaitable[Replica]]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Make replicas; their loops must have gone well."""
    async with AsyncExitStack() as stack:
        made: list[Replica] = []

        async def build(**options: Any) -> Replica:
            replica = await make_replica(stack, **options)
            made.append(replica)
            return replica

        yield build
        assert [replica.tasks.failure for replica in made] == [None] * len(made)


@pytest.fixture
async def router(make: Make) -> Replica:
    """One router alone."""
    return await make()
