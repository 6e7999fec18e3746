"""The steps of a manifest that change software: apt, a snapshot, node packs, pip, and whether all packs import."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

from provisioning.apt import install_packages
from provisioning.comfyui.locate import comfyui_version
from provisioning.errors import ProvisioningError
from provisioning.facts import HostFacts, Skip, Step, step_of
from provisioning.fetch import Fetcher
from provisioning.manifest import CustomNode, Entry, Manifest, Package
from provisioning.nodes.check import ImportCheck
from provisioning.nodes.install import NodesHost, Pack, install_needs, install_pack
from provisioning.nodes.snapshot import find_snapshot, read_snapshot, restore
from provisioning.steps import Stamps, digest, say

AUTO = "auto"
MUST = Entry()
MAY = Entry(optional=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Installed:
    pack: Pack
    entry: Entry


class PackageSteps:
    """Gives the steps in their order; ``imports`` comes last, since it looks at what the others installed."""

    def __init__(self, manifest: Manifest, facts: HostFacts, fetcher: Fetcher) -> None:
        self._manifest = manifest
        self._facts = facts
        self._fetcher = fetcher
        self._installed: list[_Installed] = []

    def system(self) -> Iterator[Step]:
        """Debian packages."""
        for entry, names in _together(self._manifest.apt):
            yield step_of(", ".join(names), "apt", entry, partial(_apt, names))

    def python(self) -> Iterator[Step]:
        """A snapshot, then node packs, then packages: the manifest's own word on versions comes last."""
        wanted = self._facts.snapshot or self._manifest.snapshot
        if wanted is not None:
            yield step_of(wanted, "snapshot", MUST, partial(self._restore, wanted))
        for node in self._manifest.custom_nodes:
            yield step_of(node.pack.title, "node", node, partial(self._install, node))
        for path in self._facts.volume.node_packs() if self._facts.volume else ():
            yield step_of(str(path), "node", MAY, partial(self._from_volume, path))
        for entry, names in _together(self._manifest.pip):
            yield step_of(", ".join(names), "pip", entry, partial(self._pip, names))

    def imports(self) -> Iterator[Step]:
        """One step for each pack that was installed; ComfyUI is started once for all of them."""
        if not self._installed:
            return
        check = self._check()
        for item in self._installed:
            yield step_of(item.pack.path.name, "import", item.entry, partial(check.require, item.pack.path))

    def _host(self) -> NodesHost:
        return nodes_host(self._facts, self._fetcher)

    def _install(self, node: CustomNode) -> int:
        pack = install_pack(node.pack, self._host(), folder=node.name)
        self._installed.append(_Installed(pack=pack, entry=node))
        return 0

    def _from_volume(self, path: Path) -> int:
        """Install what it needs; whether it imports ComfyUI's own log tells: a check would slow each cold start."""
        install_needs(path, "", self._host())
        return 0

    def _restore(self, wanted: str) -> int:
        volume = self._facts.volume
        folders = ((volume.path,) if volume else ()) + (self._facts.workspace,)
        location = str(find_snapshot(folders) or "") if wanted == AUTO else _under(self._facts.workspace, wanted)
        if not location:
            raise Skip("no *snapshot*.json there")
        say(f"    restoring {location}")
        restored = restore(read_snapshot(location), self._host())
        self._installed += [_Installed(pack=pack, entry=MUST) for pack in restored.packs]
        if restored.problems:
            raise ProvisioningError(f"Not restored from {location}: " + "; ".join(restored.problems))
        return 0

    def _pip(self, names: Sequence[str]) -> int:
        interpreter, stamps = self._facts.python(), Stamps(self._facts.workspace / ".provisioning" / "packs")
        key, stamp = digest(names, interpreter.identity), f"pip-{digest(names)[:8]}"
        if not stamps.fresh(stamp, key):
            interpreter.install(names, failure=f"pip could not install {', '.join(names)}.")
            stamps.mark(stamp, key)
        return 0

    def _check(self) -> ImportCheck:
        manifest, root = self._manifest, self._facts.comfyui()
        changes = (manifest.apt, manifest.pip, manifest.scripts)
        versions = [(item.pack.path.name, item.pack.version) for item in self._installed]
        return ImportCheck(
            root=root,
            workspace=self._facts.workspace,
            interpreter=self._facts.python(),
            device=self._facts.device,
            paths=[item.pack.path for item in self._installed],
            key=digest(versions, [str(part) for part in changes], comfyui_version(root)),
        )


def nodes_host(facts: HostFacts, fetcher: Fetcher) -> NodesHost:
    """Describe the ComfyUI that packs are installed for. Raises ProvisioningError when there is none."""
    return NodesHost(
        root=facts.comfyui(),
        workspace=facts.workspace,
        interpreter=facts.python(),
        registry_url=facts.registry_url,
        pins=fetcher.pins,
        fetcher=fetcher,
    )


def _apt(names: Sequence[str]) -> int:
    install_packages(names)
    return 0


def _together(packages: Iterable[Package]) -> Iterator[tuple[Entry, tuple[str, ...]]]:
    """Group what belongs into one command: pip sees conflicts only among what it is told at once."""

    def order(package: Package) -> tuple[bool, tuple[str, ...]]:
        return (package.optional, package.when)

    for _, group in groupby(sorted(packages, key=order), key=order):
        entries = tuple(group)
        yield entries[0], tuple(entry.name for entry in entries)


def _under(workspace: Path, location: str) -> str:
    """Take a relative path from the workspace."""
    return location if location.startswith(("http://", "https://")) else str(workspace / location)
