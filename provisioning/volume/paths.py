"""The file that makes ComfyUI look at a network volume: each kind of models in ``<volume>/models/<folder>``.

In the form of ComfyUI's ``extra_model_paths.yaml``. Folders that are missing now are named too: a volume is filled
later, and by others.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from provisioning.errors import ProvisioningError
from provisioning.volume.folders import ModelKind

FILE_NAME = "volume_model_paths.yaml"
SECTION = "pyworker_volume"
OWN_NAMES = ("extra_model_paths.yaml", "extra_model_paths.yml")
PACK_KINDS = {"ultralytics": {"ultralytics_bbox": "ultralytics/bbox", "ultralytics_segm": "ultralytics/segm"}}
"""Kinds that node packs make by themselves, by the folder that they belong to."""


def volume_paths(volume: Path, kinds: Iterable[ModelKind]) -> str:
    """Build the file's text; node packs of the volume are in it where it has ``custom_nodes``."""
    table = {kind.name: [f"models/{folder}" for folder in kind.folders] for kind in kinds}
    for folder in other_folders(volume, kinds):
        table.setdefault(folder, [f"models/{folder}"])
        for name, place in PACK_KINDS.get(folder, {}).items():
            table.setdefault(name, [f"models/{place}"])
    if (volume / "custom_nodes").is_dir():  # ComfyUI does not start when this one is missing
        table["custom_nodes"] = ["custom_nodes"]
    section = {"base_path": str(volume)} | {name: "\n".join(places) for name, places in table.items()}
    return "# Written by comfyui-pyworker's provisioning, at every start.\n" + yaml.safe_dump(
        {SECTION: section}, sort_keys=False
    )


def other_folders(volume: Path, kinds: Iterable[ModelKind]) -> tuple[str, ...]:
    """Name the folders of ``<volume>/models`` that ComfyUI does not know; node packs do."""
    models = volume / "models"
    known = {folder.split("/")[0] for kind in kinds for folder in kind.folders}
    if not models.is_dir():
        return ()
    names = sorted(path.name for path in models.iterdir() if path.is_dir() and not path.name.startswith("."))
    return tuple(name for name in names if name not in known)


def own_paths(volume: Path) -> Path | None:
    """Find the volume's own file of paths."""
    return next((volume / name for name in OWN_NAMES if (volume / name).is_file()), None)


def check_own_paths(path: Path) -> None:
    """Raise ProvisioningError for a file that ComfyUI would not start with."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ProvisioningError(f"{path} is not YAML: {error}", remedy="Correct it, then start again.") from None
    if not isinstance(content, Mapping):
        raise ProvisioningError(f"{path} holds no sections.", remedy="See ComfyUI's extra_model_paths.yaml.example.")
    for name, section in content.items():
        _check_section(path, name, section)


def _check_section(path: Path, name: object, section: Any) -> None:
    remedy = "See ComfyUI's extra_model_paths.yaml.example."
    if section is None:
        return
    if not isinstance(section, Mapping):
        raise ProvisioningError(f"{path}: section {name} is no table.", remedy=remedy)
    for kind, places in section.items():
        if kind != "is_default" and not isinstance(places, str):
            raise ProvisioningError(f"{path}: {name}.{kind} is no text.", remedy=remedy)
    nodes = section.get("custom_nodes")
    base = section.get("base_path", ".")
    for place in nodes.splitlines() if nodes else ():
        if place.strip() and not (path.parent / str(base) / place).is_dir():
            raise ProvisioningError(f"{path}: {name}.custom_nodes: {place} is no folder.", remedy="Correct it.")
