"""Models that are brought at a caller's wish: what is handed on, and what happens in the background."""

import logging
from typing import Any

import pytest

from lib.dialects.salad import downloads
from lib.errors import InputFetchFailed
from tests.fakes.clock import settle

from .conftest import World

WANTED = {"url": "https://h.example.com/a.safetensors", "model_type": "loras"}


async def test_what_is_handed_on(world: World) -> None:
    """Rights for this URL alone; no name unless one was given; whose wish it is."""
    auth = {"type": "query", "query_param": "key", "query_value": "v"}
    await world.post("/download", {**WANTED, "auth": auth, "wait": True}, X_Tenant="alice")
    (wanted,) = world.models.wanted
    (credential,) = wanted.pop("credentials")
    assert wanted == {**WANTED, "filename": None, "owner": "alice", "dialect": "salad"}
    assert (credential.kind, credential.pattern, credential.salad_pattern) == ("query", "**", True)


async def test_who_does_not_wait_is_answered_before_it_is_there(world: World) -> None:
    """202 while it goes on."""
    world.models.gate.clear()
    await world.post("/download", WANTED, status=202)
    await settle(20)
    assert len(world.models.wanted) == 1
    world.models.gate.set()
    await settle(20)


async def test_a_failure_that_nobody_waits_for_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """With the cause, without the URL."""
    world.models.error = InputFetchFailed("host 'h' answered 404")
    with caplog.at_level(logging.WARNING, logger=downloads.__name__):
        await world.post("/download", {**WANTED, "url": "https://h/a?token=x"}, status=202)
        await settle(20)
    (record,) = caplog.records
    assert (record.levelname, vars(record)["cause"]) == ("WARNING", "host 'h' answered 404")
    assert "token" not in str(vars(record))


async def test_not_too_many_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The background has an end; who is refused may come again."""
    monkeypatch.setattr(downloads, "MOST_WAITING", 2)
    world.models.gate.clear()
    for _ in range(2):
        await world.post("/download", WANTED, status=202)
    assert (await world.post("/download", WANTED, status=503))["code"] == "overloaded"
    world.models.gate.set()
    await settle(20)
    await world.post("/download", WANTED, status=202)
    await settle(20)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h/a/b.safetensors", "b.safetensors"),
        ("https://h/a/b%20c.pt?x=/y", "b c.pt"),
        ("s3://bucket/folder/m.ckpt", "m.ckpt"),
        ("https://h/a/", ""),
        ("https://h", ""),
    ],
)
async def test_names_of_urls(world: World, url: str, name: str) -> None:
    """The last part of the path, if there is one."""
    assert (await world.post("/download", {**WANTED, "url": url}, status=202))["filename"] == name
    await settle(20)


@pytest.mark.parametrize(
    "name",
    [*("", ".", "..", "a/b", "a\\b", "/a", "C:a", ".a", "~a", " a", "a\0b", "a\nb", "a?b", "x" * 256, "é" * 128)],
)
async def test_names_that_are_refused(world: World, name: Any) -> None:
    """None of them reaches whoever writes files."""
    body = await world.post("/download", {**WANTED, "filename": name}, status=400)
    assert (body["location"], world.models.wanted) == ("filename", [])


async def test_the_name_that_is_used_is_told(world: World) -> None:
    """Who waits learns what ComfyUI will list."""
    done = await world.post("/download", {**WANTED, "wait": True})
    assert (done["filename"], done["size"], done["duration"]) == ("model.safetensors", 12, 0.5)
