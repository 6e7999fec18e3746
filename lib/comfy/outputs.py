"""From ComfyUI's history entry to outputs: every node, every key, every item, whatever pack made it.

File work is one function for one thread (``inspect``); fetching over HTTP, where no folder is shared, is the engine's.
"""

import asyncio
import base64
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.comfy import media
from lib.comfy.ports import Folders
from lib.comfy.recall import without_mark
from lib.comfy.rewrite import Restorer
from lib.jobs.model import Output, OutputKind
from lib.jobs.requests import without_content

_TEXT_KEYS = frozenset({"text", "texts", "string", "strings", "tags", "value", "values"})
_TEMP = "temp/"
_FILE_KEYS = frozenset({"images", "gifs", "videos", "video", "audio", "files", "mesh", "3d", "model", "latents", "glb"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing that a node reported. ``text`` is set for values; the rest is a file by ComfyUI's own names.

    ``certain`` is false for a bare string that may be the path of a file or something else altogether.
    """

    node_id: str
    key: str
    filename: str = ""
    subfolder: str = ""
    folder_type: str = "output"
    text: str | None = None
    certain: bool = True
    bare: bool = False
    """It was told as a path, which a node may have from its caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Early:
    """Files that are looked at before the history names them. ``found`` holds if it names just these ``paths``."""

    paths: Mapping[Item, str | None]
    found: asyncio.Future[tuple[Output, ...]]


def listed(entry: Mapping[str, Any], *, order: Iterable[str], include_temp: bool) -> tuple[Item, ...]:
    """Read the ``outputs`` of a history entry in the order of the caller's nodes; a node that came by expansion
    stands under the node that it was expanded from."""
    rank = {node_id: index for index, node_id in enumerate(order)}
    items = [
        item
        for shown, reported in _reported(entry)
        for key, value in reported.items()
        for item in _items(shown, str(key), value)
    ]
    wanted = ("output", "temp") if include_temp else ("output",)
    kept = (item for item in items if item.folder_type in wanted)
    return tuple(sorted(kept, key=lambda item: rank.get(item.node_id, len(rank))))


def reporting(entry: Mapping[str, Any]) -> frozenset[str]:
    """Return the nodes that reported files; what such a node sent over the socket were previews of its work."""
    return frozenset(
        shown
        for shown, reported in _reported(entry)
        for key, value in reported.items()
        if any(item.text is None for item in _items(shown, str(key), value))
    )


def _reported(entry: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What each node reported, under the node that the caller knows."""
    meta, found = entry.get("meta"), entry.get("outputs")
    for node_id, reported in (found if isinstance(found, dict) else {}).items():
        facts = meta.get(node_id) if isinstance(meta, dict) else None
        shown = facts.get("display_node") if isinstance(facts, dict) else None
        if isinstance(reported, dict):
            yield str(shown or node_id), reported


def _items(node_id: str, key: str, value: Any) -> list[Item]:
    values = value if isinstance(value, list | tuple) else [value]
    return [item for entry in values if (item := _item(node_id, key, entry)) is not None]


def _item(node_id: str, key: str, value: Any) -> Item | None:
    if isinstance(value, str) and key in _TEXT_KEYS:
        return Item(node_id=node_id, key=key, text=value)
    if isinstance(value, str) and value and "\n" not in value and Path(value).suffix:
        return _bare(node_id, key, value)
    if not isinstance(value, dict):
        return None
    filename = value.get("filename")
    if not isinstance(filename, str) or not filename:
        return None
    subfolder, folder_type = value.get("subfolder"), value.get("type")
    return Item(
        node_id=node_id,
        key=key,
        filename=filename,
        subfolder=subfolder if isinstance(subfolder, str) else "",
        folder_type=folder_type if isinstance(folder_type, str) and folder_type else "output",
    )


def _bare(node_id: str, key: str, path: str) -> Item:
    """A path as it stands, as ``Preview3D`` reports its model under ``result``; it names the temp folder if it means
    that."""
    if path.startswith(_TEMP):
        name = path.removeprefix(_TEMP)
        return Item(node_id=node_id, key=key, filename=name, folder_type="temp", certain=key in _FILE_KEYS, bare=True)
    return Item(node_id=node_id, key=key, filename=path, certain=key in _FILE_KEYS, bare=True)


def located(item: Item, folders: Folders) -> str | None:
    """Return where the item's file should be; ``None`` for a name that leads out of ComfyUI's folder.

    Links are followed, as ComfyUI itself follows them. Strings, since a Path costs 20 us a join on every job."""
    root = folders.temp if item.folder_type == "temp" else folders.output
    if root is None:
        return None
    base = os.path.normpath(str(root))
    path = os.path.normpath(f"{base}/{item.subfolder}/{item.filename}")
    if item.filename.startswith(base + os.sep):  # some packs report the whole path
        path = os.path.normpath(item.filename)
    return path if path.startswith(base + os.sep) else None


def inspect(
    items: Iterable[Item], *, paths: Mapping[Item, str | None], restorer: Restorer, inline_bytes: int = 0
) -> tuple[Output, ...]:
    """Turn items into outputs, looking at each file. Blocking: call it in a thread. Content comes along as base64 until
    the files are over ``inline_bytes`` together; see ``within``."""
    found: list[Output] = []
    for item in items:
        output = _output(item, paths.get(item), restorer, inline_bytes)
        if output is not None:
            inline_bytes -= output.size_bytes if output.local_path else 0
            found.append(output)
    return tuple(found)


def within(found: tuple[Output, ...], *, inline_bytes: int) -> tuple[Output, ...]:
    """All files' content if together they are at most ``inline_bytes``, else none: then each is worth a look at what
    is allowed of it."""
    if sum(output.size_bytes for output in found if output.local_path) <= inline_bytes:
        return found
    return without_content(found)


def _output(item: Item, path: str | None, restorer: Restorer, inline_bytes: int) -> Output | None:
    if item.text is not None:
        return Output(
            node_id=item.node_id,
            kind=OutputKind.TEXT,
            source_key=item.key,
            folder_type="",
            mime_type="text/plain",
            size_bytes=len(item.text.encode("utf-8", "replace")),
            text=item.text,
        )
    if path is None:
        return _missing(item, restorer, "the file lies outside ComfyUI's folders")
    try:
        return _with_file(item, Path(path), restorer, inline_bytes)
    except FileNotFoundError:
        return _missing(item, restorer, "ComfyUI reported this file, and it does not exist")
    except OSError as error:
        return _missing(item, restorer, error.strerror or "the file can't be read")


def _missing(item: Item, restorer: Restorer, reason: str) -> Output | None:
    if not item.certain:
        return None
    subfolder, name = _shown(item, restorer)
    mime_type = media.mime_of(name, b"")
    return Output(
        node_id=item.node_id,
        kind=media.kind_of(mime_type),
        source_key=item.key,
        filename=name,
        subfolder=subfolder,
        folder_type=item.folder_type,
        mime_type=mime_type,
        error=reason,
    )


def _shown(item: Item, restorer: Restorer) -> tuple[str, str]:
    """The subfolder and name that the caller sees."""
    folder, _, name = restorer.value(item.filename).replace("\\", "/").rpartition("/")
    subfolder = restorer.subfolder(item.subfolder)
    return "/".join(part for part in (subfolder, folder) if part), name


def _with_file(item: Item, path: Path, restorer: Restorer, inline_bytes: int) -> Output:
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        header = file.read(media.HEADER_BYTES)
        mime_type = media.mime_of(path.name, header)
        if mime_type == "image/jpeg" and size > len(header):
            header += file.read(media.JPEG_HEADER_BYTES)
        content = None
        if 0 < inline_bytes >= size:
            content = header if size <= len(header) else header + file.read(size - len(header))
    width, height = media.dimensions(header) or (None, None)
    subfolder, name = _shown(item, restorer)
    return Output(
        node_id=item.node_id,
        kind=media.kind_of(mime_type),
        source_key=item.key,
        filename=name,
        subfolder=subfolder,
        folder_type=item.folder_type,
        local_path=str(path),
        mime_type=mime_type,
        size_bytes=size,
        width=width,
        height=height,
        data_base64=base64.b64encode(content).decode("ascii") if content is not None and len(content) == size else None,
    )


def cleaned(entry: Mapping[str, Any], *, caller_graph: Mapping[str, Any], restorer: Restorer) -> dict[str, Any]:
    """Return the history entry as the caller's own prompt would have left it: own graph, own names, no mark of ours."""
    prompt = list(entry.get("prompt") or ())
    if len(prompt) > 3:
        prompt[2], prompt[3] = caller_graph, without_mark(prompt[3])
    return {**entry, "prompt": prompt, "outputs": restorer.value(entry.get("outputs") or {})}
