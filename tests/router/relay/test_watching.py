"""Calls are ended when their worker is lost, not for less; their requests count as long as they go on."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from router.refusals import Refusal
from router.relay.watching import KEEP_S, Watch
from tests.fakes.clock import settle
from tests.fakes.router_world import Replica


async def watched(router: Replica, stack: AsyncExitStack, *, request_id: str = "5") -> tuple[Watch, asyncio.Timeout]:
    """A call of worker 1 that goes on."""
    watch = Watch(router.dispatcher)
    stack.callback(router.dispatcher.changes.listen(watch.hear))
    limit = asyncio.timeout(None)
    worker = router.dispatcher.worker("ep/1")
    assert worker is not None
    stack.enter_context(watch.over(worker, request_id=request_id, limit=limit))
    return watch, limit


async def lost(router: Replica, how: str) -> None:
    if how == "silent":
        await router.clock.advance(26)
    elif how == "gone":
        await router.dispatcher.drop("ep/1")
    elif how == "stopped":
        router.dispatcher.stopped("ep/1")
    elif how == "moved":
        await router.report(1, url="http://10.0.0.99:3000")
    else:
        await router.report(1, error_msg="CUDA error")


@pytest.mark.parametrize("how", ["silent", "gone", "stopped", "moved", "broken"])
async def test_a_lost_worker_ends_its_calls(router: Replica, how: str) -> None:
    """At once, and for a reason that can be told."""
    await router.report(1)
    await router.report(2)
    with pytest.raises(TimeoutError):
        async with AsyncExitStack() as stack:
            watch, limit = await watched(router, stack)
            async with limit:
                await lost(router, how)
                await asyncio.Event().wait()
    assert limit.expired() and len(watch) == 0


@pytest.mark.parametrize("how", ["report", "drain", "doubt", "another"])
async def test_nothing_less_ends_a_call(router: Replica, how: str) -> None:
    """A drain lets it finish; a doubt may be the network's; other workers are others."""
    await router.report(1)
    await router.report(2)
    router.unreachable.add("http://10.0.0.1:3000")
    async with AsyncExitStack() as stack:
        _, limit = await watched(router, stack)
        async with limit:
            if how == "drain":
                await router.report(1, draining=True)
            elif how == "doubt":
                await router.dispatcher.refused("9", "ep/1", Refusal.UNKNOWN)
            elif how == "another":
                await router.dispatcher.drop("ep/2")
            else:
                await router.report(1, cur_load=50.0)
            await settle()
        assert not limit.expired()


async def test_requests_count_while_their_calls_go_on(router: Replica) -> None:
    """For as long as they do, though the worker tells nothing of them: an old one, or a body that is not there yet."""
    await router.report(1)
    assert await router.give("5") == "ep/1"
    async with AsyncExitStack() as stack:
        watch, _ = await watched(router, stack)
        for _ in range(10):
            await watch.keep()
            await router.clock.advance(KEEP_S)
            await router.report(1)
        assert router.dispatcher.assignment("5") is not None
    for _ in range(5):
        await router.clock.advance(KEEP_S)
        await router.report(1)
    assert router.dispatcher.assignment("5") is None
