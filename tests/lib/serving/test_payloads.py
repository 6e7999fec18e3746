"""Bodies in and out."""

import asyncio
import gc
import gzip
import json
import tracemalloc
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from lib.errors import BodyTooLarge
from lib.serving.payloads import Pace, Room, dumps, json_response, read_body, require_json

from .conftest import Serve, site_with


async def echo(request: web.Request) -> web.Response:
    """Answer with the body's size."""
    return json_response({"size": len(await read_body(request, limit=1000))})


async def in_chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    """A body without a declared length."""
    for chunk in chunks:
        yield chunk


async def test_a_body_comes_whole(serve: Serve) -> None:
    """With a length, in chunks, compressed, empty."""
    served = await serve(site_with(web.post("/", echo)))
    for data, size in ((b"x" * 1000, 1000), (in_chunks(b"a" * 400, b"b" * 400), 800), (b"", 0)):
        assert await (await served.client.post("/", data=data)).json() == {"size": size}
    packed = await served.client.post("/", data=gzip.compress(b"x" * 900), headers={"Content-Encoding": "gzip"})
    assert await packed.json() == {"size": 900}


async def test_a_body_over_the_limit_is_413(serve: Serve) -> None:
    """Declared, in chunks, or after decompression."""
    served = await serve(site_with(web.post("/", echo)))
    bomb = gzip.compress(b"x" * 100_000)
    for data, headers in (
        (b"x" * 1001, {}),
        (in_chunks(b"a" * 600, b"b" * 600), {}),
        (bomb, {"Content-Encoding": "gzip"}),
    ):
        answer = await served.client.post("/", data=data, headers=headers)
        assert answer.status == 413
        assert (await answer.json())["error"] == "body_too_large"


async def test_a_body_that_comes_too_slowly_is_408(serve: Serve) -> None:
    """It would hold its place for ever; one that keeps the pace may be as long as it is."""

    async def read(request: web.Request) -> web.Response:
        pace = Pace(patience_s=0.5, least_bytes_s=1.0)
        return json_response({"size": len(await read_body(request, limit=1000, pace=pace))})

    served = await serve(site_with(web.post("/", read)))
    going = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield b""
        await going.wait()
        yield b"x"

    answer = await served.client.post("/", data=stalled())
    assert (answer.status, (await answer.json())["error"]) == (408, "request_timeout")
    going.set()
    assert await (await served.client.post("/", data=b"x" * 100)).json() == {"size": 100}


async def test_bodies_of_strangers_have_so_much_room_together(serve: Serve) -> None:
    """What is over it is turned away at once, small ones never; room is there again when a body is done with."""
    room, reading, done = Room(Room.FREE_BYTES), asyncio.Event(), asyncio.Event()
    large = b"x" * (2 * Room.FREE_BYTES)

    async def read(request: web.Request) -> web.Response:
        with room.taken() as grow:
            size = len(await read_body(request, limit=1 << 20, grow=grow))
            if "wait" in request.query:
                reading.set()
                await done.wait()
        return json_response({"size": size})

    served = await serve(site_with(web.post("/", read)))
    async with asyncio.TaskGroup() as group:
        first = group.create_task(served.client.post("/?wait=1", data=large))
        await reading.wait()
        refused = await served.client.post("/", data=large)
        assert (refused.status, (await refused.json())["error"]) == (429, "overloaded")
        assert (await served.client.post("/", data=b"x" * Room.FREE_BYTES)).status == 200
        done.set()
    assert first.result().status == 200
    assert (await served.client.post("/", data=large)).status == 200


async def test_a_broken_encoding_is_the_callers_mistake(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Not gzip although it says so: 422, and no traceback in the log."""
    served = await serve(site_with(web.post("/", echo)))
    for data in (b"no gzip at all", gzip.compress(b"x" * 500)[:-20] + b"y" * 40):
        headers = {"Content-Encoding": "gzip"}
        answer = await served.client.post("/", data=data, headers=headers)
        assert (answer.status, (await answer.json())["error"]) == (422, "invalid_request")
    assert not caplog.records


async def test_only_declared_json_is_taken(serve: Serve) -> None:
    """Types that a web page may send unasked are refused with a hint."""

    async def strict(request: web.Request) -> web.Response:
        require_json(request)
        return json_response({})

    served = await serve(site_with(web.post("/", strict)))
    for kind, status in (
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("application/problem+json", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
    ):
        answer = await served.client.post("/", data=b"{}", headers={"Content-Type": kind})
        assert answer.status == status, kind
    answer = await served.client.post("/", data=b"{}", skip_auto_headers=["Content-Type"])
    assert answer.status == 415
    assert "application/json" in (await answer.json())["message"]


async def test_nothing_of_the_body_stays_with_a_waiting_request(serve: Serve) -> None:
    """Forty handlers that wait after reading 256 KiB each hold far less than those ten megabytes."""
    count, size = 40, 1 << 18
    arrived, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        length = len(await read_body(request, limit=size))
        arrived.release()
        await go_on.wait()
        return json_response({"size": length})

    served = await serve(site_with(web.post("/", handler)))
    body = b"x" * size
    tracemalloc.start()
    calls = [asyncio.ensure_future(served.client.post("/", data=body)) for _ in range(count)]
    for _ in calls:
        await arrived.acquire()
    gc.collect()
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    go_on.set()
    assert {answer.status for answer in await asyncio.gather(*calls)} == {200}
    assert grown < count * size / 4


@pytest.mark.parametrize("value", [{"a": [1, None, "ü"]}, {"big": 2**70}, {"lone": "\ud800"}, []])
def test_any_json_value_can_be_written(value: object) -> None:
    """What the fast encoder refuses goes through the other."""
    assert json.loads(dumps(value)) == value


def test_the_limit_is_told() -> None:
    """The error names the limit for programs."""
    assert BodyTooLarge("x", details={"limit_bytes": 3}).details["limit_bytes"] == 3


async def test_a_broken_encoding_ends_the_connection(serve: Serve) -> None:
    """What the caller sends after it is not taken for more of that body, and he does not wait for ever."""
    served = await serve(site_with(web.post("/", echo)))
    reader, writer = await asyncio.open_connection("127.0.0.1", served.listener.port)
    head = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\n"
    writer.write(head.encode() + b"not gzip!")
    answer = await asyncio.wait_for(reader.read(), 60)
    assert answer.startswith(b"HTTP/1.1 422 ")
    writer.close()
    await writer.wait_closed()


async def test_a_broken_encoding_that_nobody_reads(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Of routes that read no body, and of paths that nobody has: the answer says that the connection ends, and there is
    no traceback in the log."""

    async def ping(request: web.Request) -> web.Response:
        return json_response({})

    served = await serve(site_with(web.post("/", ping)))
    for path, status in (("/", 200), ("/nobody", 404)):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.listener.port)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\n"
        writer.write(head.encode() + b"not gzip!")
        answer = await asyncio.wait_for(reader.read(), 60)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode()) and b"Connection: close" in answer
        writer.close()
        await writer.wait_closed()
    assert not caplog.records
