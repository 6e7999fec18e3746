"""ComfyUI's model folders, as every ComfyUI of this worker tells them now: names, files, places on this host."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import aiohttp

from lib.comfy.attached import is_loopback
from lib.comfy.client import ComfyClient, loads
from lib.comfy.models.fields import ModelSite, declared_choices, known_folder, listed_folder, usual_folder
from lib.comfy.ports import Server
from lib.errors import EngineUnreachable, InvalidRequest

T = TypeVar("T")
AT_ONCE = 4
"""Questions to one ComfyUI at the same time."""
NO_MODELS = frozenset({"custom_nodes"})
"""Programs, among ComfyUI's folders."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class ModelFolders:
    """Asks the servers. ``models_dir`` is the operator's word (``MODEL_DIR``) where models belong."""

    def __init__(
        self, servers: Sequence[Server], *, http: aiohttp.ClientSession, models_dir: Path | None, timeout_s: float
    ) -> None:
        self._clients = {
            server.name: (server, ComfyClient(server.base_url, http, timeout_s=timeout_s)) for server in servers
        }
        self._models_dir = models_dir.absolute() if models_dir is not None else None
        self._paths: dict[str, tuple[int, Mapping[str, list[str]]]] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)

    # -- which folder ------------------------------------------------------------------------------------------------

    async def folder_of(self, site: ModelSite) -> str | None:
        """The model folder that an input reads; ``None``: it names no model. Raises: EngineUnreachable."""
        if (folder := known_folder(site.class_type, site.field)) is not None:
            return folder
        if site.nested:
            return usual_folder(site.field)
        return await self._first(lambda client: self._asked(client, site))

    async def _asked(self, client: ComfyClient, site: ModelSite) -> str | None:
        choices = await _choices(client, site)
        if choices is None or site.value in choices:
            return None
        return listed_folder(site.field, choices, await self._lists(client))

    async def lists(self, site: ModelSite, name: str) -> bool:
        """Whether ComfyUI would take ``name`` there. Raises: EngineUnreachable."""

        async def asked(client: ComfyClient) -> bool:
            choices = None if site.nested else await _choices(client, site)
            return choices is None or name in choices

        return await self._first(asked)

    # -- what is there -----------------------------------------------------------------------------------------------

    async def models(self) -> dict[str, list[str]]:
        """Files by model folder, of all servers that answer; folders that only the disk has are empty lists.

        Raises: EngineUnreachable (none answers)."""
        found: dict[str, set[str]] = {}
        for lists in await self._each(self._lists):
            for folder, names in lists.items():
                found.setdefault(folder, set()).update(names)
        for root in await self._roots():
            for folder in await asyncio.to_thread(_subfolders, root):
                found.setdefault(folder, set())
        return {folder: sorted(found[folder]) for folder in sorted(found) if folder not in NO_MODELS}

    async def types(self) -> tuple[str, ...]:
        """Names of the folders that models may be put into. Raises: EngineUnreachable (none answers)."""
        found = {folder for folders in await self._each(ComfyClient.model_types) for folder in folders}
        for root in await self._roots():
            found.update(await asyncio.to_thread(_subfolders, root))
        return tuple(sorted(found - NO_MODELS))

    async def _lists(self, client: ComfyClient) -> Mapping[str, list[str]]:
        folders = [folder for folder in await client.model_types() if folder not in NO_MODELS]

        async def listed(folder: str) -> list[str]:
            async with self._turns:
                return await client.models(folder)

        return dict(zip(folders, await asyncio.gather(*map(listed, folders)), strict=True))

    # -- where it is -------------------------------------------------------------------------------------------------

    async def places(self, folder: str, *, field: str) -> tuple[Path, ...]:
        """The directories that a file of this folder has to be in, so that every server has it.

        Raises: InvalidRequest (no such folder, or one that is out of reach), EngineUnreachable."""
        found: dict[Path, None] = {}
        for server, client in self._clients.values():
            paths = await self._told(server, client)
            found[await asyncio.to_thread(self._place, folder, paths, field)] = None
        return tuple(found)

    def _place(self, folder: str, paths: Mapping[str, list[str]] | None, field: str) -> Path:
        """Choose among the directories that one server reads. Blocks."""
        if folder in NO_MODELS or not _NAME.fullmatch(folder):
            raise _unknown(folder, field, paths)
        own = self._models_dir
        if paths is None:
            if own is None:
                raise InvalidRequest(
                    f"{field}: models can't be downloaded for this ComfyUI, whose folders are out of reach; "
                    "set MODEL_DIR, or put the model there by hand",
                    details={"field": field, "reason": "no_file_access"},
                )
            return own / folder
        given = [Path(path) for path in paths.get(folder, ())]
        if not given:  # ComfyUI has it as a part of another one (clip), or some node pack reads it by itself
            roots = [own] if own is not None else list(_roots_of(paths))
            given = [root / folder for root in roots if (root / folder).is_dir()]
        if not given:
            raise _unknown(folder, field, paths)
        return min(given, key=lambda path: (not _writable(path), not _below(path, own), path.name != folder))

    async def _told(self, server: Server, client: ComfyClient) -> Mapping[str, list[str]] | None:
        """The paths of its folders; ``None`` where its disk is not ours."""
        if server.folders is None or not is_loopback(server.base_url):
            return None
        known = self._paths.get(server.name)
        if known is None or known[0] != server.generation:
            generation = server.generation
            try:
                known = self._paths[server.name] = (generation, await client.folder_paths())
            except EngineUnreachable:
                if known is None:  # else it is down, and will hardly have other folders afterwards
                    raise
        return known[1]

    async def _roots(self) -> tuple[Path, ...]:
        """Folders that have model folders in them, on this host."""
        found = dict.fromkeys([self._models_dir] if self._models_dir is not None else [])
        for server, client in self._clients.values():
            try:
                paths = await self._told(server, client)
            except EngineUnreachable:
                continue
            if self._models_dir is None and paths is not None:
                made = server.folders.output if server.folders is not None else None
                found |= dict.fromkeys(await asyncio.to_thread(_models_only, paths, made))
        return tuple(found)

    # -- asking ------------------------------------------------------------------------------------------------------

    async def _first(self, ask: Callable[[ComfyClient], Awaitable[T]]) -> T:
        """The answer of the first server that gives one."""
        failure = EngineUnreachable("no ComfyUI is up")
        for server, client in self._clients.values():
            if server.down_reason is None:
                try:
                    return await ask(client)
                except EngineUnreachable as error:
                    failure = error
        raise failure

    async def _each(self, ask: Callable[[ComfyClient], Awaitable[T]]) -> list[T]:
        """The answers of all servers that give one. Raises: EngineUnreachable (none does)."""
        answers, failure = list[T](), EngineUnreachable("no ComfyUI is up")
        for server, client in self._clients.values():
            if server.down_reason is None:
                try:
                    answers.append(await ask(client))
                except EngineUnreachable as error:
                    failure = error
        if not answers:
            raise failure
        return answers


async def _choices(client: ComfyClient, site: ModelSite) -> tuple[str, ...] | None:
    """The choices of a list input as they are now; ``None``: it is no list, or ComfyUI has no such class."""
    return declared_choices(loads(await client.object_info(site.class_type)), site.class_type, site.field)


def _roots_of(paths: Mapping[str, list[str]]) -> tuple[Path, ...]:
    """ComfyUI's own ``models`` folder, and those of its lists of further ones."""
    return tuple(dict.fromkeys(Path(path).parent for path in paths.get("checkpoints", ())))


def _models_only(paths: Mapping[str, list[str]], made: Path | None) -> list[Path]:
    """ComfyUI offers what its nodes save as models, too; the other folders there are jobs', and nobody else's."""
    output = None if made is None else made.resolve()
    return [root for root in _roots_of(paths) if root.resolve() != output]


def _subfolders(root: Path) -> list[str]:
    try:
        found = [entry.name for entry in os.scandir(root) if entry.is_dir()]
    except OSError:
        return []
    return [name for name in found if _NAME.fullmatch(name)]


def _below(path: Path, root: Path | None) -> bool:
    return root is None or path.resolve().is_relative_to(root.resolve())


def _writable(path: Path) -> bool:
    """Whether files can be made there, or the folder itself."""
    while not path.exists() and path.parent != path:
        path = path.parent
    return os.access(path, os.W_OK | os.X_OK)


def _unknown(folder: str, field: str, paths: Mapping[str, list[str]] | None) -> InvalidRequest:
    known = sorted(set(paths or ()) - NO_MODELS)
    expected = f"one of {', '.join(known)}" if known else "the name of a model folder"
    details = {"field": field, "reason": "unknown_model_type", "expected": expected}
    return InvalidRequest(f"{field}: unknown model type {folder[:100]!r}; expected {expected}", details=details)
