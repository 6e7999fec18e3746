"""Commands for node packs, by hand or in an image's build: install, restore a snapshot, set the Manager's mode."""

import threading
from collections.abc import Sequence
from pathlib import Path

from provisioning.apply import LOCK_FILE
from provisioning.comfyui.locate import comfyui_version
from provisioning.errors import ProvisioningError, cause_of
from provisioning.facts import HostFacts
from provisioning.fetch import Fetcher
from provisioning.nodes.check import ImportCheck
from provisioning.nodes.install import NodesHost, Pack, install_pack
from provisioning.nodes.mode import config_files, set_mode
from provisioning.nodes.snapshot import read_snapshot, restore
from provisioning.nodes.source import parse_source
from provisioning.packages import nodes_host
from provisioning.pins import Pins
from provisioning.progress import display
from provisioning.steps import digest, exclusive, say


def install_nodes(names: Sequence[str], facts: HostFacts) -> None:
    """Install packs and see that they import. Raises ProvisioningError that names each one that failed."""
    host = _nodes_host(facts)
    packs: dict[str, Pack] = {}
    failed: dict[str, str] = {}
    with exclusive(facts.workspace / ".provisioning" / "manifest-lock"):
        for name in names:
            try:
                packs[name] = install_pack(parse_source(name), host)
            except (ProvisioningError, ValueError, OSError) as error:
                failed[name] = cause_of(error)
        failed |= _not_importing(packs, facts, host)
    if failed:
        causes = "\n".join(f"{name}: {cause}" for name, cause in failed.items())
        raise ProvisioningError(f"Not installed: {', '.join(failed)}\n{causes}", remedy="Correct the names and go on.")
    say("Installed: " + ", ".join(f"{pack.path.name} ({pack.version[:12] or 'as it was'})" for pack in packs.values()))


def restore_snapshot(location: str, facts: HostFacts) -> None:
    """Restore a snapshot. Raises ProvisioningError that names what could not be restored."""
    host = _nodes_host(facts)
    with exclusive(facts.workspace / ".provisioning" / "manifest-lock"):
        restored = restore(read_snapshot(location), host)
        packs = {pack.path.name: pack for pack in restored.packs}
        problems = restored.problems + [
            f"{name}: {cause}" for name, cause in _not_importing(packs, facts, host).items()
        ]
    if problems:
        raise ProvisioningError(
            "Not restored: " + "\n".join(problems), remedy="Correct the snapshot, then restore again."
        )
    say(f"Restored: {location}")


def set_manager_mode(mode: str, *, config: Path | None, workspace: Path, root: Path | None) -> None:
    """Write ComfyUI-Manager's network mode into the named file, else into that of each ComfyUI of ours."""
    for path in (config,) if config is not None else config_files(workspace, root):
        set_mode(path, mode)
        say(f"{path}: network_mode = {mode}")


def _nodes_host(facts: HostFacts) -> NodesHost:
    pins = Pins(facts.workspace / LOCK_FILE)
    return nodes_host(facts, Fetcher(pins=pins, progress=display(), stopped=threading.Event()))


def _not_importing(packs: dict[str, Pack], facts: HostFacts, host: NodesHost) -> dict[str, str]:
    if not packs:
        return {}
    versions = {pack.path.name: pack.version for pack in packs.values()}
    check = ImportCheck(
        root=host.root,
        workspace=host.workspace,
        interpreter=host.interpreter,
        device=facts.device,
        paths=[pack.path for pack in packs.values()],
        key=digest(versions, comfyui_version(host.root)),
    )
    failed = {}
    for name, pack in packs.items():
        try:
            check.require(pack.path)
        except ProvisioningError as error:
            failed[name] = cause_of(error)
    return failed
