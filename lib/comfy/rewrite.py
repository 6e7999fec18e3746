"""What we change in a graph before it is posted, and how to undo it in what comes back; pure.

Each job writes into a folder of its own and each output node gets a constant that it ignores: both are part of
ComfyUI's cache key, so an output node always runs and never answers with another job's file or metadata, while what
comes before it stays cached. Nodes that no output needs are dropped: some of them kill ComfyUI's executor.
"""

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lib.comfy.catalog import Catalog
from lib.errors import InvalidWorkflow, UnsafeInput
from lib.jobs.model import Workflow

PREFIX = "filename_prefix"
NONCE = "_nonce"
MAX_NAME_BYTES = 200
"""Of a prefix's last part; ComfyUI adds a counter and an extension, and 255 is the limit of file systems."""
MAX_FOLDER_BYTES = 255

Titles = Mapping[str, Mapping[str, Any]]
"""Inputs of nodes, by title and by class."""
_TOKEN = re.compile(r"%([^%]+)%")
_DATE_PART = re.compile(r"d{1,2}|M{1,2}|h{1,2}|m{1,2}|s{1,2}|yyyy|yyy|yy")
_UNFIT = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A graph to post. ``wanted`` are the ids of its output nodes, in the caller's order."""

    graph: Workflow
    wanted: tuple[str, ...]
    folder: str


def plan(graph: Workflow, catalog: Catalog, *, folder: str, nonce: str, now: datetime) -> Plan:
    """Prune and rewrite ``graph`` (left as it is); outputs go to ``folder``, relative to ComfyUI's own.

    Raises: InvalidWorkflow (broken links, cycles, names that are too long), UnsafeInput (names that lead out).
    """
    wanted = tuple(node_id for node_id, node in graph.items() if catalog.is_output(_class(node_id, node)))
    unknown = tuple(node_id for node_id, node in graph.items() if not catalog.known(node["class_type"]))
    kept = needed(graph, wanted + unknown if wanted else tuple(graph))
    posted = {node_id: node for node_id, node in graph.items() if node_id in kept}
    titles = titles_of(graph) if wanted else {}
    for node_id in wanted:
        posted[node_id] = _rewritten(graph[node_id], node_id, catalog, titles, folder=folder, nonce=nonce, now=now)
    return Plan(graph=posted, wanted=wanted, folder=folder)


def _class(node_id: object, node: object) -> str:
    if isinstance(node_id, str) and isinstance(node, dict) and isinstance(node.get("inputs"), dict):
        class_type = node.get("class_type")
        if isinstance(class_type, str):
            return class_type
    raise _invalid(str(node_id), "a node must be an object with a class_type and an inputs object")


def is_link(value: object) -> bool:
    """Whether ComfyUI takes an input's value for ``[node id, output index]``."""
    return (
        isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int | float)
    )


def needed(graph: Workflow, roots: tuple[str, ...]) -> set[str]:
    """Return what ``roots`` need, themselves included: up the links, depth first so that a cycle is seen."""
    done: set[str] = set()
    open_: set[str] = set()
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        node_id, leaving = stack.pop()
        if leaving:
            open_.discard(node_id)
            done.add(node_id)
        elif node_id in open_:
            raise _invalid(node_id, "the workflow's links form a loop through this node")
        elif node_id not in done:
            open_.add(node_id)
            stack.append((node_id, True))
            stack.extend((source, False) for source in _sources(graph, node_id) if source not in done)
    return done


def _sources(graph: Workflow, node_id: str) -> list[str]:
    sources = []
    for name, value in graph[node_id]["inputs"].items():
        if is_link(value):
            if value[0] not in graph:
                raise _invalid(node_id, f"it links to node {value[0]!r}, which is not in the workflow", field=name)
            sources.append(value[0])
    return sources


def titles_of(graph: Workflow) -> Titles:
    """Find nodes as prefixes name them; of several of one title, or class, the first counts."""
    titles: dict[str, Mapping[str, Any]] = {}
    for node in graph.values():
        for title in ((node.get("_meta") or {}).get("title"), node["class_type"]):
            if isinstance(title, str):
                titles.setdefault(title, node["inputs"])
    return titles


def _rewritten(
    node: Mapping[str, Any], node_id: str, catalog: Catalog, titles: Titles, *, folder: str, nonce: str, now: datetime
) -> dict[str, Any]:
    inputs = dict(node["inputs"])
    prefix = inputs.get(PREFIX)
    if isinstance(prefix, str) and catalog.has_prefix(node["class_type"]):
        inputs[PREFIX] = f"{folder}/{_fit(resolve_tokens(prefix, titles, now), node_id)}"
    inputs[NONCE] = f"{nonce}/{node_id}"
    return {**node, "inputs": inputs}


def _fit(prefix: str, node_id: str) -> str:
    """Check a prefix as ComfyUI would join it; an empty one has no name that could be kept inside a folder."""
    parts = prefix.replace("\\", "/").split("/")
    if "\0" in prefix:
        raise _unsafe(node_id, "it contains a NUL character")
    if prefix.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:[/\\]", prefix):
        raise _unsafe(node_id, "it must stay inside the output folder")
    name = parts[-1]
    if len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        raise _invalid(node_id, f"the file name is longer than {MAX_NAME_BYTES} bytes", field=PREFIX)
    if any(len(part.encode("utf-8", "replace")) > MAX_FOLDER_BYTES for part in parts):
        raise _invalid(node_id, f"a folder name is longer than {MAX_FOLDER_BYTES} bytes", field=PREFIX)
    return prefix if posixpath.normpath(prefix) != "." else "ComfyUI"


def resolve_tokens(prefix: str, titles: Titles, now: datetime) -> str:
    """Fill ``%date:yyyy-MM-dd%`` and ``%Node.widget%``, which only ComfyUI's web page knows; its server would write
    them out as they stand. Tokens of the server stay, unknown ones of these two forms go."""
    if "%" not in prefix:
        return prefix

    def fill(match: re.Match[str]) -> str:
        token = match[1]
        if token.startswith("date:"):
            return _DATE_PART.sub(lambda part: _date_part(part[0], now), token.removeprefix("date:"))
        title, dot, widget = token.partition(".")
        if not dot or not title or not widget or "." in widget:
            return match[0]
        return _UNFIT.sub("_", _widget(titles.get(title, {}), widget))

    return _TOKEN.sub(fill, prefix)


def _date_part(part: str, now: datetime) -> str:
    if part.startswith("y"):
        return str(now.year)[-2:] if part == "yy" else str(now.year)
    value = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}[part[0]]
    return str(value).zfill(len(part))


def _widget(inputs: Mapping[str, Any], widget: str) -> str:
    value = inputs.get(widget)
    return str(value)[: MAX_FOLDER_BYTES + 1] if isinstance(value, str | int | float) else ""  # more is refused anyway


@dataclass(frozen=True, slots=True, kw_only=True)
class Restorer:
    """Undoes the rewrite in what ComfyUI reports: the caller sees the names that the own prompt would have given.

    ``roots`` are local folders whose path must not be seen either.
    """

    folder: str
    roots: tuple[str, ...] = ()

    def subfolder(self, subfolder: str) -> str:
        """Take our folder off a subfolder, whatever the separator of ComfyUI's host."""
        parts, own = subfolder.replace("\\", "/").split("/"), self.folder.split("/")
        return "/".join(parts[len(own) :]) if parts[: len(own)] == own else subfolder

    def value(self, value: Any) -> Any:
        """Restore every string of a JSON value, dictionary by dictionary."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, dict):
            return {key: self._item(key, item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.value(item) for item in value]
        return value

    def _item(self, key: str, item: Any) -> Any:
        return self.subfolder(item) if key == "subfolder" and isinstance(item, str) else self.value(item)

    def _text(self, text: str) -> str:
        """Only a value that is a path as a whole: a caller's text may contain anything."""
        for root in self.roots:
            text = text.removeprefix(root + "/")
        return text.removeprefix(self.folder + "/").removeprefix(self.folder.replace("/", "\\") + "\\")


def _invalid(node_id: str, reason: str, *, field: str = "") -> InvalidWorkflow:
    where = f"node {node_id}" + (f", input {field}" if field else "")
    return InvalidWorkflow(f"{where}: {reason}", details={"node_id": node_id} | ({"field": field} if field else {}))


def _unsafe(node_id: str, reason: str) -> UnsafeInput:
    return UnsafeInput(
        f"node {node_id}, input {PREFIX}: {reason}",
        details={"node_id": node_id, "field": PREFIX, "expected": "a relative prefix without '..'"},
    )
