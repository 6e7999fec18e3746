"""Putting inputs where each ComfyUI finds them, also one that was down when the job was prepared."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from lib.comfy.placing import Placer
from lib.comfy.ports import Folders
from lib.errors import EngineUnreachable, StorageFailed
from lib.storage.local import ContentStore, Fetched
from tests.fakes.comfy_server import OwnedServer
from tests.fakes.http_hosts import png

NAME = "pyworker/abc.png"


def _kept(tmp_path: Path) -> Fetched:
    draft = (store := ContentStore(tmp_path / "cache", quota_bytes=1 << 20)).draft()
    draft.write(png())
    return store.adopt(draft)


async def kept(tmp_path: Path) -> Fetched:
    return await asyncio.to_thread(_kept, tmp_path)


@asynccontextmanager
async def far(got: list[str], *, status: int = 200) -> AsyncIterator[OwnedServer]:
    """A ComfyUI on another host, which takes uploads."""

    async def upload(request: web.Request) -> web.Response:
        form = await request.post()
        image = form["image"]
        assert isinstance(image, web.FileField) and image.file.read() == png()
        got.append(f"{form['subfolder']}/{image.filename}")
        return web.json_response({"name": image.filename}, status=status)

    app = web.Application()
    app.router.add_post("/upload/image", upload)
    async with TestServer(app) as server:
        yield OwnedServer(str(server.make_url("")).rstrip("/"), folders=None, name="far")


def near(tmp_path: Path, name: str = "near") -> OwnedServer:
    folders = Folders(output=tmp_path / name / "output", input=tmp_path / name / "input")
    return OwnedServer("http://127.0.0.1:1", folders=folders, name=name)


async def test_a_server_that_was_down_gets_the_file_before_it_runs_the_job(tmp_path: Path) -> None:
    """Once: what it has already is not sent again, until it was restarted."""
    got: list[str] = []
    async with far(got) as server, aiohttp.ClientSession() as http:
        server.down_reason = "crashed"
        placer = Placer([near(tmp_path), server], http=http)
        file, paths = await placer.place(await kept(tmp_path), NAME)
        assert paths == (str(tmp_path / "near" / "input" / NAME),) and got == []
        server.down_reason = None
        await placer.ensure(server, [file])
        assert got == [NAME]
        file, _ = await placer.place(await kept(tmp_path), NAME)
        assert len(got) == 2
        await placer.ensure(server, [file])
        assert len(got) == 2
        server.generation += 1
        await placer.ensure(server, [file])
        assert len(got) == 3


async def test_one_that_refuses_holds_nobody_up(tmp_path: Path) -> None:
    """As long as another one has the file; the refusing one says so again when it is to run the job."""
    async with far([], status=500) as server, aiohttp.ClientSession() as http:
        placer = Placer([server, near(tmp_path)], http=http)
        file, _ = await placer.place(await kept(tmp_path), NAME)
        with pytest.raises(EngineUnreachable, match="status 500"):
            await placer.ensure(server, [file])
        with pytest.raises(EngineUnreachable, match="status 500"):
            await Placer([server], http=http).place(await kept(tmp_path), NAME)


async def test_a_folder_that_was_found_later_gets_the_file(tmp_path: Path) -> None:
    """A server's folders are known once it answered."""
    first, late = near(tmp_path, "a"), OwnedServer("http://127.0.0.1:1", folders=None, name="b")
    late.down_reason = "starting"
    async with aiohttp.ClientSession() as http:
        placer = Placer([first, late], http=http)
        file, _ = await placer.place(await kept(tmp_path), NAME)
        await placer.ensure(near(tmp_path, "b"), [file])
        assert (tmp_path / "b" / "input" / NAME).read_bytes() == png()


async def test_the_file_is_held_while_the_job_waits(tmp_path: Path) -> None:
    """The store may not throw away what an engine has yet to get; were it gone all the same, that is our fault."""
    async with far([]) as server, aiohttp.ClientSession() as http:
        server.down_reason = "crashed"
        placer = Placer([near(tmp_path), server], http=http)
        fetched = await kept(tmp_path)
        file, _ = await placer.place(fetched, NAME)
        assert file.hold is fetched
        gone = replace(file, path=str(tmp_path / "gone"))
        with pytest.raises(StorageFailed):
            await placer.ensure(server, [gone])
