"""Salad's words for health and readiness."""

import asyncio

import pytest

from lib.dialects.salad.probes import depth, health, is_full, ready

from .conftest import HOOK, REQUEST, World


@pytest.mark.parametrize(("was_ready", "status"), [(True, "healthy"), (False, "not healthy")])
def test_health_is_a_latch(was_ready: bool, status: str) -> None:
    """500 before the first warm-up, 200 for good after it; always with the version."""
    reply = health(version="1.2", was_ready=was_ready)
    assert (reply.ok, reply.bad_status, reply.body) == (was_ready, 500, {"version": "1.2", "status": status})


@pytest.mark.parametrize(
    ("admits", "full", "ok"), [(True, False, True), (True, True, False), (False, False, False), (False, True, False)]
)
def test_ready(admits: bool, full: bool, ok: bool) -> None:
    """503 while jobs are not taken, and while the queue is full."""
    reply = ready(version="1.2", admits=admits, full=full)
    assert (reply.ok, reply.bad_status) == (ok, 503)
    assert reply.body == {"version": "1.2", "status": "ready" if ok else "not ready"}


async def test_depth_counts_what_waits_and_what_runs(slow: World) -> None:
    """Of all jobs; 0 is no limit."""
    assert (depth(slow.service), is_full(slow.service, 1)) == (0, False)
    slow.preparer.held["late"] = asyncio.Event()
    for name in ("one", "two", "late"):
        await slow.post("/prompt", {**REQUEST, "id": name, "webhook": HOOK}, status=202)
    await slow.running()
    assert depth(slow.service) == 3
    assert (is_full(slow.service, 3), is_full(slow.service, 4), is_full(slow.service, 0)) == (True, False, False)
    slow.preparer.held["late"].set()
    for _ in range(3):
        await slow.running()
        slow.engine.finish()
        await asyncio.sleep(0)
    await slow.idle()
