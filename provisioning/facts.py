"""What the steps of a manifest act on, and what a step is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lib.settings import SaladSettings
from lib.storage.operator_urls import OperatorUrls
from provisioning.comfyui.record import Device
from provisioning.errors import ProvisioningError
from provisioning.interpreter import Interpreter
from provisioning.manifest import Condition, Entry
from provisioning.volume.mount import Volume


class Skip(Exception):
    """The step has nothing to do here; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """One host. ``comfyui_root`` is None, and ``find_interpreter`` gives None, where ComfyUI is not known."""

    workspace: Path
    comfyui_root: Path | None
    conditions: frozenset[Condition]
    cron_dir: Path
    hf_token: str | None = None
    parallel_downloads: int = 4
    retry_wait_s: float = 1.0
    find_interpreter: Callable[[], Interpreter | None] = lambda: None
    device: Device = Device.CPU
    registry_url: str = ""
    snapshot: str | None = None
    volume: Volume | None = None
    urls: OperatorUrls = field(default_factory=lambda: OperatorUrls(SaladSettings.model_construct()))

    def comfyui(self) -> Path:
        """Give ComfyUI's folder. Raises ProvisioningError."""
        if self.comfyui_root is None:
            raise ProvisioningError("ComfyUI's folder is not known.", remedy="Set COMFYUI_INSTALL_PATH.")
        return self.comfyui_root

    def python(self) -> Interpreter:
        """Give ComfyUI's interpreter. Raises ProvisioningError."""
        found = self.find_interpreter()
        if found is None:
            raise ProvisioningError("The interpreter of ComfyUI is not known.", remedy="Set COMFYUI_PYTHON.")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do; ``act`` gives the bytes that it downloaded."""

    name: str
    kind: str
    optional: bool
    when: tuple[Condition, ...]
    act: Callable[[], int]


def step_of(name: str, kind: str, entry: Entry, act: Callable[[], int]) -> Step:
    """Make a step of a manifest's entry."""
    return Step(name=name, kind=kind, optional=entry.optional, when=entry.when, act=act)
