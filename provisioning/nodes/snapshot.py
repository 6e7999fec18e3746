"""Restores a snapshot of ComfyUI-Manager, and names what could not be restored.

JSON, or YAML with the same keys under ``custom_nodes``: ``comfyui`` (commit), ``git_custom_nodes`` {url: {hash,
disabled}}, ``cnr_custom_nodes`` {id: version}, ``file_custom_nodes`` [{filename, disabled}], ``pips`` {"name==version":
"" or name: url}. torch and CUDA's packages stay as this host has them, as the Manager does it. A pack that is here and
not in the snapshot stays. Restoring twice changes nothing.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from provisioning.comfyui.environment import LIMITS, wanted_packages
from provisioning.errors import ProvisioningError, cause_of
from provisioning.git import FULL_HASH, checkout, has_local_changes, head, origin
from provisioning.manifest import read_location
from provisioning.nodes.install import DISABLED, NodesHost, Pack, install_pack
from provisioning.nodes.source import parse_source
from provisioning.steps import digest, say

OF_THE_HOST = re.compile(r"(torch|torchvision|torchaudio|triton|pytorch-triton)(==|$)|nvidia-|cuda-", re.IGNORECASE)
COMFYUI_GIT_URL = "https://github.com/comfyanonymous/ComfyUI"


class GitPack(BaseModel):
    """One pack that came by git."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    hash: str | None = None
    disabled: bool = False


class FilePack(BaseModel):
    """One pack that is a single file; a snapshot does not hold its text."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    filename: str = Field(pattern=r"^[^/\\\x00]+$")
    disabled: bool = False


class Snapshot(BaseModel):
    """A snapshot; keys that this version does not know are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    comfyui: str | None = None
    git_custom_nodes: dict[str, GitPack] = {}
    cnr_custom_nodes: dict[str, str] = {}
    file_custom_nodes: tuple[FilePack, ...] = ()
    pips: dict[str, str] = {}

    @field_validator("git_custom_nodes", "cnr_custom_nodes", "pips", mode="before")
    @classmethod
    def _nothing(cls, value: Any) -> Any:
        """Tools write an empty list, or null, for an empty table."""
        return value or {}


@dataclass(slots=True)
class Restored:
    """What came of it."""

    packs: list[Pack] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_snapshot(location: str) -> Snapshot:
    """Read a snapshot from a URL or a path. Raises ProvisioningError."""
    try:
        content = yaml.safe_load(read_location(location)) or {}
        wrapped = content.get("custom_nodes") if isinstance(content, dict) else None
        return Snapshot.model_validate({**content, **wrapped} if isinstance(wrapped, Mapping) else content)
    except yaml.YAMLError as error:
        raise ProvisioningError(f"{location} is neither JSON nor YAML: {error}", remedy="Save it again.") from None
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ProvisioningError(f"{location} is no snapshot: {lines}", remedy="Save it again.") from None


def find_snapshot(folders: tuple[Path, ...]) -> Path | None:
    """Give the one ``*snapshot*.json`` of the first folder that has any. Raises ProvisioningError for several."""
    for folder in folders:
        found = sorted(path for path in folder.glob("*snapshot*.json") if path.is_file()) if folder.is_dir() else []
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise ProvisioningError(f"{folder} holds several snapshots: {names}.", remedy="Name one of them.")
        if found:
            return found[0]
    return None


def restore(snapshot: Snapshot, host: NodesHost) -> Restored:
    """Restore all that can be; what could not is in ``problems``, each with its cause."""
    restored = Restored()
    for title, act in _parts(snapshot, host, restored):
        try:
            act()
        except (ProvisioningError, OSError, ValueError) as error:
            restored.problems.append(f"{title}: {cause_of(error)}")
    _tell_others(snapshot, host, restored)
    return restored


def _parts(snapshot: Snapshot, host: NodesHost, restored: Restored) -> Iterator[tuple[str, Callable[[], None]]]:
    if snapshot.comfyui:
        yield f"ComfyUI {snapshot.comfyui}", partial(_comfyui, snapshot.comfyui, host)
    for url, pack in snapshot.git_custom_nodes.items():
        yield url, partial(_pack, url, pack.hash, pack.disabled, host, restored)
    for name, version in snapshot.cnr_custom_nodes.items():
        yield name, partial(_pack, name, version, False, host, restored)
    for file in snapshot.file_custom_nodes:
        yield file.filename, partial(_file, file, host)
    yield "pips", partial(_pips, snapshot.pips, host)


def _comfyui(commit: str, host: NodesHost) -> None:
    here = head(host.root)
    if here is None:
        raise ProvisioningError(f"{host.root} is no git checkout.", remedy="Set COMFYUI_REF, where git reaches it.")
    if here == commit or (not FULL_HASH.fullmatch(commit) and here.startswith(commit)):
        return
    if has_local_changes(host.root):
        raise ProvisioningError(f"{host.root} has local changes.", remedy="Save them elsewhere.")
    say(f"    ComfyUI at {commit}")
    url = origin(host.root) or COMFYUI_GIT_URL
    checkout(
        host.root, url=url, ref=commit, failure=f"git has no such commit at {url}.", remedy="Correct the snapshot."
    )
    wanted = wanted_packages((host.root / "requirements.txt").read_text())
    if wanted:
        host.interpreter.install((*wanted, *LIMITS), failure="The packages of this ComfyUI could not be installed.")


def _pack(source: str, ref: str | None, disabled: bool, host: NodesHost, restored: Restored) -> None:
    parsed = parse_source(source, ref=ref if ref and ref not in ("nightly", "unknown") else None)
    if disabled:
        path = host.folder / parsed.name
        if path.exists():
            path.rename(path.with_name(f"{path.name}{DISABLED}"))
        return
    restored.packs.append(install_pack(parsed, host))


def _file(file: FilePack, host: NodesHost) -> None:
    name = file.filename.removesuffix(DISABLED)
    on, off = host.folder / name, host.folder / f"{name}{DISABLED}"
    wanted, other = (off, on) if file.disabled else (on, off)
    if other.is_file():
        other.rename(wanted)
    if not wanted.is_file() and not file.disabled:
        raise ProvisioningError("A snapshot does not hold this file, and it is not here.", remedy=f"Copy it to {on}.")


def _pips(pips: Mapping[str, str], host: NodesHost) -> None:
    kept = [name for name in pips if OF_THE_HOST.match(name)]
    wanted = [url or name for name, url in pips.items() if name not in kept]
    if kept:
        say(f"    left as this host has them: {', '.join(kept)}")
    key = digest(sorted(wanted), host.interpreter.identity)
    if not wanted or host.stamps.fresh("snapshot-pips", key):
        return
    say(f"    {len(wanted)} packages")
    try:
        host.interpreter.install(wanted, failure="pip could not install them together.")
    except ProvisioningError:
        _one_by_one(wanted, host)
    host.stamps.mark("snapshot-pips", key)


def _one_by_one(wanted: list[str], host: NodesHost) -> None:
    failed = []
    for item in wanted:
        try:
            host.interpreter.install([item], failure=f"pip could not install {item}.")
        except ProvisioningError as error:
            failed.append(f"{item} ({error.cause.splitlines()[-1]})")
    if failed:
        raise ProvisioningError(f"not installed: {'; '.join(failed)}", remedy="Correct the snapshot.")


def _tell_others(snapshot: Snapshot, host: NodesHost, restored: Restored) -> None:
    if not host.folder.is_dir():
        return
    known = {pack.path.name for pack in restored.packs} | {file.filename for file in snapshot.file_custom_nodes}
    others = [path.name for path in sorted(host.folder.iterdir()) if path.is_dir() and path.name not in known]
    others = [name for name in others if not name.endswith(DISABLED) and name != "__pycache__"]
    if others:
        say(f"    also there, and not in the snapshot: {', '.join(others)}")
