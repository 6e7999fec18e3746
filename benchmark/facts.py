"""What the score depends on: the GPU, its driver, the CPU, torch and ComfyUI. No metering, only facts."""

import asyncio
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """One card, as NVML tells it."""

    name: str
    uuid: str
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """``device`` is ComfyUI's own word for what it runs on (``cpu``, ``cuda``, ``mps``, ...)."""

    gpus: tuple[GpuFacts, ...] = ()
    driver: str | None = None
    cpu: str = ""
    cpu_count: int = 1
    memory_bytes: int = 0
    device: str | None = None
    torch: str | None = None
    comfyui: str | None = None

    @property
    def cpu_only(self) -> bool:
        """Whether ComfyUI runs without an accelerator (its own word counts; NVML's where it gives none)."""
        return self.device == "cpu" if self.device else not self.gpus

    def headline(self) -> str:
        """What stands over a table of figures."""
        return f"{self.describe()}, torch {self.torch}, ComfyUI {self.comfyui}"

    def describe(self) -> str:
        """One phrase for a log line."""
        if self.cpu_only:
            return f"{self.cpu or 'CPU'}, {self.cpu_count} cores"
        if not self.gpus:
            return str(self.device)
        names = sorted({gpu.name for gpu in self.gpus})
        return f"{len(self.gpus)} x {', '.join(names)}, driver {self.driver}"


async def gather_facts(system_stats: Mapping[str, Any] | None = None) -> HostFacts:
    """Ask NVML and the system, off the event loop; ``system_stats`` is ComfyUI's answer of that name."""
    return await asyncio.to_thread(_gather, system_stats or {})


def _gather(stats: Mapping[str, Any]) -> HostFacts:
    gpus, driver = _nvidia()
    system = stats.get("system")
    system = system if isinstance(system, Mapping) else {}
    return HostFacts(
        gpus=gpus,
        driver=driver,
        cpu=_cpu_name(),
        cpu_count=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        device=_device(stats),
        torch=_text(system.get("pytorch_version")),
        comfyui=_text(system.get("comfyui_version")),
    )


def _nvidia() -> tuple[tuple[GpuFacts, ...], str | None]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return (), None
    try:
        count = pynvml.nvmlDeviceGetCount()
        gpus = tuple(_gpu(pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count))
        return gpus, _text(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return (), None
    finally:
        pynvml.nvmlShutdown()


def _gpu(handle: object) -> GpuFacts:
    import pynvml

    return GpuFacts(
        name=_text(pynvml.nvmlDeviceGetName(handle)) or "",
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)) or "",
        memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
    )


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else ""


def _device(stats: Mapping[str, Any]) -> str | None:
    devices = stats.get("devices")
    first = devices[0] if isinstance(devices, list) and devices else None
    return _text(first.get("type")) if isinstance(first, Mapping) else None


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else None
