"""What the probes say, by the dialect that is the primary one."""

import asyncio
from typing import Any, Literal

import pytest

from lib.app.condition import Condition
from lib.app.health import Health
from lib.jobs.speed import SpeedGauge
from lib.serving.probes import PUBLIC_KEYS, ProbeReply
from tests.fakes.clock import settle
from tests.fakes.engine import FakeEngine
from tests.fakes.jobs import JobWorld, build_jobs, spec

Primary = Literal["native", "wrapper", "runpod", "salad"]


async def health_of(world: JobWorld, *, primary: Primary, depth: int = 0) -> tuple[Health, Condition]:
    """In a thread: it reads the process's figures from files of the system."""
    condition = Condition(clock=world.clock)
    health = await asyncio.to_thread(
        Health,
        condition=condition,
        service=world.service,
        engines=(),
        servers=(),
        speed=SpeedGauge(),
        version="9.9.9",
        store="memory",
        primary=primary,
        max_queue_depth=depth,
    )
    return health, condition


async def whole(health: Health) -> ProbeReply:
    """In a thread, too: it reads the host's."""
    return await asyncio.to_thread(health.health)


def said(reply: ProbeReply) -> tuple[int, dict[str, Any]]:
    """Status, and what strangers hear."""
    body = {key: reply.body[key] for key in PUBLIC_KEYS if key in reply.body}
    return (200 if reply.ok else reply.bad_status), body


WELL, UNWELL = {"version": "9.9.9", "status": "healthy"}, {"version": "9.9.9", "status": "not healthy"}
READY, NOT_READY = {"version": "9.9.9", "status": "ready"}, {"version": "9.9.9", "status": "not ready"}


async def test_salads_health_is_a_latch_and_its_readiness_is_not() -> None:
    """500 until jobs were admitted once, then 200 whatever happens; ready only while they are admitted."""
    health, condition = await health_of(build_jobs([FakeEngine()]), primary="salad")
    condition.enter("warming up")
    assert (said(await whole(health)), said(health.ready())) == ((500, UNWELL), (503, NOT_READY))
    assert health.ready().body["reason"] == "warming up"
    condition.opened()
    assert (said(await whole(health)), said(health.ready())) == ((200, WELL), (200, READY))
    assert health.ready().body == READY
    condition.trouble("engines", "ComfyUI is down")
    assert (said(await whole(health)), said(health.ready())) == ((200, WELL), (503, NOT_READY))
    condition.cleared("engines")
    condition.drain()
    assert (said(await whole(health)), said(health.ready())) == ((200, WELL), (503, NOT_READY))


@pytest.mark.parametrize("primary", ["native", "wrapper", "runpod"])
async def test_others_keep_the_common_documents_with_the_version(primary: Primary) -> None:
    """Health is 200 from the start, but for the API wrapper's, which needs an engine."""
    health, condition = await health_of(build_jobs([FakeEngine()]), primary=primary)
    starting = {"version": "9.9.9", "status": "starting", "ready": False}
    assert said(await whole(health)) == (503 if primary == "wrapper" else 200, starting)
    assert said(health.ready()) == (503, starting) and health.ready().starting
    condition.opened()
    assert said(health.ready()) == (200, {"version": "9.9.9", "status": "healthy", "ready": True})
    assert not health.ready().starting


@pytest.mark.parametrize("primary", ["native", "salad"])
async def test_a_full_queue_is_not_ready(primary: Primary) -> None:
    """From MAX_QUEUE_DEPTH waiting or running jobs on, with the reason; 0 is no limit."""
    world = build_jobs([FakeEngine()])
    health, condition = await health_of(world, primary=primary, depth=2)
    unlimited, other = await health_of(world, primary=primary)
    condition.opened()
    other.opened()
    jobs = [await world.service.submit(spec(f"r{number}")) for number in range(2)]
    await settle()
    assert not health.ready().ok and "MAX_QUEUE_DEPTH=2" in health.ready().body["reason"]
    assert not health.ready().starting and unlimited.ready().ok and (await whole(health)).ok
    await world.service.cancel(jobs[1].job_id, reason="enough")
    await settle()
    assert health.ready().ok
    await world.service.cancel(jobs[0].job_id, reason="enough")
