"""lib.comfy.relearning: a new model is in the catalogue soon, and many new ones cost one reading more."""

import asyncio
from pathlib import Path

from lib.comfy.relearning import Relearning
from lib.errors import EngineUnreachable
from lib.lifecycle import Tasks
from tests.fakes.comfyui import FakeComfyUI
from tests.fakes.engine_world import engine_world, until


class Slow:
    """An engine that reads as long as the test wants."""

    name = "slow"

    def __init__(self, *, healthy: bool = True, failing: bool = False) -> None:
        self.healthy = healthy
        self.failing = failing
        self.count = 0
        self.gate = asyncio.Event()

    async def relearn(self) -> None:
        self.count += 1
        await self.gate.wait()
        if self.failing:
            raise EngineUnreachable("it is gone")


async def test_many_changes_are_read_together() -> None:
    """Those that come while it reads are not lost."""
    async with Tasks() as tasks:
        engine = Slow()
        relearning = Relearning([engine], tasks=tasks)
        for _ in range(3):
            relearning.changed()
        await asyncio.sleep(0)
        relearning.changed()
        relearning.changed()
        engine.gate.set()
        for _ in range(10):
            await asyncio.sleep(0)
        assert engine.count == 2
        relearning.changed()
        for _ in range(10):
            await asyncio.sleep(0)
        assert engine.count == 3


async def test_an_engine_that_is_down_keeps_nobody_from_learning() -> None:
    """It reads when it is back; one that fails does not stop the next."""
    async with Tasks() as tasks:
        down, failing, well = Slow(healthy=False), Slow(failing=True), Slow()
        for engine in (down, failing, well):
            engine.gate.set()
        Relearning([down, failing, well], tasks=tasks).changed()
        for _ in range(10):
            await asyncio.sleep(0)
        assert (down.count, failing.count, well.count) == (0, 1, 1)


async def test_an_engine_reads_its_catalogue_anew(tmp_path: Path) -> None:
    """While it works."""
    async with (
        FakeComfyUI(tmp_path / "c") as fake,
        engine_world(comfyui=fake, root=fake.folder, fetched=tmp_path / "f") as world,
    ):
        before = world.engine.catalog
        Relearning([world.engine], tasks=world.tasks).changed()

        async def other() -> bool:
            return world.engine.catalog is not before

        await until(other)
        assert len(world.engine.catalog) == len(before)
