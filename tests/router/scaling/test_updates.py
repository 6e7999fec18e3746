"""Rolling updates: one worker after the other, each when it has nothing to do, none forgotten and none twice."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from router.model import Condition
from router.scaling.plan import Member
from router.scaling.ports import InstanceState
from router.scaling.updates import PATIENCE_S, Rollout, note_update
from tests.fakes.clock import FakeClock
from tests.fakes.provider import FakeProvider
from tests.fakes.shared_state import FakeStore
from tests.router.scaling.world import World, make_world

Make = Callable[..., Awaitable[World]]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:
        count = 0

        async def build(**options: Any) -> World:
            nonlocal count
            count += 1
            return await make_world(stack, tmp_path / str(count), **{"min_load": 200.0, "target_util": 1.0, **options})

        yield build


async def begun(world: World) -> None:
    """Two workers that were started here serve."""
    await world.tick(2)
    assert world.provider.asked == ["start 2"]
    await world.serve(100, 101, seconds=30)


async def update(world: World, *, at: float = 1.0, ids: tuple[int, ...] = (100, 101)) -> None:
    assert await note_update(world.replica.core.link, "ep", "g", at=at, ids=ids)


def restarts(world: World) -> list[str]:
    return [one for one in world.provider.asked if one.startswith("restart")]


async def test_one_after_the_other_is_restarted(make: Make) -> None:
    """The next one when the one before is ready again; meanwhile nothing else is started, and it is no failure."""
    world = await make(options={"scaling_unhealthy_s": 30.0})
    await begun(world)
    await update(world)
    await world.serve(100, 101, seconds=30)
    assert restarts(world) == ["restart 100"]
    await world.serve(101, seconds=200)  # it is silent for longer than an ill one may be
    assert restarts(world) == ["restart 100"]
    assert world.scaler.snapshot()["updates"] == [{"endpoint": "ep", "group": "g", "at": 1.0, "waiting": [100, 101]}]
    await world.serve(100, 101, seconds=30)
    assert restarts(world) == ["restart 100", "restart 101"]
    await world.serve(100, seconds=60)
    await world.serve(100, 101, seconds=60)
    assert world.scaler.snapshot()["updates"] == []
    assert world.provider.asked == ["start 2", "restart 100", "restart 101"]


async def test_one_with_work_finishes_it_first(make: Make) -> None:
    """It gets no more meanwhile."""
    world = await make()
    await begun(world)
    await update(world, ids=(100,))
    for _ in range(10):
        await world.ready(100, num_requests_working=1, cur_load=100.0)
        await world.ready(101)
        await world.tick()
    assert restarts(world) == []
    assert world.figures["resting"] == ["ep/100"]
    await world.ready(100, num_requests_working=0, cur_load=0.0)
    await world.serve(100, 101, seconds=30)
    assert restarts(world) == ["restart 100"]


async def test_one_that_does_not_come_back_is_replaced_and_the_others_go_on(make: Make) -> None:
    """It has as long as one that was started."""
    world = await make(options={"scaling_start_timeout_s": 100.0, "scaling_unhealthy_s": 30.0})
    await begun(world)
    await update(world)
    await world.serve(100, 101, seconds=30)
    await world.serve(101, seconds=200)
    assert "remove 100" in world.provider.asked
    assert restarts(world) == ["restart 100", "restart 101"]


async def test_who_acts_next_goes_on_with_what_is_left(make: Make) -> None:
    """Nobody is restarted twice because a router was."""
    store, clock, machines = FakeStore(), FakeClock(), FakeProvider()
    one = await make(store=store, clock=clock, groups={"g": machines}, name="one")
    other = await make(store=store, clock=clock, groups={"g": machines}, name="other")
    await begun(one)
    await update(one)
    await one.serve(100, 101, seconds=30)
    assert restarts(one) == ["restart 100"]
    await one.scaler.resign()
    await other.serve(100, 101, seconds=60)
    assert other.scaler.leads
    assert restarts(other) == ["restart 100", "restart 101"]


async def test_what_has_not_begun_can_be_called_off(make: Make) -> None:
    """A newer note replaces it."""
    world = await make()
    await begun(world)
    await update(world)
    await world.serve(100, 101, seconds=30)
    await update(world, at=2.0, ids=())
    await world.serve(101, seconds=30)
    await world.serve(100, 101, seconds=60)
    assert restarts(world) == ["restart 100"]
    assert world.scaler.snapshot()["updates"] == []


def member(number: int, **changes: Any) -> Member:
    usual = {"id": number, "key": f"ep/{number}", "group": "g", "perf": 100.0, "rested": True}
    return Member(**{**usual, "state": InstanceState.RUNNING, "condition": Condition.READY, **changes})


def test_stopped_ones_are_passed_over() -> None:
    """They are new when they are resumed; and so are those that are gone."""
    rollout = Rollout("ep", "g", at=1.0, waiting=[1, 2, 3])
    assert rollout.step([member(1, state=InstanceState.STOPPED, condition=None), member(3)], now=0.0) == 3


def test_one_that_nobody_saw_go_is_not_waited_for_for_ever() -> None:
    """It restarted between two looks."""
    rollout = Rollout("ep", "g", at=1.0, waiting=[1, 2])
    assert rollout.step([member(1), member(2)], now=10.0) == 1
    rollout.began(10.0)
    assert rollout.step([member(1), member(2)], now=10.0 + PATIENCE_S - 1) is None
    assert rollout.step([member(1), member(2)], now=10.0 + PATIENCE_S) == 2
