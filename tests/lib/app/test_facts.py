"""What a router of ours is told of engines, models and GPU."""

from collections.abc import Sequence
from typing import Any

import pytest

from lib.app.condition import Condition
from lib.app.facts import MOST_MODELS, facts_of
from lib.comfy.catalog import Catalog, NodeClass
from lib.fleet.warmth import Warmth
from lib.protocol.status import WorkerFacts
from tests.fakes.clock import FakeClock
from tests.fakes.jobs import build_jobs

GPU = {"device_name": "cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync", "device_type": "cuda"}


def catalog(*names: str) -> Catalog:
    """One with a loader of these, and a node whose options are no models."""
    loader = NodeClass(options={"ckpt_name": names, "vae_name": ("vae.safetensors",)})
    return Catalog({"CheckpointLoaderSimple": loader, "KSampler": NodeClass(options={"sampler_name": ("euler",)})})


class Engine:
    """As much of an engine as is asked."""

    def __init__(self, *models: str, healthy: bool = True, **facts: Any) -> None:
        self.healthy = healthy
        self.catalog = catalog(*models) if models else Catalog()
        self.system_facts = facts


def told(engines: Sequence[Any], *, draining: bool = False) -> WorkerFacts:
    condition = Condition(clock=FakeClock())
    if draining:
        condition.drain()
    service = build_jobs().service
    return facts_of(
        service=service, engines=engines, condition=condition, warmth=Warmth(), dialects=("vast", "wrapper")
    )()


async def test_one_more_than_engines_are_taken_at_once() -> None:
    """A prepared one waits behind those that run; engines that are down take none."""
    facts = told([Engine(), Engine(), Engine(healthy=False)])
    assert (facts.engines, facts.slots) == (2, 3)
    assert (told([Engine(healthy=False)]).engines, told([Engine()], draining=True).draining) == (1, True)
    assert facts.dialects == ("vast", "wrapper")


async def test_models_are_those_that_any_engine_offers() -> None:
    """Large ones, by the names that nodes use; nothing before ComfyUI was asked, or when there are too many."""
    assert told([Engine("b.safetensors", "x/a.ckpt"), Engine("c.gguf")]).models == (
        "b.safetensors",
        "c.gguf",
        "x/a.ckpt",
    )
    assert told([Engine()]).models is None
    assert told([Engine(*(f"{number}.ckpt" for number in range(MOST_MODELS + 1)))]).models is None


async def test_models_are_read_again_when_the_catalogue_changes() -> None:
    """A model that was downloaded is offered from then on."""
    engine = Engine("a.ckpt")
    service, condition = build_jobs().service, Condition(clock=FakeClock())
    facts = facts_of(service=service, engines=[engine], condition=condition, warmth=Warmth(), dialects=())  # type: ignore[list-item]
    assert facts().models == ("a.ckpt",)
    engine.catalog = catalog("a.ckpt", "b.ckpt")
    assert facts().models == ("a.ckpt", "b.ckpt")


@pytest.mark.parametrize(
    ("engines", "vram_gib", "name"),
    [
        ([Engine(**GPU, vram_total_bytes=24 << 30)], 24.0, "NVIDIA GeForce RTX 4090"),
        ([Engine(**GPU, vram_total_bytes=24 << 30), Engine(**GPU, vram_total_bytes=8 << 30)], 8.0, None),
        ([Engine(device_name="cpu", device_type="cpu", vram_total_bytes=64 << 30)], None, None),
        ([Engine(device_name="mps", device_type="mps")], None, "mps"),
        ([Engine()], None, None),
    ],
)
async def test_the_smallest_gpu_counts(engines: list[Engine], vram_gib: float | None, name: str | None) -> None:
    """A job may come to any engine; on a CPU there is none."""
    facts = told(engines)
    assert facts.vram_gib == vram_gib
    assert name is None or facts.gpu_name == name
