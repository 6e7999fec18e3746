"""lib.comfy.discover: which servers there are, by settings and by what runs already."""

import asyncio
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import orjson
import psutil
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from lib.clock import SystemClock
from lib.comfy.attached import AttachedServer
from lib.comfy.child import Claim, RunRecord, created_at
from lib.comfy.discover import launch, restart_command, servers
from lib.comfy.process import LaunchedServer
from lib.comfy.restarts import free_port
from lib.errors import EngineUnreachable
from lib.lifecycle import Tasks
from lib.settings import EngineSettings
from tests.fakes.process_comfyui import make_install


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    async with Tasks() as group:
        yield group


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace with a fake installation and its record."""
    root = make_install(tmp_path / "ComfyUI")
    (tmp_path / "comfyui.json").write_bytes(
        orjson.dumps({"python": sys.executable, "root": str(root), "env": {}, "device": "cpu"})
    )
    return tmp_path


@asynccontextmanager
async def planned(settings: EngineSettings, http: aiohttp.ClientSession) -> AsyncIterator[list[LaunchedServer]]:
    """Servers that are never run; their claims are given back."""
    found = await launch(settings, http=http, clock=SystemClock())
    yield found
    for server in found:
        await server.close()


async def running_comfyui(argv: list[str]) -> TestServer:
    async def stats(request: web.Request) -> web.Response:
        return web.json_response({"system": {"argv": argv}})

    app = web.Application()
    app.router.add_get("/system_stats", stats)
    server = TestServer(app)
    await server.start_server()
    return server


async def test_named_servers_are_attached_to_and_nothing_is_started(http: aiohttp.ClientSession, tasks: Tasks) -> None:
    """``COMFYUI_BACKENDS`` names several; not even a missing installation matters."""
    settings = EngineSettings(backends=("http://a:1", "http://b:2"))
    found = await servers(settings, serverless=False, http=http, tasks=tasks)
    assert [(server.name, server.base_url) for server in found] == [
        ("comfyui-1", "http://a:1"), ("comfyui-2", "http://b:2"),
    ]  # fmt: skip
    assert all(isinstance(server, AttachedServer) for server in found)


async def test_a_serverless_worker_waits_for_the_supervisors(
    http: aiohttp.ClientSession, tasks: Tasks, workspace: Path
) -> None:
    """Although it could start one: two on one GPU would both run out of memory."""
    (server,) = await servers(EngineSettings(workspace=workspace), serverless=True, http=http, tasks=tasks)
    assert isinstance(server, AttachedServer) and server.base_url == "http://127.0.0.1:18188"


async def test_a_running_one_is_used_when_standalone(
    http: aiohttp.ClientSession, tasks: Tasks, workspace: Path
) -> None:
    """Ports are tried in order; what is no ComfyUI is passed over."""
    stranger = TestServer(web.Application())
    await stranger.start_server()
    comfyui = await running_comfyui(["main.py"])
    try:
        ports = (stranger.port or 0, comfyui.port or 0)
        settings = EngineSettings(workspace=workspace)
        (server,) = await servers(settings, serverless=False, http=http, tasks=tasks, usual_ports=ports)
        assert isinstance(server, AttachedServer) and server.base_url == f"http://127.0.0.1:{comfyui.port}"
    finally:
        await stranger.close()
        await comfyui.close()


async def test_our_own_from_an_earlier_life_is_taken_over_and_another_workers_is_attached_to(
    http: aiohttp.ClientSession, tasks: Tasks, workspace: Path
) -> None:
    """The temp folder in its flags and the lock tell whose it is."""
    comfyui = await running_comfyui(["main.py", "--temp-directory", str(workspace / "temp" / "comfyui-1")])
    settings = EngineSettings(workspace=workspace, port=free_port(0))
    other_worker = await asyncio.to_thread(Claim.take, workspace / "run" / "comfyui-1.lock")
    assert other_worker is not None
    try:
        ports = (comfyui.port or 0,)
        (server,) = await servers(settings, serverless=False, http=http, tasks=tasks, usual_ports=ports)
        assert isinstance(server, AttachedServer)
        other_worker.release()
        (server,) = await servers(settings, serverless=False, http=http, tasks=tasks, usual_ports=ports)
        assert isinstance(server, LaunchedServer)
        await server.wait_answering()
    finally:
        await tasks.cancel()
        await comfyui.close()


@pytest.mark.parametrize("serverless", [False, True])
async def test_otherwise_our_own_are_started_each_on_its_port(
    http: aiohttp.ClientSession, tasks: Tasks, workspace: Path, *, serverless: bool
) -> None:
    """Two processes: two ports, two names, and both answer; they end with the tasks. A serverless worker has to be told
    so (``COMFYUI_PORT=0``): on a machine, or in a pod, where nobody else starts one."""
    settings = EngineSettings(workspace=workspace, port=0, processes=2)
    found = await servers(settings, serverless=serverless, http=http, tasks=tasks)
    async with asyncio.TaskGroup() as group:
        for server in found:
            group.create_task(server.wait_answering())
    assert len({server.base_url for server in found}) == 2
    assert [server.name for server in found] == ["comfyui-1", "comfyui-2"]
    await tasks.cancel()
    assert not list((workspace / "run").glob("*.json"))


async def test_a_second_worker_of_a_workspace_keeps_away_from_the_first_ones(
    http: aiohttp.ClientSession, workspace: Path
) -> None:
    """Numbers are claimed: temp folders, databases and logs are never shared."""
    settings = EngineSettings(workspace=workspace, port=0)
    async with planned(settings, http) as (first,), planned(settings, http) as (second,):
        assert (first.name, second.name) == ("comfyui-1", "comfyui-2")


async def test_processes_are_spread_over_the_visible_gpus(http: aiohttp.ClientSession, workspace: Path) -> None:
    """0 = one a GPU; one process alone keeps ComfyUI's own choice."""
    settings = EngineSettings(workspace=workspace, port=0, processes=0, visible_devices=("1", "3"))
    async with planned(settings, http) as found:
        assert [server.command[server.command.index("--cuda-device") + 1] for server in found] == ["1", "3"]
    alone = EngineSettings(workspace=workspace, port=0, visible_devices=("1", "3"))
    async with planned(alone, http) as (server,):
        assert "--cuda-device" not in server.command


async def test_left_over_processes_beyond_todays_number_are_ended(http: aiohttp.ClientSession, workspace: Path) -> None:
    """Yesterday two, today one: the second would hold its GPU for ever."""
    command = (sys.executable, "-c", "import signal; print(flush=True); signal.pause()")
    process = await asyncio.create_subprocess_exec(*command, start_new_session=True, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    await process.stdout.readline()
    created = await asyncio.to_thread(created_at, process.pid)
    record = RunRecord(pid=process.pid, created=created, port=1, command=command, output="", input="", temp="")
    path = workspace / "run" / "comfyui-2.json"
    await asyncio.to_thread(record.write, path)
    async with planned(EngineSettings(workspace=workspace, port=0), http):
        await process.wait()
    assert not psutil.pid_exists(process.pid) and not path.exists()


async def test_nothing_to_attach_to_and_nothing_installed_is_an_error(
    http: aiohttp.ClientSession, tasks: Tasks, tmp_path: Path
) -> None:
    """It says what to do."""
    with pytest.raises(EngineUnreachable, match="COMFYUI_API_BASE"):
        await servers(EngineSettings(workspace=tmp_path, port=0), serverless=False, http=http, tasks=tasks)


def test_the_restart_command_is_the_operators_or_supervisors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Supervisor's only where it is there and there is one ComfyUI to restart."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert restart_command(EngineSettings(restart_cmd="x y")) == "x y"
    assert restart_command(EngineSettings()) is None
    tool = tmp_path / "supervisorctl"
    tool.touch()
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    assert restart_command(EngineSettings()) == "supervisorctl restart comfyui"
    assert restart_command(EngineSettings(), several=True) is None
