"""What this worker tells a router of ours beyond Vast's report."""

import re
from collections.abc import Callable, Sequence

from lib.app.condition import Condition
from lib.comfy.catalog import Catalog
from lib.comfy.engine import ComfyEngine
from lib.fleet.warmth import Warmth
from lib.jobs.service import JobService
from lib.protocol.status import WorkerFacts
from lib.workflow.models import LARGE_INPUTS, is_model

MOST_MODELS = 1000
MOST_CHARACTERS = 64 * 1024
"""Of the names of all installed models, which go out with each report; of more nothing is told, as if not known."""
GIBIBYTE = 1 << 30
_DEVICE = re.compile(r"(?:cuda:\d+ )?(?P<name>.*?)(?: : \w+)?")
"""ComfyUI's way to name a GPU: ``cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync``."""


def facts_of(
    *,
    service: JobService,
    engines: Sequence[ComfyEngine],
    condition: Condition,
    warmth: Warmth,
    dialects: Sequence[str],
) -> Callable[[], WorkerFacts]:
    """Return what tells how things are now."""
    installed = _Installed(engines)

    def facts() -> WorkerFacts:
        count = max(sum(engine.healthy for engine in engines), 1)
        warm, wait_s = warmth.now(count), service.predicted_wait_s()
        return WorkerFacts(
            slots=count + 1,
            engines=count,
            draining=condition.draining,
            backlog_s=None if wait_s is None else round(wait_s, 3),
            models=installed.names(),
            models_warm=warm.models,
            room=warm.room,
            swap_s=warm.swap_s,
            dialects=tuple(dialects),
            vram_gib=_vram_gib(engines),
            gpu_name=_gpu_name(engines),
        )

    return facts


class _Installed:
    """The large models that any engine offers, read again only when a catalogue is another one."""

    def __init__(self, engines: Sequence[ComfyEngine]) -> None:
        self._engines = tuple(engines)
        self._catalogs: tuple[Catalog, ...] = ()
        self._names: tuple[str, ...] | None = None

    def names(self) -> tuple[str, ...] | None:
        catalogs = tuple(engine.catalog for engine in self._engines if len(engine.catalog))
        if [*map(id, catalogs)] != [*map(id, self._catalogs)]:
            self._catalogs, self._names = catalogs, self._read(catalogs)
        return self._names

    def _read(self, catalogs: Sequence[Catalog]) -> tuple[str, ...] | None:
        offered = {
            option
            for catalog in catalogs
            for class_type in catalog.names()
            for name in LARGE_INPUTS
            for option in catalog.options(class_type, name)
            if is_model(option)
        }
        fits = len(offered) <= MOST_MODELS and sum(map(len, offered)) <= MOST_CHARACTERS
        return tuple(sorted(offered)) if catalogs and fits else None


def _gpus(engines: Sequence[ComfyEngine]) -> list[ComfyEngine]:
    return [engine for engine in engines if engine.system_facts.get("device_type") not in (None, "cpu")]


def _vram_gib(engines: Sequence[ComfyEngine]) -> float | None:
    """Of the smallest GPU: a job may come to any."""
    sizes = [engine.system_facts.get("vram_total_bytes") for engine in _gpus(engines)]
    known = [size / GIBIBYTE for size in sizes if isinstance(size, int | float) and size > 0]
    return round(min(known), 2) if known else None


def _gpu_name(engines: Sequence[ComfyEngine]) -> str | None:
    names = [engine.system_facts.get("device_name") for engine in _gpus(engines)]
    found = next((_DEVICE.fullmatch(name) for name in names if isinstance(name, str)), None)
    return found["name"] if found is not None else None
