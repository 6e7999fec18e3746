"""Fleets of the simulation. Speeds are medians of a public corpus of SD 1.5 timings (512x512, 20 steps, batch 1)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

UNITS = 100.0
"""Workload of a job of size 1, the benchmark workflow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A kind of worker: images a second (20 steps each) of all its engines, memory, dollars an hour (placeholders)."""

    kind: str
    steps_per_s: float
    vram_gib: float
    price: float
    engines: int = 1

    @property
    def perf(self) -> float:
        """Units per second."""
        return self.steps_per_s / 20 * UNITS


RTX_3060 = Gpu(kind="3060", steps_per_s=6.4, vram_gib=12, price=0.10)
RTX_3090 = Gpu(kind="3090", steps_per_s=14.5, vram_gib=24, price=0.22)
RTX_4090 = Gpu(kind="4090", steps_per_s=21.5, vram_gib=24, price=0.40)
A100 = Gpu(kind="A100", steps_per_s=23.5, vram_gib=80, price=0.90)
RTX_5090 = Gpu(kind="5090", steps_per_s=29.8, vram_gib=32, price=0.55)

MIX = (*[RTX_3060] * 4, *[RTX_3090] * 4, *[RTX_4090] * 4, *[A100] * 2, RTX_5090)
"""The fleet of most figures: 15 GPUs, 12.3 images a second."""

FLEETS: Mapping[str, tuple[Gpu, ...]] = {
    "mix": MIX,
    "two speeds": (RTX_5090, *[RTX_3060] * 6),
    "alike": (RTX_4090,) * 8,
    "hosts": (
        *[replace(RTX_4090, kind="4x4090", engines=4, steps_per_s=4 * RTX_4090.steps_per_s, price=1.6)] * 2,
        *[RTX_3090] * 4,
    ),
}


def capacity(fleet: tuple[Gpu, ...]) -> float:
    """Units per second of all workers."""
    return sum(gpu.perf for gpu in fleet)
