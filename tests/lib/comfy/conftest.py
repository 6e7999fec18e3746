"""For every test of ``lib.comfy``; and an engine over the fake and over a real ComfyUI."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import stamina

from tests.fakes.comfyui import FakeComfyUI
from tests.fakes.engine_world import SETTINGS, World, engine_world

SERVERS = ["fake", pytest.param("real", marks=pytest.mark.comfyui)]


@pytest.fixture(autouse=True, scope="session")
def quiet_stamina() -> None:
    """As ``lib.app`` does: stamina's own metrics, made at the first retry inside the event loop, are not wanted."""
    stamina.instrumentation.set_on_retry_hooks(())


@pytest_asyncio.fixture(params=SERVERS)
async def comfyui(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    """The server under the engine."""
    if request.param == "real":
        real = request.getfixturevalue("real_comfyui")
        if not real.running():
            await asyncio.to_thread(real.start)
        yield real
        return
    async with FakeComfyUI(tmp_path / "comfyui") as fake:
        yield fake


@pytest_asyncio.fixture
async def world(comfyui: Any, tmp_path: Path) -> AsyncIterator[World]:
    """An engine over it that gives ComfyUI time: neither slow starts nor slow interrupts make it count as broken."""
    settings = SETTINGS.model_copy(update={"stall_timeout_s": 60.0, "interrupt_timeout_s": 60.0})
    async with engine_world(
        comfyui=comfyui, root=comfyui.folder, fetched=tmp_path / "fetched", settings=settings
    ) as made:
        yield made
