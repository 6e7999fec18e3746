"""Puts a fetched file under the input folder of every ComfyUI, under one name: linked, copied or uploaded."""

import asyncio
import logging
import os
import shutil
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

import aiohttp
import orjson

from lib.comfy.ports import Server
from lib.errors import EngineUnreachable, StorageFailed
from lib.jobs.ports import InputFile
from lib.storage.local import Fetched

log = logging.getLogger(__name__)

FOLDER = "pyworker"
"""Everything that we put into an input folder lies below a folder of this name; clean-up removes nothing else."""
UPLOAD_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=60.0)


class Placer:
    """Knows the servers' input folders, which may be found only after the servers first answered."""

    def __init__(self, servers: Sequence[Server], *, http: aiohttp.ClientSession) -> None:
        self._servers = tuple(servers)
        self._http = http

    @property
    def shared_input(self) -> Path | None:
        """The one input folder of all servers; None where they have several or we see none."""
        folders = {server.folders.input if server.folders else None for server in self._servers}
        return folders.pop() if len(folders) == 1 else None

    async def place(self, fetched: Fetched, name: str) -> tuple[InputFile, tuple[str, ...]]:
        """Have the file at ``name`` (relative, ``/``) under every input folder; return it and its local paths.

        A server that is down, or does not take it, is left out as long as another one has it: ``ensure`` makes good.
        Raises: StorageFailed (our disk), EngineUnreachable (none took it).
        """
        targets = {server.folders.input / name for server in self._servers if server.folders}
        for target in targets:
            await _link(fetched.path, target)
        having = [server for server in self._servers if server.folders]
        failure = EngineUnreachable("no ComfyUI is up to take the input file")
        for server in self._servers:
            if server.folders is None and server.down_reason is None:
                try:
                    await self._upload(server, fetched.path, PurePosixPath(name))
                    having.append(server)
                except EngineUnreachable as error:
                    failure = error
                    log.warning("input not placed", extra={"event": "input.not_placed", "engine": server.name})
        if not having:
            raise failure
        engines = frozenset((server.name, server.generation) for server in having)
        file = InputFile(path=str(fetched.path), name=name, engines=engines, hold=fetched)
        return file, tuple(str(target) for target in targets)

    async def ensure(self, server: Server, files: Sequence[InputFile]) -> None:
        """Have a prepared job's files on ``server``, about to run it: those that it was down for, or may have lost.

        Raises: StorageFailed, EngineUnreachable."""
        for file in files:
            if (server.name, server.generation) in file.engines:
                continue
            if server.folders is not None:
                await _link(Path(file.path), server.folders.input / file.name)
            else:
                await self._upload(server, Path(file.path), PurePosixPath(file.name))

    async def _upload(self, server: Server, source: Path, name: PurePosixPath) -> None:
        try:
            handle = await asyncio.to_thread(source.open, "rb")
        except OSError as error:
            raise _unstored(error) from error
        try:
            form = aiohttp.FormData(quote_fields=False)
            form.add_field("image", handle, filename=name.name, content_type="application/octet-stream")
            for field, value in (("type", "input"), ("subfolder", str(name.parent)), ("overwrite", "true")):
                form.add_field(field, value)
            url = f"{server.base_url}/upload/image"
            async with self._http.post(url, data=form, timeout=UPLOAD_TIMEOUT) as response:
                told = orjson.loads(await response.read()) if response.status == 200 else {}
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as error:
            raise EngineUnreachable(f"{server.name} did not take an input file: {type(error).__name__}") from error
        finally:
            await asyncio.to_thread(handle.close)
        if not isinstance(told, dict) or told.get("name") != name.name:
            raise EngineUnreachable(f"{server.name} did not take an input file (status {response.status})")


async def _link(source: Path, target: Path) -> None:
    try:
        await asyncio.to_thread(link_or_copy, source, target)
    except OSError as error:
        raise _unstored(error) from error


def _unstored(error: OSError) -> StorageFailed:
    return StorageFailed(f"the input can't be stored: {error.strerror or type(error).__name__}")


def link_or_copy(source: Path, target: Path) -> None:
    """Have ``source`` at ``target``, whole or not at all. What is there already counts as used now. Blocks."""
    with suppress(FileNotFoundError):
        if target.stat().st_size == source.stat().st_size:
            os.utime(target)
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):  # another file system, one without links, or somebody was faster
        os.link(source, target)
        return
    draft = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        shutil.copyfile(source, draft)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
