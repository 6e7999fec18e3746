"""Vast workers to test."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.vast_worker import World, make_world

Build = Callable[..., Any]


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Build]:
    """Make worlds; each is taken down at the end, with nothing left in it."""
    async with AsyncExitStack() as stack:
        worlds: list[World] = []

        async def make(**options: Any) -> World:
            world = await make_world(stack, tmp_path, **options)
            worlds.append(world)
            return world

        yield make
        for world in worlds:
            await world.tasks.cancel()
            assert world.service.in_flight_count == 0
            assert world.ledger.open_cost == sum(item.cost for item in world.ledger._sessions.values())


@pytest.fixture
async def world(build: Build) -> World:
    made: World = await build()
    return made
