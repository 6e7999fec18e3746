"""POST /pyworker/update: closed without a token, and only a flag file when open."""

import asyncio
from pathlib import Path

import pytest

from tests.lib.dialects.vast.conftest import Build


@pytest.mark.parametrize("header", ["Bearer t0ken", "t0ken"])
async def test_the_token_writes_the_flag(build: Build, tmp_path: Path, header: str) -> None:
    """As a bearer or bare; the file is what start_server.sh looks for."""
    world = await build(master_token="t0ken")
    answer = await world.post("/pyworker/update", {}, headers={"Authorization": header})
    assert (answer.status, answer.body) == (200, {"ok": True})
    assert (tmp_path / "force_update").read_bytes() == b""


@pytest.mark.parametrize("header", ["", "Bearer ", "Bearer t0ke", "Bearer t0kenn", "Bearer \u00fc"])
async def test_any_other_token_does_not(build: Build, tmp_path: Path, header: str) -> None:
    """401 and no file."""
    world = await build(master_token="t0ken")
    answer = await world.post("/pyworker/update", {}, headers={"Authorization": header})
    assert (answer.status, answer.body) == (401, {"error": "unauthorized"})
    assert not (tmp_path / "force_update").exists()


async def test_what_is_no_text_is_no_token(build: Build) -> None:
    """Bytes that are not UTF-8 are refused like any other wrong token."""
    world = await build(master_token="t0ken")
    reader, writer = await asyncio.open_connection("127.0.0.1", world.listener.port)
    writer.write(
        b"POST /pyworker/update HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\r\nConnection: close\r\n\r\n"
    )
    assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
    writer.close()
    await writer.wait_closed()


async def test_without_a_token_it_is_closed(build: Build, tmp_path: Path) -> None:
    """Not even the empty token opens it."""
    world = await build()
    answer = await world.post("/pyworker/update", {}, headers={"Authorization": "Bearer "})
    assert answer.status == 403
    assert not (tmp_path / "force_update").exists()
