"""lib.comfy.attached: a server of somebody else; its folders are believed only when seen."""

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from lib.comfy.attached import AttachedServer, is_loopback
from lib.errors import EngineUnreachable
from lib.settings import EngineSettings


@dataclass
class Elsewhere:
    """A ComfyUI's few routes; ``root`` is where its folders really are."""

    root: Path
    argv: list[str]
    uploads: int = 0
    refusals: int = 0
    hangs: bool = False

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/system_stats", self.stats)
        app.router.add_get("/internal/folder_paths", self.paths)
        app.router.add_post("/upload/image", self.upload)
        return app

    async def stats(self, request: web.Request) -> web.Response:
        if self.refusals:
            self.refusals -= 1
            return web.Response(status=503)
        return web.json_response({"system": {"argv": self.argv}, "devices": []})

    async def paths(self, request: web.Request) -> web.Response:
        return web.json_response({"custom_nodes": ["/comfy/custom_nodes"]})

    async def upload(self, request: web.Request) -> web.Response:
        if self.hangs:
            await asyncio.Event().wait()
        form = await request.post()
        image = form["image"]
        assert isinstance(image, web.FileField)
        folder = self.root / str(form["type"]) / str(form["subfolder"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / image.filename).write_bytes(image.file.read())
        self.uploads += 1
        return web.json_response({"name": image.filename, "subfolder": form["subfolder"], "type": form["type"]})


@dataclass
class Attach:
    """Starts the foreign server and attaches to it."""

    elsewhere: Elsewhere
    base_url: str
    http: aiohttp.ClientSession

    def server(self, *, restart_cmd: str | None = None, alone: bool = True, **settings: object) -> AttachedServer:
        return AttachedServer(
            self.base_url,
            name="comfyui-1",
            http=self.http,
            settings=EngineSettings(**settings),
            restart_cmd=restart_cmd,
            alone=alone,
        )


@pytest.fixture
async def attach(tmp_path: Path) -> AsyncIterator[Attach]:
    elsewhere = Elsewhere(root=tmp_path / "real", argv=["main.py"])
    async with TestServer(elsewhere.app()) as server, aiohttp.ClientSession() as http:
        yield Attach(elsewhere, str(server.make_url("")), http)


async def test_folders_that_it_tells_are_seen_and_used(attach: Attach) -> None:
    """Flags of its command line, verified by a file that is removed again."""
    root = attach.elsewhere.root
    attach.elsewhere.argv += ["--output-directory", str(root / "output"), "--input-directory", str(root / "input")]
    server = attach.server()
    assert server.folders is None
    await server.wait_answering()
    assert server.folders is not None
    assert (server.folders.output, server.folders.input) == (root / "output", root / "input")
    assert server.folders.temp is None
    assert not list((root / "output").iterdir()) and not list((root / "input").iterdir())
    await server.wait_answering()
    assert attach.elsewhere.uploads == 3


async def test_a_base_folder_gives_all_three(attach: Attach) -> None:
    """``--base-directory`` moves output and input."""
    attach.elsewhere.argv += ["--base-directory", str(attach.elsewhere.root)]
    server = attach.server()
    await server.wait_answering()
    assert server.folders is not None and server.folders.temp == attach.elsewhere.root / "temp"


async def test_folders_of_the_same_name_that_are_not_its_own_are_not_believed(attach: Attach, tmp_path: Path) -> None:
    """A container's paths exist here, too, and are others: no file access."""
    for name in ("output", "input", "temp"):
        (tmp_path / "other" / name).mkdir(parents=True)
    attach.elsewhere.argv += ["--base-directory", str(tmp_path / "other")]
    server = attach.server()
    await server.wait_answering()
    assert server.folders is None


async def test_what_the_operator_says_is_tried_first(attach: Attach) -> None:
    """Paths one by one, or the installation's folder."""
    server = attach.server(install_path=attach.elsewhere.root)
    await server.wait_answering()
    assert server.folders is not None and server.folders.input == attach.elsewhere.root / "input"
    server = attach.server(output_path=attach.elsewhere.root / "output", input_path=attach.elsewhere.root / "input")
    await server.wait_answering()
    assert server.folders is not None and server.folders.temp is None


async def test_a_silent_server_is_an_error_that_names_the_limit(attach: Attach) -> None:
    """Nothing listens: not for ever."""
    attach.base_url = "http://127.0.0.1:1"
    with pytest.raises(EngineUnreachable, match="COMFYUI_STARTUP_TIMEOUT_S"):
        await attach.server(startup_timeout_s=0.2).wait_answering()


async def test_a_silent_server_may_be_asked_so_many_times_only(attach: Attach) -> None:
    """As often, and as fast, as the operator says; another one of several is asked on."""
    attach.elsewhere.refusals = 5
    with pytest.raises(EngineUnreachable, match=r"within 3 attempts \(COMFY_API_AVAILABLE_MAX_RETRIES\)"):
        await attach.server(probe_attempts=3, probe_interval_ms=1).wait_answering()
    assert attach.elsewhere.refusals == 2
    await attach.server(probe_attempts=1, probe_interval_ms=1, alone=False).wait_answering()
    assert attach.elsewhere.refusals == 0


async def test_one_of_several_is_waited_for_without_limit(attach: Attach) -> None:
    """The others serve meanwhile; its absence must not end the worker."""
    attach.elsewhere.refusals = 4
    await attach.server(startup_timeout_s=0.05, alone=False).wait_answering()
    assert attach.elsewhere.refusals == 0


async def test_a_folder_probe_that_hangs_is_given_up(attach: Attach) -> None:
    """It attaches without file access, instead of never."""
    attach.elsewhere.hangs = True
    server = attach.server(request_timeout_s=0.1)
    async with asyncio.timeout(60):
        await server.wait_answering()
    assert server.folders is None


async def test_one_that_answered_before_is_waited_for_without_limit(attach: Attach) -> None:
    """The limit is for our start; a supervisor may take its time later."""
    server = attach.server(startup_timeout_s=1.0, probe_interval_ms=400)
    await server.wait_answering()
    attach.elsewhere.refusals = 3
    await server.wait_answering()
    assert attach.elsewhere.refusals == 0


async def test_without_a_command_no_restart_is_possible(attach: Attach) -> None:
    """It is said, with what to do."""
    with pytest.raises(EngineUnreachable, match="COMFYUI_RESTART_CMD"):
        await attach.server().restart("dead executor")


async def test_the_command_restarts_it(attach: Attach, tmp_path: Path) -> None:
    """Listeners are told; the generation grows; it counts as up when it answers."""
    server = attach.server(restart_cmd=f"{sys.executable} -c \"open(r'{tmp_path / 'done'}', 'x')\"")
    reasons: list[str] = []
    server.on_down(lambda reason, _: reasons.append(reason))
    await server.restart("dead executor")
    assert (tmp_path / "done").exists()
    assert (server.generation, server.down_reason, reasons) == (2, "dead executor", ["dead executor"])
    await server.wait_answering()
    assert server.down_reason is None


@pytest.mark.parametrize("command", ["/nowhere/restart", "'open", f"{sys.executable} -c \"raise SystemExit('no')\""])
async def test_a_command_that_fails_is_an_error(attach: Attach, command: str) -> None:
    """With what it said; a later attempt is free to try again, and nothing that runs is given up for lost."""
    server = attach.server(restart_cmd=command)
    reasons: list[str] = []
    server.on_down(lambda reason, _: reasons.append(reason))
    for _ in range(2):
        with pytest.raises(EngineUnreachable, match="COMFYUI_RESTART_CMD"):
            await server.restart("dead executor")
    assert (server.generation, server.down_reason, reasons) == (1, None, [])


def test_loopback_is_told_from_the_address() -> None:
    """Only there its own words about paths are worth a look."""
    assert [is_loopback(f"http://{host}:1") for host in ("127.0.0.1", "localhost", "[::1]", "gpu.example")] == [
        True, True, True, False,
    ]  # fmt: skip
