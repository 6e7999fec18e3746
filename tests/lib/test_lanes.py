"""Threads for short blocking calls."""

import asyncio
import gc
import threading
import weakref

import pytest

from lib.lanes import Lane


async def test_calls_are_made_in_a_thread() -> None:
    """What they return and raise comes back."""
    lane = Lane(1, name="lane")
    assert await lane.run(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await lane.run(lambda: 1 // 0)
    await asyncio.to_thread(lane.close)


async def test_one_thread_keeps_their_order() -> None:
    """A writer's operations build upon each other; closing waits for them."""
    lane, made = Lane(1, name="lane"), list[int]()
    calls = [lane.run(lambda number=number: made.append(number)) for number in range(100)]  # type: ignore[misc]
    await asyncio.to_thread(lane.close)
    assert made == list(range(100))
    await asyncio.gather(*calls)
    with pytest.raises(RuntimeError):
        lane.run(threading.get_ident)


async def test_several_threads_work_at_the_same_time() -> None:
    """A slow file holds up nobody else."""
    lane, together = Lane(2, name="lane"), threading.Barrier(2, timeout=60)
    await asyncio.gather(lane.run(together.wait), lane.run(together.wait))
    await asyncio.to_thread(lane.close)


async def test_a_call_that_nobody_waits_for_any_more_is_made_all_the_same() -> None:
    """And its end disturbs nobody."""
    lane, begun, go = Lane(1, name="lane"), threading.Event(), threading.Event()
    given_up = lane.run(lambda: (begun.set(), go.wait(10)))
    await asyncio.to_thread(begun.wait, 10)
    given_up.cancel()
    go.set()
    assert await lane.run(lambda: "next") == "next"
    await asyncio.to_thread(lane.close)


async def test_threads_end_with_their_lane() -> None:
    """Who forgets to close leaves nothing behind."""
    lane = Lane(1, name="lane")
    thread = await lane.run(threading.current_thread)
    del lane
    gc.collect()
    await asyncio.to_thread(thread.join, 60)
    assert not thread.is_alive()


async def test_what_a_call_returned_is_not_kept() -> None:
    """A thread that waits for work holds no job's files."""

    class File:
        pass

    lane = Lane(1, name="lane")
    file = weakref.ref(await lane.run(File))
    assert await lane.run(lambda: None) is None
    gc.collect()
    assert file() is None
    await asyncio.to_thread(lane.close)
