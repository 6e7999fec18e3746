"""The loop: workers come when they are wanted and go when they are not, and nothing is lost on the way."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from router.model import Condition
from router.ports import JobState
from tests.fakes.clock import FakeClock, settle
from tests.fakes.provider import FakeProvider
from tests.fakes.shared_state import FakeStore
from tests.router.scaling.world import World, make_world
from tests.router.store.values import job

Make = Callable[..., Awaitable[World]]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:
        made: list[World] = []

        async def build(**options: Any) -> World:
            made.append(await make_world(stack, tmp_path / str(len(made)), **options))
            return made[-1]

        yield build
        assert [world.replica.tasks.failure for world in made] == [None] * len(made)


async def test_from_nothing_to_work_to_nothing(make: Make) -> None:
    """A request waits, a worker is started and does it, and is ended when it was not needed for long enough."""
    world = await make()
    await world.tick(2)
    assert world.provider.asked == []
    waiting = world.replica.waiting("r1", wait_s=60)
    await world.tick(2)
    assert world.provider.asked == ["start 1"]
    await world.tick(3)
    assert world.provider.asked == ["start 1"]
    await world.ready(100)
    assert waiting.worker == "ep/100"
    for _ in range(40):
        await world.ready(100, num_requests_working=1, cur_load=100.0)
        await world.tick()
    assert world.provider.asked == ["start 1"]
    await world.replica.done("r1", run_s=1.0)
    await world.ready(100, num_requests_working=0, cur_load=0.0)
    await world.serve(100, seconds=100)
    assert world.provider.asked == ["start 1"]
    await world.serve(100, seconds=400)
    assert world.provider.asked == ["start 1", "remove 100"]
    assert world.replica.dispatcher.worker("ep/100") is not None  # it has just been told so by this test
    assert world.figures["desired_workers"] == 0


async def test_who_has_work_is_not_ended(make: Make) -> None:
    """Neither by our count nor by its own."""
    world = await make(min_load=100, target_util=1.0)
    await world.tick(3)
    await world.ready(100)
    assert await world.replica.give("r1") == "ep/100"
    world.replica.dispatcher.endpoints.change(
        world.replica.dispatcher.endpoints.find("ep"), {"min_load": 0, "max_workers": 0}
    )
    for _ in range(40):
        world.replica.dispatcher.keep("r1")
        await world.serve(100, seconds=5)
    assert world.figures["resting"] == ["ep/100"]
    assert "remove 100" not in world.provider.asked
    await world.replica.done("r1")
    await world.ready(100, num_requests_working=1, cur_load=100.0)
    await world.tick(4)
    assert "remove 100" not in world.provider.asked
    await world.ready(100, num_requests_working=0, cur_load=0.0)
    await world.tick(2)
    assert world.provider.asked[-1] == "remove 100"


async def test_a_worker_that_is_wanted_again_serves_on(make: Make) -> None:
    """It rested, and then there was work."""
    world = await make(min_load=200, target_util=1.0, options={"scaling_down_delay_s": 0.0})
    await world.tick(3)
    endpoints = world.replica.dispatcher.endpoints
    await world.serve(100, 101, seconds=60)
    endpoints.change(endpoints.find("ep"), {"min_load": 100})
    for _ in range(12):
        await world.ready(100, 101, num_requests_working=1, cur_load=10.0)
        await world.tick()
    assert len(world.figures["resting"]) == 1
    endpoints.change(endpoints.find("ep"), {"min_load": 200})
    await world.tick()
    assert world.figures["resting"] == []
    assert world.provider.asked == ["start 2"]
    assert world.replica.dispatcher.figures("ep").capacity == 200


async def test_cold_workers_are_stopped_and_come_back(make: Make) -> None:
    """Where the provider keeps them; the registry knows that they are stopped on purpose."""
    world = await make(groups={"g": FakeProvider(keeps_stopped=True)}, cold_workers=1)
    await world.tick(3)
    assert world.provider.asked == ["start 1"]
    await world.ready(100)
    while "stop 100" not in world.provider.asked:
        await world.serve(100, seconds=5)
    await world.tick(12)
    waiting = world.replica.waiting("r1", wait_s=60)
    await world.tick(3)
    assert world.provider.asked == ["start 1", "stop 100", "resume 100"]
    await world.ready(100)
    assert waiting.worker == "ep/100"


async def test_a_provider_that_fails_is_left_alone_for_a_while(make: Make) -> None:
    """Longer each time; another group helps out meanwhile; why is told."""
    broken, sound = FakeProvider(failing="no money"), FakeProvider(first=500)
    world = await make(groups={"broken": broken, "sound": sound}, prices={"broken": 0.1, "sound": 0.9})
    world.replica.waiting("r1", wait_s=600)
    await world.tick(4)
    assert sound.asked == ["start 1"]
    assert world.figures["groups"]["broken"]["trouble"] == "no money"
    assert world.scaler.health()["troubles"] == {"ep/broken": "no money"}
    failures = world.figures["groups"]["broken"]["failures"]
    await world.tick(20)
    more = world.figures["groups"]["broken"]["failures"]
    assert failures < more <= failures + 5


async def test_no_more_are_asked_for_than_there_are_places(make: Make) -> None:
    """However many are wanted; that is no failure of the provider's, so that it can be told to end them any time."""
    world = await make(groups={"g": FakeProvider(places=2, most=2)}, min_load=1000.0)
    await world.tick(3)
    await world.serve(100, 101, seconds=30)
    assert world.figures["desired_workers"] == 12
    assert world.provider.asked == ["start 2"]
    assert world.scaler.health()["troubles"] == {}


async def test_one_that_never_becomes_ready_is_replaced(make: Make) -> None:
    """After its time, and not at once again and again."""
    world = await make(min_load=100, target_util=1.0, options={"scaling_start_timeout_s": 60.0})
    await world.tick(30)
    assert world.provider.asked[:3] == ["start 1", "remove 100", "start 1"]
    assert world.provider.asked.count("start 1") == 3


async def test_one_that_fails_for_long_is_replaced(make: Make) -> None:
    """A moment of trouble is none."""
    world = await make(min_load=100, target_util=1.0, options={"scaling_unhealthy_s": 60.0})
    await world.tick(3)
    await world.ready(100)
    await world.serve(100, seconds=20)
    for _ in range(5):
        await world.ready(100, error_msg="CUDA error")
        await world.tick()
    assert "remove 100" not in world.provider.asked
    for _ in range(10):
        await world.ready(100, error_msg="CUDA error")
        await world.tick()
    assert "remove 100" in world.provider.asked


async def test_a_machine_that_is_gone_is_forgotten(make: Make) -> None:
    """Nothing waits for its reports; another one is started."""
    world = await make(min_load=100, target_util=1.0)
    await world.tick(3)
    await world.ready(100)
    world.provider.machines.clear()
    await world.tick(2)
    assert world.replica.dispatcher.worker("ep/100") is None
    assert world.provider.asked == ["start 1", "start 1"]


async def test_started_workers_are_of_their_group(make: Make) -> None:
    """Whatever group an unknown worker would be put into."""
    world = await make(groups={"first": FakeProvider(most=0), "second": FakeProvider(first=500)}, min_load=100)
    await world.tick(10)
    await world.ready(500)
    worker = world.replica.dispatcher.worker("ep/500")
    assert worker is not None and worker.record.group == "second"


async def test_without_a_provider_there_are_figures(make: Make) -> None:
    """For KEDA, and for people; workers of others count."""
    world = await make(groups={}, min_load=250, target_util=1.0)
    await world.ready(1)
    await world.tick()
    assert (world.figures["desired_workers"], world.figures["ready_workers"]) == (3, 1)
    text = world.replica.core.metrics.render()[0].decode()
    assert 'pyrouter_desired_workers{endpoint="ep"} 3.0' in text
    assert 'pyrouter_desired_capacity{endpoint="ep"} 250.0' in text


async def test_jobs_in_the_store_count(make: Make) -> None:
    """Those that no router has begun with; by their endpoint."""
    world = await make()
    jobs = world.scaler._ground.jobs
    for number in range(3):
        await jobs.add(job(f"j{number}", endpoint="ep", size=100.0))
    await jobs.add(job("other", endpoint="elsewhere"))
    assert (await jobs.counts())[JobState.WAITING] == 4
    await world.tick()
    assert (world.figures["waiting_requests"], world.figures["waiting_work"]) == (3, 300.0)
    await world.tick(2)
    assert world.provider.asked[:1] != []


async def test_of_several_routers_one_acts(make: Make) -> None:
    """It counts what waits at the others; they keep free whom it keeps free; one takes over when it resigns."""
    store, clock = FakeStore(), FakeClock()
    machines = FakeProvider()
    one = await make(store=store, clock=clock, groups={"g": machines}, name="one")
    other = await make(store=store, clock=clock, groups={"g": machines}, name="other")
    await one.tick()
    await other.tick()
    assert (one.scaler.leads, other.scaler.leads) == (True, False)
    other.replica.waiting("r1", wait_s=600)
    await other.tick()
    await one.tick(2)
    assert machines.asked == ["start 1"]
    await one.ready(100)
    await other.tick()
    await other.ready(100)
    await settle()
    for _ in range(100):
        await one.tick()
        await other.tick(apart_s=0.0)
        if one.figures["resting"]:
            break
        await one.ready(100)
        await one.replica.done("r1")
        await other.replica.done("r1")
    await one.scaler.tick()
    await other.tick(apart_s=0.0)
    assert other.replica.dispatcher.figures("ep").capacity == 0
    await one.scaler.resign()
    await other.tick()
    assert other.scaler.leads and machines.closed


async def test_a_router_that_stops_starts_nobody(make: Make) -> None:
    """Its workers take their time to finish; what is missing meanwhile is the next router's to start."""
    world = await make(min_load=100.0)
    await world.scaler.resign()
    for _ in range(5):
        await world.replica.clock.advance(10.0)
        await world.scaler.tick_if_due()
        await settle()
    assert (world.provider.asked, world.scaler.leads, world.provider.closed) == ([], False, True)


async def test_with_the_store_down_nobody_acts(make: Make) -> None:
    """Two could; the figures are shown on."""
    store = FakeStore()
    world = await make(store=store, min_load=100)
    await world.tick()
    store.fail()
    world.provider.asked.clear()
    await world.tick(3)
    assert (world.provider.asked, world.scaler.leads) == ([], False)
    assert world.figures["desired_workers"] == 2


async def test_a_resting_worker_is_not_ended_before_it_reported(make: Make) -> None:
    """What it said before it rested says nothing of what came since."""
    world = await make(min_load=100, target_util=1.0, options={"scaling_down_delay_s": 0.0})
    await world.tick(3)
    await world.ready(100)
    await world.tick()
    endpoints = world.replica.dispatcher.endpoints
    endpoints.change(endpoints.find("ep"), {"min_load": 0})
    for _ in range(4):
        await world.tick(2)
    assert world.figures["resting"] in (["ep/100"], [])
    assert "remove 100" not in world.provider.asked
    worker = world.replica.dispatcher.worker("ep/100")
    assert worker is not None and worker.condition in (Condition.READY, Condition.STALE)
