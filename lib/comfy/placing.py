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

    async def place(self, fetched: Fetched, name: str) -> tuple[str, ...]:
        """Have the file at ``name`` (relative, ``/``) under every input folder; return its local paths.

        A server that is down and has no folder of ours is left out.
        Raises: StorageFailed (our disk), EngineUnreachable (an upload failed).
        """
        targets = {server.folders.input / name for server in self._servers if server.folders}
        remote = [server for server in self._servers if not server.folders and server.down_reason is None]
        if not targets and not remote:
            raise EngineUnreachable("no ComfyUI is up to take the input file")
        try:
            for target in targets:
                await asyncio.to_thread(link_or_copy, fetched.path, target)
        except OSError as error:
            raise StorageFailed(f"the input can't be stored: {error.strerror or type(error).__name__}") from error
        for server in remote:
            await self._upload(server, fetched.path, PurePosixPath(name))
        return tuple(str(target) for target in targets)

    async def _upload(self, server: Server, source: Path, name: PurePosixPath) -> None:
        handle = await asyncio.to_thread(source.open, "rb")
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
        if told.get("name") != name.name:
            raise EngineUnreachable(f"{server.name} did not take an input file (status {response.status})")


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
