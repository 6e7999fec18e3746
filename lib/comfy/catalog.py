"""What this ComfyUI can run: ``GET /object_info`` reduced to what we ask of it, small in memory; pure."""

import difflib
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

_UPLOAD_FLAGS = ("image_upload", "audio_upload", "video_upload", "file_upload", "animated_image_upload")
_PREFIX = "filename_prefix"

Options = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeClass:
    """One node class. ``uploads`` are inputs that name a file in ComfyUI's input folder; ``options`` are the choices
    of its list inputs, files of a model folder among them."""

    is_output: bool = False
    has_prefix: bool = False
    uploads: Options = ()
    options: Mapping[str, Options] | None = None


class Catalog:
    """The node classes that one ComfyUI knows."""

    __slots__ = ("_classes",)

    def __init__(self, classes: Mapping[str, NodeClass] | None = None) -> None:
        self._classes = dict(classes or {})

    def __len__(self) -> int:
        return len(self._classes)

    def names(self) -> Options:
        return tuple(self._classes)

    def known(self, class_type: str) -> bool:
        return class_type in self._classes

    def is_output(self, class_type: str) -> bool:
        """Whether ComfyUI runs nodes of this class for their own sake."""
        return class_type in self._classes and self._classes[class_type].is_output

    def has_prefix(self, class_type: str) -> bool:
        """Whether the class declares ``filename_prefix``."""
        return class_type in self._classes and self._classes[class_type].has_prefix

    def upload_inputs(self, class_type: str) -> Options:
        """Inputs that take the name of an uploaded file."""
        return self._classes[class_type].uploads if class_type in self._classes else ()

    def options(self, class_type: str, name: str) -> Options:
        """Choices of a list input, as they were when ComfyUI was (re)connected; empty = not a list."""
        node = self._classes.get(class_type)
        return (node.options or {}).get(name, ()) if node else ()


def nearest(name: str, names: Iterable[str]) -> Options:
    """Return up to three names that look like ``name``, best first, whatever their letter case and extension."""
    alike: dict[str, str] = {}
    for candidate in names:
        alike.setdefault(_plain(candidate), candidate)
    return tuple(alike[key] for key in difflib.get_close_matches(_plain(name), alike, n=3))


def _plain(name: str) -> str:
    return os.path.splitext(name.lower())[0]  # noqa: PTH122 - a name, not a path of ours


def read_catalog(body: bytes) -> Catalog:
    """Reduce the body of ``/object_info``. Takes milliseconds to a second: call it in a thread.

    Raises: ValueError where the body is not that object."""
    described = orjson.loads(body)
    if not isinstance(described, dict):
        raise ValueError("object_info is not an object")
    shared: dict[Options, Options] = {}
    return Catalog({sys.intern(name): read_class(facts, shared) for name, facts in described.items()})


def read_class(facts: Any, shared: dict[Options, Options] | None = None) -> NodeClass:
    """Reduce one class's entry. Equal option lists are kept once, in ``shared``."""
    if not isinstance(facts, dict):
        return NodeClass()
    shared = shared if shared is not None else {}
    inputs = _inputs(facts.get("input"))
    options = {}
    for name, declared in inputs.items():
        choices = _choices(declared)
        if choices:
            options[sys.intern(name)] = shared.setdefault(choices, choices)
    return NodeClass(
        is_output=facts.get("output_node") is True,
        has_prefix=_PREFIX in inputs,
        uploads=tuple(name for name, declared in inputs.items() if _is_upload(declared)),
        options=options or None,
    )


def _inputs(groups: Any) -> dict[str, list[Any]]:
    if not isinstance(groups, dict):
        return {}
    return {
        name: declared
        for group in ("required", "optional")
        for name, declared in (groups.get(group) or {}).items()
        if isinstance(declared, list) and declared
    }


def _config(declared: list[Any]) -> dict[str, Any]:
    return declared[1] if len(declared) > 1 and isinstance(declared[1], dict) else {}


def _choices(declared: list[Any]) -> Options:
    listed = _config(declared).get("options") if declared[0] == "COMBO" else declared[0]
    if not isinstance(listed, list):
        return ()
    return tuple(sys.intern(choice) for choice in listed if isinstance(choice, str))


def _is_upload(declared: list[Any]) -> bool:
    config = _config(declared)
    return any(config.get(flag) for flag in _UPLOAD_FLAGS)
