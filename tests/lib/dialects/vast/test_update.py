"""POST /pyworker/update: closed without a token, and only a flag file when open."""

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


async def test_without_a_token_it_is_closed(build: Build, tmp_path: Path) -> None:
    """Not even the empty token opens it."""
    world = await build()
    answer = await world.post("/pyworker/update", {}, headers={"Authorization": "Bearer "})
    assert answer.status == 403
    assert not (tmp_path / "force_update").exists()
