"""File names inside a graph: what loader nodes read and what output nodes are asked to write.

ComfyUI joins a loader's file name to its input folder without a look, so ``../x`` and ``/x`` read any picture of the
host. URLs and files as base64 are let through: they are brought in and replaced before the graph is posted.
"""

import re
from collections.abc import Mapping
from typing import Any

from lib.errors import UnsafeInput

LOADERS: Mapping[str, tuple[str, ...]] = {
    "LoadImage": ("image",),
    "LoadImageMask": ("image",),
    "LoadImageOutput": ("image",),
    "LoadAudio": ("audio",),
    "LoadVideo": ("file", "video"),
    "Load3D": ("model_file", "image"),
    "Load3DAnimation": ("model_file", "image"),
}
"""Loader nodes of ComfyUI's core and those of their inputs that are file names."""
UNCHECKED: Mapping[str, tuple[str, ...]] = {
    "SaveImageDataSetToFolder": ("folder_name", "filename_prefix"),
    "SaveImageTextDataSetToFolder": ("folder_name", "filename_prefix"),
    "SaveTrainingDataset": ("folder_name",),
    "LoadTrainingDataset": ("folder_name",),
}
"""Nodes of ComfyUI's core that write or read below its output folder without a look at where the name leads; what
another node makes of it nobody can check beforehand."""
PREFIX = "filename_prefix"
MAX_PREFIX_BYTES = 200
MAX_PATH_BYTES = 1024
_CONTENT = re.compile(r"(?i:https?://[^/\s]|s3://|upload://|data:)|[A-Za-z0-9+/_-]{64}")
"""A URL, or what may be base64 (of a JPEG it begins with a slash); if it is none, it is checked as a name later."""
_DRIVE = re.compile(r"[A-Za-z]:")


def check_files(workflow: Mapping[str, Any], loaders: Mapping[str, tuple[str, ...]] = LOADERS) -> None:
    """Check all file names of a well-formed graph; ``loaders`` is ``{class_type: names of file inputs}``.

    Raises: UnsafeInput (``details``: ``node_id``, ``field``, ``expected``).
    """
    for node_id, node in workflow.items():
        inputs = node["inputs"]
        for name in loaders.get(node["class_type"], ()):
            value = _plain(inputs.get(name))
            if isinstance(value, str) and not _CONTENT.match(value) and (problem := path_problem(value)):
                raise _unsafe(node_id, name, problem, "a file of ComfyUI's input folder, or an http(s) URL")
        if isinstance(prefix := _plain(inputs.get(PREFIX)), str) and (problem := _prefix_problem(prefix)):
            raise _unsafe(node_id, PREFIX, problem, f"a relative path, its parts of at most {MAX_PREFIX_BYTES} bytes")
        for name in UNCHECKED.get(node["class_type"], ()):
            value = _plain(inputs.get(name, ""))
            problem = path_problem(value) if isinstance(value, str) else "is not written out"
            if problem:
                raise _unsafe(node_id, name, problem, "a relative path below ComfyUI's output folder")


def path_problem(name: str) -> str | None:
    """Say why a relative file name can't be trusted; ``None`` = it stays below its folder.

    Names may be written as on Windows; they are made ours before ComfyUI sees them."""
    name = name.replace("\\", "/")
    if "\0" in name:
        return "holds a NUL character"
    if name.startswith("/") or _DRIVE.match(name):
        return "is an absolute path"
    if ".." in name.split("/"):
        return "leaves its folder by '..'"
    return None


def _plain(value: object) -> object:
    """What ComfyUI makes of a value that is wrapped."""
    return value.get("__value__") if isinstance(value, Mapping) and "__value__" in value else value


def _prefix_problem(prefix: str) -> str | None:
    parts = prefix.replace("\\", "/").split("/")
    if len(prefix.encode(errors="replace")) > MAX_PATH_BYTES:
        return "is too long"
    if max(len(part.encode(errors="replace")) for part in parts) > MAX_PREFIX_BYTES:
        return "is too long"
    return path_problem(prefix)


def _unsafe(node_id: str, name: str, problem: str, expected: str) -> UnsafeInput:
    return UnsafeInput(
        f"Input {name!r} of node {node_id!r} {problem}; expected {expected}",
        details={"node_id": node_id, "field": name, "expected": expected},
    )
