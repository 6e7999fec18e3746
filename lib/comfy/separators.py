"""Paths that were written on another system: ``SDXL\\model.safetensors`` finds its file here, and the other way round.

Only in fields that are paths: those that ComfyUI offers a list for, where the list decides, and, where nothing is known
of the node, fields that are named like a path and hold a file's name. A text is never touched.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lib.comfy.fields import Path
from lib.jobs.model import Workflow

Options = Callable[[str, str], Sequence[str]]
"""The choices of a class's list input; empty where it is none, or the class is not known."""


class Choices:
    """A list as it is looked through for each of perhaps many values."""

    def __init__(self, listed: Sequence[str]) -> None:
        self.known = frozenset(listed)
        self.back = any("\\" in choice for choice in listed)


NO_CHOICES = Choices(())
_FOLDER_FIELDS = frozenset({"subfolder", "directory", "folder"})
_FIELD = re.compile(
    r"(?:^|_)(?:name|path|file|filename|lora|model|ckpt|vae|unet|clip|checkpoint)_?\d*\Z", re.IGNORECASE
)
_FILE = re.compile(
    r"\.(?:safetensors|sft|ckpt|pth?|bin|onnx|gguf|ya?ml|json|txt|latent|png|jpe?g|webp|gif|bmp|tiff?|avif|mp4|webm|mkv"
    r"|mov|avi|wav|mp3|flac|ogg|opus|m4a|glb|gltf|obj|fbx|stl|ply)\Z",
    re.IGNORECASE,
)
_BACK = re.compile(r"\\+")
_MAX_CHARS = 4096


def repaired(graph: Workflow, options: Options) -> Iterator[tuple[Path, str]]:
    """Where a path has to be written in another way, and how."""
    seen: dict[tuple[str, str], Choices] = {}

    def choices_of(class_type: str, name: str) -> Choices:
        if not (listed := options(class_type, name)):
            return NO_CHOICES
        if (choices := seen.get((class_type, name))) is None:
            choices = seen[class_type, name] = Choices(listed)
        return choices

    for node_id, node in graph.items():
        inputs = node.get("inputs") if isinstance(node, dict) else None
        if not isinstance(inputs, dict) or not isinstance(class_type := node.get("class_type"), str):
            continue
        for name, value in inputs.items():
            if type(value) is str:
                if ("\\" in value or "/" in value) and len(value) <= _MAX_CHARS:
                    fixed = _fixed(name, value, choices_of(class_type, name))
                    if fixed is not None:
                        yield (node_id, "inputs", name), fixed
            elif type(value) is dict:  # a row of a node pack's list: {"on": true, "lora": "..."}
                yield from _inside(value, (node_id, "inputs", name))


def _inside(value: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, str]]:
    for key, item in value.items():
        if type(item) is str and "\\" in item and len(item) <= _MAX_CHARS:
            fixed = _fixed(key, item, NO_CHOICES)
            if fixed is not None:
                yield (*path, key), fixed


def _fixed(name: str, value: str, choices: Choices) -> str | None:
    """The value as it should be; ``None`` = as it is."""
    if value in choices.known:
        return None
    ours = _BACK.sub("/", value)
    for candidate in (ours, ours.replace("/", "\\")) if choices.known else ():
        if candidate in choices.known:
            return candidate
    if ours == value or "\n" in value:
        return None
    if choices.known:  # a file that came after the list was read; the list shows which way its system writes paths
        return None if choices.back else ours
    is_path = name in _FOLDER_FIELDS or (_FIELD.search(name) is not None and _FILE.search(value) is not None)
    return ours if is_path else None
