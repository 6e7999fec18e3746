"""Paths that were written on another system: ``SDXL\\model.safetensors`` finds its file here, and the other way round.

Only in fields that are paths: those that ComfyUI offers a list for, where the list decides, and, where nothing is known
of the node, fields that are named like a path and hold a file's name. A text is never touched.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lib.comfy.fields import Path
from lib.jobs.model import Workflow
from lib.workflow.files import PREFIX
from lib.workflow.graph import is_link

Options = Callable[[str, str], Sequence[str]]
"""The choices of a class's list input; empty where it is none, or the class is not known."""


class Choices:
    """A list as it is looked through for each of perhaps many values."""

    def __init__(self, listed: Sequence[str]) -> None:
        self.known = frozenset(listed)
        self.back = any("\\" in choice for choice in listed)


NO_CHOICES = Choices(())
_FOLDER_FIELDS = frozenset({"subfolder", "directory", "folder", PREFIX})
_FIELD = re.compile(
    r"(?:^|_)(?:name|path|file|filename|lora|model|ckpt|vae|unet|clip|checkpoint|controlnet|embedding|hypernetwork"
    r"|image|mask|video|audio|mesh)s?_?\d*\Z",
    re.IGNORECASE,
)
_FILE = re.compile(
    r"\.(?:safetensors|sft|ckpt|pth?|bin|onnx|gguf|ya?ml|json|txt|latent|png|jpe?g|webp|gif|bmp|tiff?|avif|mp4|webm|mkv"
    r"|mov|avi|wav|mp3|flac|ogg|opus|m4a|glb|gltf|obj|fbx|stl|ply)\Z",
    re.IGNORECASE,
)
_BACK = re.compile(r"\\+")
_ELSEWHERE = re.compile(r"\\\\|[A-Za-z]:|[A-Za-z][A-Za-z0-9+.-]*://")
"""A share, a drive, or a URL: nothing that another separator would bring here."""
_MAX_CHARS = 4096
MOST_TOLD = 10
SHOWN_CHARS = 60


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
            for path, text in _texts(value, (node_id, "inputs", name)):
                choices = choices_of(class_type, name) if not isinstance(value, dict) else NO_CHOICES
                fixed = _fixed(_key(path), text, choices)
                if fixed is not None:
                    yield path, fixed


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """What may be a path: a text, and those in lists and in rows of a node pack, ``{"on": true, "lora": "..."}``."""
    if type(value) is str:
        if ("\\" in value or "/" in value) and len(value) <= _MAX_CHARS:
            yield path, value
    elif type(value) is dict:
        for key, item in value.items():
            yield from _texts(item, (*path, key))
    elif type(value) is list and not is_link(value):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))


def _key(path: Path) -> str:
    """The name that a text goes by; items of a list have their list's."""
    return next((part for part in reversed(path) if isinstance(part, str)), "")


def _fixed(name: str, value: str, choices: Choices) -> str | None:
    """The value as it should be; ``None`` = as it is."""
    if value in choices.known:
        return None
    ours = _BACK.sub("/", value)
    for candidate in (ours, ours.replace("/", "\\")) if choices.known else ():
        if candidate in choices.known:
            return candidate
    if ours == value or "\n" in value or _ELSEWHERE.match(value):
        return None
    if choices.known:  # a file that came after the list was read; the list shows which way its system writes paths
        return None if choices.back else ours
    is_path = name in _FOLDER_FIELDS or (_FIELD.search(name) is not None and _FILE.search(value) is not None)
    return ours if is_path else None


def told(changes: Mapping[Path, str]) -> tuple[str, ...]:
    """One warning of all paths that are written in another way now."""
    ours = [_place(path) for path, fixed in changes.items() if "\\" not in fixed]
    theirs = [_place(path) for path, fixed in changes.items() if "\\" in fixed]
    texts = [_text("\\", "/", ours)] * bool(ours) + [_text("/", "\\", theirs)] * bool(theirs)
    return ("; ".join(texts),) if texts else ()


def _text(written: str, read: str, places: Sequence[str]) -> str:
    more = len(places) - MOST_TOLD
    shown = ", ".join(places[:MOST_TOLD]) + (f" and {more} more" if more > 0 else "")
    return f'paths written with "{written}" were read as written with "{read}": {shown}'


def _place(path: Path) -> str:
    node_id, _, *within = path
    return f"node {str(node_id)[:SHOWN_CHARS]} input {'.'.join(map(str, within))[:SHOWN_CHARS]}"
