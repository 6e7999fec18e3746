"""The fake ComfyUI as a process with the speed of a card: sampling takes time, and so does loading a model.

``python -m tests.fakes.paced_comfyui --speed 12 --load-s 1.5``: 12 steps a second at 512x512. It prints its base URL.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.fakes import comfyui_nodes
from tests.fakes.comfyui import FakeComfyUI
from tests.fakes.comfyui_nodes import NODES, Context, FakeImage, Outcome

USUAL_PIXELS = 512 * 512
TICK_S = 0.1
"""A step that is shorter is told of together with others."""


class Card:
    """``models`` are installed, of which ``room`` stay loaded, the least recently used one goes first."""

    def __init__(self, *, speed: float, load_s: float, room: int, models: tuple[str, ...]) -> None:
        self._speed = speed
        self._load_s = load_s
        self._room = room
        self._models = models
        self._loaded: list[str] = []

    def install(self) -> None:
        """Have the nodes of this process work at its pace."""
        sampler, loader = NODES["KSampler"], NODES["CheckpointLoaderSimple"]
        required: Mapping[str, list[Any]] = {"ckpt_name": [list(self._models)]}
        NODES["KSampler"] = replace(sampler, run=self._sample)
        NODES["CheckpointLoaderSimple"] = replace(loader, run=self._load, required=required)

    async def _sample(self, context: Context, inputs: dict[str, Any]) -> Outcome:
        latent: FakeImage = inputs["latent_image"]
        steps = int(inputs["steps"])
        step_s = latent.width * latent.height * latent.count / USUAL_PIXELS / self._speed
        at_once = max(1, round(TICK_S / step_s))
        for done in range(0, steps, at_once):
            some = min(at_once, steps - done)
            await asyncio.sleep(some * step_s)
            context.tick(done + some, steps)
        model = str(inputs["model"])
        if model in self._loaded:  # it was used now
            self._loaded.remove(model)
            self._loaded.append(model)
        return (latent,), None

    async def _load(self, context: Context, inputs: dict[str, Any]) -> Outcome:
        name = str(inputs["ckpt_name"])
        if name not in self._loaded:
            await asyncio.sleep(self._load_s)
            self._loaded = [*self._loaded, name][-self._room :]
        return (name, name, name), None


async def _serve(port: int, folder: Path) -> None:
    async with FakeComfyUI(folder, port=port) as fake:
        print(fake.base_url, flush=True)
        await fake.died.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A fake ComfyUI with the speed of a card.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--speed", type=float, default=10.0, help="steps a second, 512x512")
    parser.add_argument("--load-s", type=float, default=0.0, help="time to load a model")
    parser.add_argument("--room", type=int, default=2, help="models that stay loaded")
    parser.add_argument("--models", default=",".join(comfyui_nodes.MODELS), help="comma list")
    options = parser.parse_args()
    card = Card(speed=options.speed, load_s=options.load_s, room=options.room, models=tuple(options.models.split(",")))
    card.install()
    asyncio.run(_serve(options.port, options.folder or Path(tempfile.mkdtemp(prefix="paced-comfyui-"))))
