"""Requests that bring their files along, as multipart/form-data."""

import asyncio
from typing import Any

import aiohttp
import orjson
import pytest
from yarl import URL

from tests.fakes.clock import settle

from .conftest import MOST_BYTES, MOST_UPLOAD_BYTES, World

MARK = {"X-Pyworker-Multipart": "1"}
WITH_FILE = {
    "input": {
        "request_id": "abc",
        "workflow_json": {
            "1": {"class_type": "LoadImage", "inputs": {"image": "upload://photo"}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
        },
    }
}


def form(request: Any = WITH_FILE, **files: bytes) -> aiohttp.FormData:
    """The request and its files."""
    data = aiohttp.FormData(default_to_multipart=True)
    for name, content in files.items():
        data.add_field(name, content, filename=f"{name}.png", content_type="image/png")
    if request is not None:
        data.add_field("request", orjson.dumps(request).decode(), content_type="application/json")
    return data


@pytest.mark.parametrize(("path", "status"), [("/generate/sync", 200), ("/generate", 202), ("/generate/stream", 200)])
async def test_a_file_comes_with_its_request(world: World, path: str, status: int) -> None:
    """It is stored for its tenant, and the node's field names it; the order of the parts does not matter."""
    answer = await world.client.post(path, data=form(photo=b"png"), headers={**MARK, "X-Tenant": "t"})
    await answer.read()
    assert answer.status == status
    assert world.saved.files == {"t-photo.png": b"png"}
    while world.service.in_flight_count:
        await settle()
    assert world.preparer.prepared["abc"]["1"]["inputs"] == {"image": "t-photo.png"}


async def test_without_our_header_it_is_refused(world: World) -> None:
    """A web page can send such a form across origins unasked."""
    answer = await world.client.post("/generate/sync", data=form(photo=b"png"))
    assert (answer.status, "X-Pyworker-Multipart" in (await answer.json())["message"]) == (415, True)
    assert world.saved.files == {}


@pytest.mark.parametrize(
    ("data", "status", "text"),
    [
        (form(photos=b"x"), 422, "no file part of the name 'photo'"),
        (form(None, photo=b"x"), 422, "no part 'request'"),
        (form("x", photo=b"x"), 422, "body"),
        (form(photo=b"x" * (MOST_UPLOAD_BYTES + 1)), 413, "larger"),
        (form({"input": {"note": "x" * MOST_BYTES}}, photo=b"x"), 413, "larger"),
    ],
)
async def test_what_does_not_fit_is_named(world: World, data: aiohttp.FormData, status: int, text: str) -> None:
    """A part that is missing, too large, or not JSON."""
    answer = await world.client.post("/generate/sync", data=data, headers=MARK)
    body = await answer.json()
    assert (answer.status, text in body["message"]) == (status, True), body
    assert world.engine.ran == []


@pytest.mark.parametrize(
    "raw", [b"", b"--b\r\n\r\n", b"--b\r\nContent-Disposition: form-data; name=request\r\n\r\n{}", b"nothing"]
)
async def test_a_broken_body_is_the_callers_mistake(world: World, raw: bytes) -> None:
    """Cut off, or no parts at all."""
    headers = {**MARK, "Content-Type": "multipart/form-data; boundary=b"}
    answer = await world.client.post("/generate/sync", data=raw, headers=headers)
    assert answer.status == 422, await answer.text()
    for kind in ("multipart/form-data", "multipart/form-data; boundary="):
        answer = await world.client.post("/generate/sync", data=raw, headers={**MARK, "Content-Type": kind})
        assert answer.status == 422, await answer.text()


async def test_parts_have_names_of_their_own(world: World) -> None:
    """Two of one name would hide each other; and there are not too many."""
    twice = form(photo=b"x")
    twice.add_field("photo", b"y", filename="y.png")
    assert (await world.client.post("/generate/sync", data=twice, headers=MARK)).status == 422
    many = form(**{f"p{number}": b"x" for number in range(80)})
    assert (await world.client.post("/generate/sync", data=many, headers=MARK)).status == 422


async def test_a_refused_body_does_not_spoil_the_connection(world: World) -> None:
    """What comes of it after the refusal is not taken for the next request, nor that one for it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", URL(world.url).port)
    head = "POST /generate HTTP/1.1\r\nHost: localhost\r\nX-Pyworker-Multipart: 1\r\nContent-Length: 9\r\n"
    writer.write(f"{head}Content-Type: multipart/form-data\r\n\r\n".encode())
    assert b" 422 " in await reader.readline()
    writer.write(b"123456789GET /queue-info HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert b"generation_queue_size" in await asyncio.wait_for(reader.read(), 60)
    writer.close()
    await writer.wait_closed()
