"""Brings one node pack into ``custom_nodes`` and what it needs into ComfyUI's interpreter; done work is not repeated.

A pack without a ref is pinned to what its first installation found (``provisioning-lock.json``, section ``packs``).
Code is fetched beside ``custom_nodes`` and moved in when it is whole: ComfyUI would load half a pack.
"""

import shutil
import threading
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from provisioning.errors import ProvisioningError, without_secrets
from provisioning.fetch import Fetcher
from provisioning.git import FULL_HASH, checkout, has_local_changes, head, origin, same_repository
from provisioning.interpreter import Interpreter
from provisioning.nodes.registry import find_release, unpack
from provisioning.nodes.source import PackSource
from provisioning.pins import Download, Pins
from provisioning.steps import Stamps, digest, run_command, say

DISABLED = ".disabled"
SCRIPT_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesHost:
    """The ComfyUI that packs are installed for, and what the installation needs."""

    root: Path
    workspace: Path
    interpreter: Interpreter
    registry_url: str
    pins: Pins
    fetcher: Fetcher
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def folder(self) -> Path:
        return self.root / "custom_nodes"

    @property
    def stamps(self) -> Stamps:
        return Stamps(self.workspace / ".provisioning" / "packs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """A pack as it lies there. ``version``: a commit, a registry's version, or empty where nobody knows."""

    path: Path
    version: str


def install_pack(source: PackSource, host: NodesHost, *, folder: str | None = None) -> Pack:
    """Have the pack, its packages and its own installation done. Raises ProvisioningError."""
    host.folder.mkdir(parents=True, exist_ok=True)
    target = _enabled(host.folder, folder or source.name)
    pins = host.pins
    key = without_secrets(source.key)  # the lock file is for everybody
    wanted = pins.pack(key) or source.ref
    if source.url is not None:
        version = _from_git(source, source.url, wanted, target, host)
    else:
        version = _from_registry(source, wanted, target, host)
    if version:
        pins.pin_pack(key, version)
    install_needs(target, version, host)
    return Pack(path=target, version=version)


def _enabled(nodes: Path, name: str) -> Path:
    """Find the pack's folder, in whatever letter case; one that is switched off is switched on."""
    known = {path.name.lower(): path for path in nodes.iterdir() if path.is_dir()}
    found = known.get(name.lower())
    off = known.get(f"{name.lower()}{DISABLED}")
    if found is None and off is not None:
        found = off.with_name(off.name[: -len(DISABLED)])
        off.rename(found)
    return found or nodes / name


def _from_git(source: PackSource, url: str, wanted: str | None, target: Path, host: NodesHost) -> str:
    here = head(target)
    if here is None and target.exists():
        if wanted is None:
            return ""
        raise ProvisioningError(
            f"{target} is no git checkout, so it can't be brought to {wanted}.", remedy="Remove it, then start again."
        )
    if here is not None and _is_at(here, wanted, target, url):
        return here
    say(f"    {source.title}: {without_secrets(url)}")
    failure = f"git could not bring the node pack {source.title} from {url}."
    remedy = "Check the address and the ref, then start again."
    if here is not None:
        return checkout(target, url=url, ref=wanted, failure=failure, remedy=remedy)
    scratch = host.workspace / ".provisioning" / "new-packs" / target.name
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        commit = checkout(scratch, url=url, ref=wanted, failure=failure, remedy=remedy)
        shutil.move(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return commit


def _is_at(here: str, wanted: str | None, target: Path, url: str) -> bool:
    """Tell whether a checkout will do. Raises ProvisioningError where making it do would lose a person's work."""
    known = origin(target)
    if known is not None and not same_repository(known, url):
        raise ProvisioningError(f"{target} is a checkout of {known}, not of {url}.", remedy="Remove it, or rename it.")
    if wanted is None or (FULL_HASH.fullmatch(wanted) and here == wanted):
        return True
    if has_local_changes(target):
        raise ProvisioningError(
            f"{target} has local changes and is not at {wanted}.", remedy="Save them elsewhere, then start again."
        )
    return False


def _from_registry(source: PackSource, wanted: str | None, target: Path, host: NodesHost) -> str:
    stamp = f"{target.name}.version"
    if target.exists():
        if wanted is None:
            return ""  # somebody else's, or of a version that nobody noted: it will do
        if host.stamps.fresh(stamp, wanted) or project_version(target) == wanted:
            return wanted
        if head(target) is not None:
            raise ProvisioningError(f"{target} is a git checkout, not {source.name}@{wanted}.", remedy="Remove it.")
    release = find_release(host.registry_url, source.name, wanted)
    say(f"    {source.name}@{release.version}: {host.registry_url}")
    scratch = host.workspace / ".provisioning" / "new-packs" / target.name
    archive = scratch.with_name(f"{target.name}-{digest(release.url)[:8]}.zip")
    host.fetcher.fetch(Download(url=release.url, target=archive))
    unpack(archive, scratch)
    archive.unlink()
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(scratch, target)
    host.stamps.mark(stamp, release.version)
    return release.version


def install_needs(path: Path, version: str, host: NodesHost) -> None:
    """Install a pack's requirements and run its ``install.py``, once for its version and this interpreter."""
    wanted = requirements(path)
    key = digest(version, wanted, host.interpreter.identity)
    with host.lock:
        if host.stamps.fresh(path.name, key):
            return
        if wanted:
            say(f"    {path.name}: packages")
            host.interpreter.install(
                wanted if isinstance(wanted, tuple) else ("-r", path / "requirements.txt"),
                failure=f"The packages of the node pack {path.name} could not be installed.",
            )
        if (path / "install.py").is_file():
            say(f"    {path.name}: install.py")
            _run_installer(path, host)
        host.stamps.mark(path.name, key)


def requirements(path: Path) -> str | tuple[str, ...]:
    """Give the text of ``requirements.txt``, else the dependencies of ``pyproject.toml``; empty for none."""
    listed = path / "requirements.txt"
    if listed.is_file():
        text = listed.read_text(errors="replace")
        return text if any(line.split("#", 1)[0].strip() for line in text.splitlines()) else ""
    declared = _project(path).get("dependencies")
    return tuple(map(str, declared)) if isinstance(declared, list) else ()


def project_version(path: Path) -> str | None:
    """Give the version that a pack says of itself."""
    version = _project(path).get("version")
    return str(version) if version else None


def _project(path: Path) -> dict[str, object]:
    try:
        project = tomllib.loads((path / "pyproject.toml").read_text(errors="replace")).get("project", {})
    except (OSError, tomllib.TOMLDecodeError):
        return {}
    return project if isinstance(project, dict) else {}


def _run_installer(path: Path, host: NodesHost) -> None:
    host.interpreter.hold_versions()
    run_command(
        [host.interpreter.python, "install.py"],
        failure=f"install.py of the node pack {path.name} failed.",
        remedy="See its lines above; make the entry optional to start without it.",
        env={**host.interpreter.environment(), **host.interpreter.env, "COMFYUI_PATH": str(host.root)},
        cwd=path,
        timeout_s=SCRIPT_TIMEOUT_S,
    )
