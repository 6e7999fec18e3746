"""The machine-readable outcome of the installation, ``<workspace>/comfyui.json``; ``lib.comfy.process`` reads it.

Keys: ``python`` (interpreter), ``root`` (folder with ``main.py``), ``env`` (variables to add when starting it),
``version`` (ComfyUI's), ``source`` (``git``, ``wheel``, ``existing``), ``device`` (``cpu``, ``cuda``), ``key`` (hash of
the settings that it was made for), ``extra_model_paths`` (files that it gets as ``--extra-model-paths-config``).
"""

from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from provisioning.steps import write_text_atomically

FILE_NAME = "comfyui.json"


class Source(StrEnum):
    """How ComfyUI came to be here."""

    GIT = "git"
    WHEEL = "wheel"
    EXISTING = "existing"


class Device(StrEnum):
    """What torch runs on."""

    CPU = "cpu"
    CUDA = "cuda"


class InstallRecord(BaseModel):
    """One usable ComfyUI."""

    model_config = ConfigDict(frozen=True)

    python: Path
    root: Path
    env: dict[str, str]
    version: str
    source: Source
    device: Device
    key: str
    extra_model_paths: tuple[Path, ...] = ()


def read_record(workspace: Path) -> InstallRecord | None:
    """Give the record, or None when there is none, it is damaged, or what it names has gone."""
    try:
        record = InstallRecord.model_validate_json((workspace / FILE_NAME).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return record if record.python.exists() and (record.root / "main.py").is_file() else None


def write_record(workspace: Path, record: InstallRecord) -> None:
    """Write the record whole."""
    write_text_atomically(workspace / FILE_NAME, record.model_dump_json(indent=2) + "\n")
