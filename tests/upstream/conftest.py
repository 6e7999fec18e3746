"""An engine over a fake ComfyUI, and the worker's log."""

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import stamina

from tests.fakes.comfyui import FakeComfyUI
from tests.fakes.engine_world import World, engine_world
from tests.upstream.stand_ins import Lines


@pytest.fixture(autouse=True, scope="session")
def quiet_stamina() -> None:
    """As ``lib.app`` does: stamina's own metrics, made at the first retry inside the event loop, are not wanted."""
    stamina.instrumentation.set_on_retry_hooks(())


@pytest.fixture
def logged() -> Iterator[Lines]:
    """The worker's log."""
    lines, root = Lines(), logging.getLogger("lib")
    level = root.level
    root.addHandler(lines)
    root.setLevel(logging.INFO)
    yield lines
    root.removeHandler(lines)
    root.setLevel(level)


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeComfyUI]:
    async with FakeComfyUI(tmp_path / "comfyui") as made:
        yield made


@pytest.fixture
async def world(fake: FakeComfyUI, tmp_path: Path) -> AsyncIterator[World]:
    """An engine over a ComfyUI of ours, which can be restarted."""

    async def restart() -> None:
        await fake.kill()
        await fake.start()

    async with engine_world(comfyui=fake, root=fake.folder, fetched=tmp_path / "fetched", restarter=restart) as made:
        yield made
