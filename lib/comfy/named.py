"""Files that a request brings under names of its own (``JobSpec.files``): which strings of its graph mean them.

Whoever uploads a picture to ComfyUI may name it in any node, so any input that is the name as a whole means the file,
not only those of loaders.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lib.comfy.fields import ANY, Form, Path, Site, UploadInputs, loader_kinds
from lib.comfy.separators import Options
from lib.errors import InvalidRequest, ServiceError, UnsafeInput
from lib.jobs.model import NamedInput, Workflow
from lib.storage.local import Fetched
from lib.storage.problems import accepted
from lib.workflow.files import PREFIX
from lib.workflow.graph import is_link

MAX_NAME_CHARS = 1024
SHOWN_CHARS = 200
AT_ONCE = 8
"""Files of one job that are brought in at the same time."""
_FOLDERS = (Form.FOLDER, Form.FOLDER_PATH)
_MARKED_INPUT = re.compile(r" ?\[input\]\Z")
_DRIVE = re.compile(r"[A-Za-z]:")
EXPECTED = "a file name, with folders before it at most: relative, without '..'"
Obtain = Callable[[NamedInput], Awaitable[Fetched]]


def plain(name: str) -> str:
    """A name as it is compared: with ``/``."""
    return name.replace("\\", "/")


def check_names(files: Sequence[NamedInput]) -> None:
    """Refuse names that could not be a file's below ComfyUI's input folder, and names that come twice.

    Raises: UnsafeInput, InvalidRequest, naming the request's field.
    """
    seen: set[str] = set()
    for file in files:
        name = plain(file.name)
        if not _is_safe(name):
            details = {"field": file.field, "reason": "unsafe_path", "expected": EXPECTED}
            raise UnsafeInput(f"{_label(file)}: the name is not allowed; expected {EXPECTED}", details=details)
        if name in seen:
            text = f"{_label(file)}: another file has this name; names must be unique"
            raise InvalidRequest(text, details={"field": file.field, "reason": "name_twice"})
        seen.add(name)


def _is_safe(name: str) -> bool:
    parts = name.split("/")
    whole = 0 < len(name) <= MAX_NAME_CHARS and name.isprintable() and not _DRIVE.match(name)
    return whole and all(part.strip() and part not in (".", "..") for part in parts)


def uses(graph: Workflow, files: Sequence[NamedInput], *, uploads: UploadInputs, options: Options) -> list[Site]:
    """Find the strings that mean these files, and folders that hold some of them.

    Let be are a prefix for names of outputs, and a choice of a list that looks like no file's name.
    """
    known, found = _Names(files), []
    for node_id, node in graph.items():
        inputs = node.get("inputs") if isinstance(node, dict) else None
        class_type = node.get("class_type") if isinstance(node, dict) else None
        if not isinstance(inputs, dict) or not isinstance(class_type, str):
            continue
        kinds = loader_kinds(class_type, uploads)
        for key, value in inputs.items():
            listed = () if key in kinds else options(class_type, key)
            for path, text in _texts(value, (node_id, "inputs", key)) if key != PREFIX else ():
                site = Site(path=path, value=text, kind=kinds.get(key, ANY), class_type=class_type)
                if len(text) <= MAX_NAME_CHARS + len(" [input]"):
                    found += known.meant(site, listed)
    return found


class _Names:
    """The files of a request by name, and by the folder that they would lie in."""

    def __init__(self, files: Sequence[NamedInput]) -> None:
        self._files = {plain(file.name): file for file in files}
        self._folders: defaultdict[str, list[NamedInput]] = defaultdict(list)
        for name in sorted(self._files):
            folder, within, _ = name.rpartition("/")
            if within:
                self._folders[folder].append(self._files[name])

    def meant(self, site: Site, listed: Sequence[str]) -> list[Site]:
        """The files that a string means: none, one, or those of a folder. ``listed`` are the choices of its field."""
        name = _MARKED_INPUT.sub("", plain(site.value))
        if site.kind.form in _FOLDERS and not isinstance(site.path[-1], int):
            inside = enumerate(self._folders.get(name.rstrip("/"), ()))
            return [replace(site, path=(*site.path, index), named=file) for index, file in inside]
        file = self._files.get(name)
        if file is None or (site.value in listed and "." not in name.rpartition("/")[2]):
            return []
        return [replace(site, named=file)]


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Every text of an input, in lists and objects too, but for links."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, (*path, key))
    elif isinstance(value, list) and not is_link(value):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))


async def obtained(files: Sequence[NamedInput], found: Sequence[Site], obtain: Obtain) -> dict[Path, Fetched]:
    """Bring in every file, once, whether a node names it or not; return what each site of ``found`` gets.

    All are tried. Raises: the first error, with the messages of all of them as ``details["errors"]``.
    """
    turns = asyncio.Semaphore(AT_ONCE)
    brought: dict[str, Fetched] = {}
    errors: dict[str, ServiceError] = {}

    async def bring(file: NamedInput) -> None:
        async with turns:
            try:
                brought[file.name] = await obtain(file)
            except ServiceError as error:
                errors[file.name] = error

    async with asyncio.TaskGroup() as group:
        for file in files:
            group.create_task(bring(file))
    for site in found:
        if site.named is not None and site.named.name in brought:
            try:
                accepted(brought[site.named.name], site.kind.accept, field=site.named.field)
            except ServiceError as error:
                errors.setdefault(site.named.name, error)
    if errors:
        raise _together(files, errors)
    return {site.path: brought[site.named.name] for site in found if site.named is not None}


def _together(files: Sequence[NamedInput], errors: Mapping[str, ServiceError]) -> ServiceError:
    failed = [(file, errors[file.name]) for file in files if file.name in errors]
    told = [f"{_label(file)}: {error.message.removeprefix(f'{file.field}: ')}" for file, error in failed]
    first = failed[0][1]
    return type(first)("; ".join(told), details={**first.details, "field": failed[0][0].field, "errors": told})


def unused(files: Sequence[NamedInput], found: Sequence[Site]) -> tuple[str, ...]:
    """Warn of files that no node names."""
    used = {site.named.name for site in found if site.named is not None}
    return tuple(f"{_label(file)}: no node uses this file" for file in files if file.name not in used)


def _label(file: NamedInput) -> str:
    return f"{file.field} ({file.name[:SHOWN_CHARS]!r})"
