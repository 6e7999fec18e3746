"""``/stream``: every piece once, the newest progress, the end as a whole; a request is held while there is nothing."""

import asyncio
from typing import Any

from lib.dialects.runpod.streams import Streams
from lib.errors import ExecutionFailed
from lib.jobs.model import JobStatus, OnDisconnect, Progress
from tests.fakes.clock import FakeClock, settle
from tests.fakes.jobs import build_jobs, spec

from .conftest import REQUEST, V2, World, gone, open_world


async def started(world: World) -> str:
    """A job that runs."""
    job = await world.post("/run", REQUEST)
    await world.running()
    return str(job["id"])


async def look(world: World, job_id: str, *, wait: str = "") -> tuple[str, list[Any]]:
    """One look: the status and the pieces."""
    body = await world.get(f"{V2}/stream/{job_id}{wait}")
    assert body["id"] == job_id
    return body["status"], [piece["output"] for piece in body["stream"]]


async def test_nothing_happens() -> None:
    """The request is held, then answered with an empty list."""
    async with open_world(automatic=False, stream_wait_s=0.02) as world:
        job_id = await started(world)
        assert await look(world, job_id) == ("IN_PROGRESS", [])
        world.engine.finish()
        await world.idle()


async def test_progress_is_told_once_and_the_newest_of_it(slow: World) -> None:
    """What came in between is old news."""
    job_id = await started(slow)
    slow.engine.tell(percent=10.0, node_id="3", value=1.0, maximum=10.0)
    slow.engine.tell(percent=20.0, node_id="3", value=2.0, maximum=10.0)
    news = {"type": "progress", "value": 2, "max": 10, "percent": 20, "node": "3"}
    assert await look(slow, job_id) == ("IN_PROGRESS", [news])
    assert await look(slow, job_id) == ("IN_PROGRESS", [])
    slow.engine.finish()
    await slow.idle()


async def test_a_held_request_is_answered_when_there_is_something(slow: World) -> None:
    """At once, however long it would have waited."""
    job_id = await started(slow)
    held = asyncio.ensure_future(look(slow, job_id, wait="?wait=300000"))
    await settle(100)
    slow.engine.tell(percent=10.0, node_id="3")
    status, pieces = await asyncio.wait_for(held, 60)
    assert (status, pieces[0]["percent"]) == ("IN_PROGRESS", 10)
    held = asyncio.ensure_future(look(slow, job_id, wait="?wait=300000"))
    await settle(100)
    slow.engine.finish()
    status, pieces = await asyncio.wait_for(held, 60)
    assert (status, list(pieces[0])) == ("COMPLETED", ["images"])


async def test_the_end_comes_once_and_whole(world: World) -> None:
    """Also for who looks only afterwards; then the list is empty, which is how clients know that it is over."""
    done = await world.post("/runsync", REQUEST)
    assert await look(world, done["id"]) == ("COMPLETED", [done["output"]])
    assert await look(world, done["id"]) == ("COMPLETED", [])
    assert await look(world, done["id"]) == ("COMPLETED", [])


async def test_a_failed_job_has_no_piece_but_a_reason(slow: World) -> None:
    """RunPod's stream of it is empty too."""
    slow.engine.left_files = False
    job_id = await started(slow)
    slow.engine.finish(ExecutionFailed("no"))
    await slow.idle()
    for _ in range(2):
        body = await slow.get(f"{V2}/stream/{job_id}")
        assert body == {"id": job_id, "status": "FAILED", "stream": [], "error": "Job processing failed: no"}


async def test_the_stream_of_a_cancelled_job_ends_with_an_error(slow: World) -> None:
    """RunPod's Python client asks on for ever otherwise: it does not know CANCELLED for an end."""
    job_id = await started(slow)
    await slow.post(f"{V2}/cancel/{job_id}")
    assert await look(slow, job_id) == ("CANCELLED", [])
    status, body = await slow.call("GET", f"{V2}/stream/{job_id}")
    assert (status, body["status"], body["stream"]) == (404, "FAILED", [])
    await slow.idle()


async def test_another_run_is_another_stream(slow: World) -> None:
    """What was told of the first one does not count."""
    slow.engine.left_files = False
    job_id = await started(slow)
    slow.engine.finish(ExecutionFailed("no"))
    await slow.idle()
    await slow.get(f"{V2}/stream/{job_id}")
    await slow.post(f"{V2}/retry/{job_id}")
    await slow.running()
    slow.engine.finish()
    await slow.idle()
    status, pieces = await look(slow, job_id)
    assert (status, len(pieces)) == ("COMPLETED", 1)


async def test_progress_is_not_told_too_often() -> None:
    """The next piece comes an interval after the last one."""
    async with open_world(automatic=False, stream_interval_s=30.0, stream_wait_s=0.05) as world:
        job_id = await started(world)
        world.engine.tell(percent=10.0, node_id="3")
        assert len((await look(world, job_id))[1]) == 1
        world.engine.tell(percent=20.0, node_id="3")
        assert await look(world, job_id) == ("IN_PROGRESS", [])
        await world.clock.advance(30)
        assert (await look(world, job_id))[1][0]["percent"] == 20
        world.engine.tell(percent=30.0, node_id="3")
        held = asyncio.ensure_future(look(world, job_id, wait="?wait=300000"))
        await settle(100)
        world.engine.finish()  # the end waits for no interval
        assert (await asyncio.wait_for(held, 60))[0] == "COMPLETED"


async def test_who_hangs_up_takes_nothing_with_him(slow: World) -> None:
    """Leaving a stream means nothing to the job, nor to the next reader."""
    job_id = await started(slow)
    held = asyncio.ensure_future(look(slow, job_id, wait="?wait=300000"))
    await settle(100)
    await gone(held)
    while slow.service.watcher_count:
        await settle()
    slow.engine.finish()
    await slow.idle()
    assert len((await look(slow, job_id))[1]) == 1


async def test_an_end_that_could_not_be_told_is_told_to_the_next() -> None:
    """Whatever happened to the first reader."""
    world, clock = build_jobs(), FakeClock()
    job = await world.service.submit(spec(on_disconnect=OnDisconnect.KEEP))
    streams = Streams(jobs=world.service, clock=clock, interval_s=0)
    try:
        with streams.ending(job) as first:
            assert first
            raise RuntimeError
    except RuntimeError:
        pass
    with streams.ending(job) as first:
        assert first
    with streams.ending(job) as first:
        assert not first
    await world.service.cancel(job.job_id, reason="")


async def test_what_was_told_is_bounded() -> None:
    """The oldest falls out, and its end is told once more."""
    world = build_jobs()
    streams = Streams(jobs=world.service, clock=FakeClock(), interval_s=0, most_jobs=2)
    jobs = [await world.service.submit(spec(name, on_disconnect=OnDisconnect.KEEP)) for name in "abc"]
    for job in jobs:
        with streams.ending(job) as first:
            assert first
    with streams.ending(jobs[2]) as first:
        assert not first
    with streams.ending(jobs[0]) as first:
        assert first
    for job in jobs:
        await world.service.cancel(job.job_id, reason="")


async def test_a_job_that_is_not_taken_up_yet_is_waited_for() -> None:
    """After a restart nothing happens to it for a while: that is no reason to answer at once, again and again."""
    world = build_jobs()
    job = await world.service.submit(spec(on_disconnect=OnDisconnect.KEEP))
    stored = job.with_(job_id="00000000-0000-4000-8000-000000000000", status=JobStatus.RUNNING, progress=Progress())
    await world.store.add(stored)
    clock = FakeClock()
    streams = Streams(jobs=world.service, clock=clock, interval_s=0)
    held = asyncio.ensure_future(streams.news(stored, 10.0))
    await settle(50)
    assert not held.done()
    await clock.advance(10.0)
    assert (await held).job_id == stored.job_id
    await world.service.cancel(job.job_id, reason="")
