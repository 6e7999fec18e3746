"""Uploads: streamed to the store under the caller's tenant, in either form, never from a foreign page."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from .conftest import ALICE, OPS, World

FORM = {"X-Pyworker-Multipart": "1"}


def form(**files: bytes) -> aiohttp.MultipartWriter:
    writer = aiohttp.MultipartWriter("form-data")
    for name, content in files.items():
        part = writer.append(content, {"Content-Type": "image/png"})
        part.set_content_disposition("form-data", name=name, filename=f"{name}.png")
    return writer


async def test_a_plain_body_has_its_name_in_a_header(world: World) -> None:
    """The answer is what a loader's field takes."""
    headers = ALICE | {"X-Filename": "photo.png", "Content-Type": "image/png"}
    status, body, _ = await world.get("/inputs", method="POST", headers=headers, data=b"12345")
    assert (status, body) == (
        201,
        {"inputs": [{"reference": "upload://1.png", "filename": "photo.png", "size_bytes": 5}]},
    )
    assert world.saved.files == [("alice", "photo.png", b"12345")]


async def test_parts_are_files(world: World) -> None:
    """In their order; fields of a form that are no files are passed over."""
    writer = form(one=b"1", two=b"22")
    writer.append("text").set_content_disposition("form-data", name="note")
    status, body, _ = await world.get("/inputs", method="POST", headers=OPS | FORM, data=writer)
    assert status == 201
    assert [item["filename"] for item in body["inputs"]] == ["one.png", "two.png"]
    assert world.saved.files == [("ops", "one.png", b"1"), ("ops", "two.png", b"22")]


@pytest.mark.parametrize(
    ("headers", "data", "field"),
    [
        ({}, b"x", "X-Filename"),
        ({"X-Filename": ""}, b"x", "X-Filename"),
        ({"X-Filename": "../"}, b"x", "filename"),
        ({"X-Filename": "x" * 300}, b"x", "filename"),
        ({"Content-Type": "multipart/form-data; boundary=b"} | FORM, b"no parts", "body"),
        ({"Content-Type": "multipart/form-data"} | FORM, b"no boundary", "body"),
        ({"Content-Type": "multipart/form-data; boundary=b"} | FORM, b"--b--\r\n", "body"),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"--b--\r\n", "X-Pyworker-Multipart"),
    ],
)
async def test_what_is_no_upload_is_refused(world: World, headers: dict[str, str], data: bytes, field: str) -> None:
    """With what was expected; a form without our header may be some web page's."""
    status, body, _ = await world.get("/inputs", method="POST", headers=ALICE | headers, data=data)
    assert (status, body["details"]["field"]) == (422, field)
    assert world.saved.files == []


async def test_folders_of_a_name_are_dropped(world: World) -> None:
    """Browsers send whole paths."""
    for name in ("C:\\pictures\\a.png", "/etc/a.png", "../a.png"):
        await world.get("/inputs", method="POST", headers=ALICE | {"X-Filename": name}, data=b"x")
    assert {name for _, name, _ in world.saved.files} == {"a.png"}


async def test_who_leaves_in_the_middle_leaves_nothing(world: World) -> None:
    """The store hears of it as of any broken stream."""
    begun = asyncio.Event()

    async def half() -> AsyncIterator[bytes]:
        yield b"half"
        begun.set()
        await asyncio.Event().wait()

    asked = asyncio.create_task(
        world.get("/inputs", method="POST", headers=ALICE | {"X-Filename": "a.png"}, data=half())
    )
    await asyncio.wait_for(begun.wait(), 60)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert (await world.get("/jobs", headers=ALICE))[0] == 200
    assert world.saved.files == []


async def test_a_key_is_asked_for(world: World) -> None:
    """Before anything is read."""
    status, _, _ = await world.get("/inputs", method="POST", headers={"X-Filename": "a.png"}, data=b"x")
    assert (status, world.saved.files) == (401, [])
