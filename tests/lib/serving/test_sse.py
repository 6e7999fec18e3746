"""Event streams over real connections: frames, heartbeats, slow readers, readers that left, a worker that goes."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import orjson
import pytest
from aiohttp import web

from lib.lifecycle import Tasks
from lib.serving.sse import BUFFER_BYTES, STALLED_BEATS, EventStreams, encode
from tests.fakes.clock import FakeClock, settle

from .conftest import Serve, Served, site_with

FAREWELL = encode({"status": "error", "message": "come again"})


@dataclass(kw_only=True)
class World:
    """A route whose stream sends what the test puts into ``events``; ``None`` ends it."""

    served: Served
    streams: EventStreams
    clock: FakeClock
    events: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    sent_count: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The handler."""
        try:
            async with self.streams.open(request, farewell=FAREWELL) as stream:
                while (event := await self.events.get()) is not None:
                    await stream.send(event)
                    self.sent_count += 1
            return stream.response
        finally:
            self.ended.set()

    async def idle(self) -> None:
        """Wait until the handler has sent everything and the clock is asked to wake the heartbeat."""
        while not self.events.empty() or not self.streams.open_count:
            await settle()
        await settle(50)


@pytest.fixture(params=[0.0])
async def world(serve: Serve, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Streams with a heartbeat of ten seconds; ``indirect`` parameter: the shortest interval."""
    async with Tasks() as tasks:
        clock = FakeClock()
        streams = EventStreams(tasks=tasks, clock=clock, heartbeat_s=10, interval_s=request.param)
        worlds: list[World] = []

        async def answer(asked: web.Request) -> web.StreamResponse:
            return await worlds[0].answer(asked)

        worlds.append(World(served=await serve(site_with(web.get("/", answer))), streams=streams, clock=clock))
        yield worlds[0]


async def block(answer: aiohttp.ClientResponse) -> str:
    """The next event or comment, without the empty line after it."""
    lines = []
    while line := (await answer.content.readline()).decode().rstrip("\n"):
        lines.append(line)
    return "\n".join(lines)


def test_an_event_is_one_data_line() -> None:
    """Line breaks in the data can't end the event early; the id comes first."""
    frame = encode({"text": "a\n\nb"}, event_id="7")
    assert frame == b'id: 7\ndata: {"text":"a\\n\\nb"}\n\n'
    assert encode({}) == b"data: {}\n\n"


async def test_proxies_are_told_not_to_hold_it_back(world: World) -> None:
    """The headers of the API wrapper, and how long a browser waits before it comes back."""
    world.events.put_nowait(encode({"n": 1}))
    world.events.put_nowait(None)
    async with world.served.client.get("/") as answer:
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert await answer.text() == 'retry: 2000\n\ndata: {"n":1}\n\n'


async def test_a_quiet_stream_sends_comments(world: World) -> None:
    """Within each heartbeat something comes; an event counts."""
    async with world.served.client.get("/") as answer:
        assert await block(answer) == "retry: 2000"
        await world.idle()
        await world.clock.advance(5)
        await world.clock.advance(5)
        assert await block(answer) == ":"
        world.events.put_nowait(encode(1))
        await world.idle()
        await world.clock.advance(5)  # the event was something
        await world.clock.advance(5)
        assert (await block(answer), await block(answer)) == ("data: 1", ":")
        world.events.put_nowait(None)
        assert await answer.text() == ""


async def test_a_worker_that_goes_says_so(world: World) -> None:
    """The farewell is the last event, on streams that are open and on those that come late."""
    async with world.served.client.get("/") as answer:
        assert await block(answer) == "retry: 2000"
        await world.idle()
        world.streams.close()
        assert orjson.loads((await answer.text()).removeprefix("data: "))["message"] == "come again"
    async with world.served.client.get("/") as late:
        assert "come again" in await late.text()
    assert world.streams.open_count == 0


async def test_a_stream_that_is_about_to_end_says_how(world: World) -> None:
    """Between a job's end and the worker's, its last event is still sent; a farewell is for those who wait longer."""
    async with world.served.client.get("/") as answer:
        assert await block(answer) == "retry: 2000"
        await world.idle()
        world.events.put_nowait(encode("the end"))
        world.events.put_nowait(None)
        await world.streams.settle()
        world.streams.close()
        assert await answer.text() == 'data: "the end"\n\n'


async def test_a_reader_that_leaves_ends_the_stream(world: World) -> None:
    """Its handler is gone, and nobody keeps the stream."""
    answer = await world.served.client.get("/")
    await world.idle()
    answer.close()
    await world.ended.wait()
    assert world.streams.open_count == 0


async def test_a_slow_reader_holds_up_itself_only(world: World) -> None:
    """Little is written ahead of it, so its source can skip to the newest; and one that never reads is hung up on."""
    answer = await world.served.client.get("/")
    big = encode("x" * BUFFER_BYTES)
    for _ in range(2000):
        world.events.put_nowait(big)
    before = -1
    while before != world.sent_count:
        before = world.sent_count
        await settle(200)
    assert world.sent_count < 1000  # the rest waits at its source
    for _ in range(STALLED_BEATS + 1):
        await world.clock.advance(5)
    await world.ended.wait()
    answer.close()
    assert world.streams.open_count == 0


@pytest.mark.parametrize("world", [1.0], indirect=True)
async def test_events_are_spaced_in_the_long_run(world: World) -> None:
    """Two may follow at once, so that one that comes early is not late; then one an interval."""
    async with world.served.client.get("/") as answer:
        for number in range(4):
            world.events.put_nowait(encode(number))
        await block(answer)
        assert (await block(answer), await block(answer)) == ("data: 0", "data: 1")
        await settle(50)
        assert world.sent_count == 1  # the second is out, and its sender waits
        await world.clock.advance(1)
        assert await block(answer) == "data: 2"
        assert not world.events.empty()
        await world.clock.advance(1)
        assert await block(answer) == "data: 3"
        world.events.put_nowait(None)
        await world.clock.advance(1)
        assert await answer.text() == ""


@pytest.mark.parametrize("world", [1.0], indirect=True)
async def test_what_is_offered_is_written_when_it_may_follow(world: World) -> None:
    """Two at once, then one an interval; what is refused is not even encoded, and a sender waits for its turn."""
    offered: list[bool] = []

    def never() -> bytes:
        raise AssertionError("not wanted now")

    async def answer(request: web.Request) -> web.StreamResponse:
        async with world.streams.open(request, farewell=FAREWELL) as stream:
            offered.extend(stream.offer(lambda number=number: encode(number)) for number in range(2))  # type: ignore[misc]
            offered.append(stream.offer(never))
            await stream.turn()
            offered.append(stream.offer(lambda: encode(3)))
        offered.append(stream.offer(never))
        return stream.response

    world.answer = answer  # type: ignore[method-assign]
    async with world.served.client.get("/") as found:
        await block(found)
        assert (await block(found), await block(found)) == ("data: 0", "data: 1")
        await settle(50)
        assert offered == [True, True, False]
        await world.clock.advance(1)
        assert await block(found) == "data: 3"
        assert await found.text() == ""
    assert offered == [True, True, False, True, False]
