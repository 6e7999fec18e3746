"""lib.comfy.commanded: a ComfyUI that the operator's own command starts."""

import asyncio
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import psutil
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from lib.clock import SystemClock
from lib.comfy.attached import AttachedServer
from lib.comfy.child import Claim, RunRecord, created_at
from lib.comfy.commanded import USUAL_PORT, listens, plan_command
from lib.comfy.discover import launch, servers
from lib.comfy.process import LaunchedServer
from lib.comfy.restarts import RestartPolicy
from lib.errors import EngineDied, EngineUnreachable
from lib.lifecycle import Tasks
from lib.settings import EngineSettings, SettingsError
from tests.comfyui_fixture import free_port
from tests.fakes.process_comfyui import make_install
from tests.lib.comfy.test_process import gone

PYTHON = shlex.quote(sys.executable)
QUICK = RestartPolicy(backoff_s=0.01, backoff_max_s=0.02, patience_s=5.0)


@dataclass
class Host:
    """A workspace, a fake ComfyUI, and commands that start it."""

    workspace: Path
    http: aiohttp.ClientSession
    tasks: Tasks
    port: int = field(default_factory=free_port)

    @property
    def root(self) -> Path:
        return self.workspace / "ComfyUI"

    def settings(self, command: str, **changes: object) -> EngineSettings:
        values: dict[str, object] = {"workspace": self.workspace, "install_path": self.root, "port": self.port}
        return EngineSettings(command=command, **(values | changes))  # type: ignore[arg-type]

    async def planned(self, settings: EngineSettings, *, policy: RestartPolicy = QUICK) -> LaunchedServer:
        here, port = await asyncio.to_thread(plan_command, settings, settings.command or "")
        claim = await asyncio.to_thread(Claim.take, self.workspace / "run" / "comfyui-1.lock")
        assert claim is not None
        return LaunchedServer(here, port=port, claim=claim, http=self.http, policy=policy, log_poll_s=0.02)

    async def start(self, command: str, **changes: object) -> LaunchedServer:
        server = await self.planned(self.settings(command, **changes))
        self.tasks.spawn(server.run(), name="supervise")
        await server.wait_answering()
        return server


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    make_install(tmp_path / "ComfyUI")
    async with aiohttp.ClientSession() as http, Tasks() as tasks:
        yield Host(tmp_path, http, tasks)


async def post(host: Host, server: LaunchedServer, path: str) -> None:
    with suppress(aiohttp.ClientError):
        async with host.http.post(f"{server.base_url}{path}"):
            pass


@pytest.mark.parametrize(
    ("command", "environ", "port"),
    [
        ("comfy --workspace /opt/ComfyUI launch -- --listen *", {}, USUAL_PORT),
        ("python main.py --port 9000", {}, 9000),
        ("python main.py --port=9000", {}, 9000),
        ("python main.py --port 9000", {"port": 9001}, 9001),
    ],
)
def test_it_is_expected_where_the_operator_says(
    tmp_path: Path, command: str, environ: dict[str, int], port: int
) -> None:
    """COMFYUI_PORT_HOST, else the command's own --port, else ComfyUI's usual port."""
    here, chosen = plan_command(EngineSettings(workspace=tmp_path, **environ), command)  # type: ignore[arg-type]
    assert (chosen, here.command(chosen)) == (port, tuple(command.split()))


def test_quotes_are_those_of_a_shell_and_there_is_none(tmp_path: Path) -> None:
    """Words keep their blanks; nothing is expanded. In ComfyUI's folder, where that is known."""
    settings = EngineSettings(workspace=tmp_path / "w", install_path=tmp_path)
    here, _ = plan_command(settings, """'/opt/my tools/run' --name "a b" $HOME *; ls""")
    assert here.words == ("/opt/my tools/run", "--name", "a b", "$HOME", "*;", "ls")
    assert here.cwd == tmp_path


@pytest.mark.parametrize(
    ("command", "changes", "said"),
    [("run 'x", {}, "CMD=.*quot"), (" ", {}, "CMD=.*command"), ("run", {"processes": 2}, "COMFYUI_PROCESSES=2")],
)
def test_what_can_not_be_done_is_refused(tmp_path: Path, command: str, changes: dict[str, int], said: str) -> None:
    """With the variable and what was expected; a command starts one ComfyUI."""
    with pytest.raises(SettingsError, match=said):
        plan_command(EngineSettings(workspace=tmp_path, **changes), command)  # type: ignore[arg-type]


async def test_it_is_told_where_to_listen_and_ended_with_us(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start script that hands over: it has comfyui-api's variables and none of our secrets; all of it ends."""
    monkeypatch.setenv("S3_SECRET_ACCESS_KEY", "hidden")
    script = host.workspace / "init.sh"
    script.write_text(f"#!/bin/bash\n{PYTHON} main.py --port $COMFYUI_PORT_HOST & wait\n")
    script.chmod(0o755)
    server = await host.start(str(script))
    assert server.base_url == f"http://127.0.0.1:{host.port}"
    async with host.http.get(f"{server.base_url}/fake/env") as response:
        seen = await response.json()
    assert (seen["DIRECT_ADDRESS"], seen["COMFYUI_PORT_HOST"]) == ("127.0.0.1", str(host.port))
    assert (seen["WEB_ENABLE_AUTH"], seen["CF_QUICK_TUNNELS"]) == ("false", "false")
    assert "S3_SECRET_ACCESS_KEY" not in seen
    pid = server.pid
    assert pid is not None
    parent = psutil.Process(pid)
    family = [parent, *(await asyncio.to_thread(parent.children, recursive=True))]
    assert len(family) == 2
    await host.tasks.cancel()
    await asyncio.to_thread(psutil.wait_procs, family, 60)
    assert all(gone(one.pid) for one in family)


async def test_its_folders_are_found_when_it_answers(host: Host) -> None:
    """ComfyUI's own below COMFY_HOME; others by its flags; files that it does not write there are not believed."""
    server = await host.planned(host.settings(f"{PYTHON} main.py --port {host.port}"))
    assert server.folders is None
    host.tasks.spawn(server.run(), name="supervise")
    await server.wait_answering()
    assert server.folders is not None and server.folders.output == host.root / "output"
    await host.tasks.cancel()


@pytest.mark.parametrize("known", [True, False])
async def test_flags_of_the_command_move_its_folders(host: Host, known: bool) -> None:
    """With and without COMFY_HOME; OUTPUT_DIR and INPUT_DIR need not be said twice."""
    elsewhere = host.workspace / "elsewhere"
    folders = f"--output-directory {elsewhere}/out --input-directory {elsewhere}/in"
    command = f"{PYTHON} {host.root}/main.py --port {host.port} {folders}"
    server = await host.start(command, **({} if known else {"install_path": None}))
    assert server.folders is not None
    assert (server.folders.output, server.folders.input) == (elsewhere / "out", elsewhere / "in")


@pytest.mark.parametrize("code", [0, 1])
async def test_any_end_counts_as_one(host: Host, code: int) -> None:
    """Exit code 0 too: told, and followed by a restart."""
    server = await host.start(f"{PYTHON} main.py --port {host.port}")
    reasons: asyncio.Queue[str] = asyncio.Queue()
    server.on_down(lambda reason, _: reasons.put_nowait(reason))
    await post(host, server, f"/fake/exit/{code}")
    assert await reasons.get() == f"ComfyUI ended with exit code {code}"
    await server.wait_answering()
    assert server.generation == 2


async def test_without_always_restart_its_end_is_ours(host: Host) -> None:
    """ALWAYS_RESTART_COMFYUI=false, exit code 0: the supervising loop, which is vital, ends with the cause."""
    settings = host.settings(f"{PYTHON} main.py --port {host.port}")
    server = await host.planned(settings, policy=replace(QUICK, always_restart=False))
    running = host.tasks.spawn(server.run(), name="supervise")
    await server.wait_answering()
    await post(host, server, "/fake/exit/0")
    with pytest.raises(EngineDied, match=r"ALWAYS_RESTART_COMFYUI is false: .* exit code 0"):
        await running


async def stranger_at(port: int) -> TestServer:
    """Somebody else's ComfyUI."""

    async def stats(request: web.Request) -> web.Response:
        return web.json_response({"system": {"argv": ["main.py"]}, "devices": []})

    app = web.Application()
    app.router.add_get("/system_stats", stats)
    server = TestServer(app, port=port)
    await server.start_server()
    return server


async def test_a_taken_port_is_named_and_nothing_is_started(host: Host) -> None:
    """A ComfyUI that runs there already is not taken for the command's."""
    stranger = await stranger_at(host.port)
    server = await host.planned(host.settings(f"{PYTHON} main.py --port {host.port}"))
    with pytest.raises(EngineDied, match=rf"port {host.port} is taken by another program \(COMFYUI_PORT_HOST\)"):
        await server.run()
    assert server.generation == 0
    await stranger.close()


async def test_a_stranger_that_comes_first_is_not_believed(host: Host) -> None:
    """It answers while the command still loads; the listener must be the command's own."""
    command = f"{PYTHON} -c 'import signal; signal.pause()'"
    policy = replace(QUICK, startup_timeout_s=2.0, first_attempts=1, patience_s=0.5)
    server = await host.planned(host.settings(command), policy=policy)
    running = host.tasks.spawn(server.run(), name="supervise")
    while server.pid is None:
        await asyncio.sleep(0)
    stranger = await stranger_at(host.port)
    with pytest.raises(EngineDied, match=f"did not answer.*port {host.port} is taken"):
        await running
    await stranger.close()


def test_who_listens_is_told_from_the_sockets() -> None:
    """A process, its children, and what they left behind in its session; nobody else."""
    script = (
        "import os, socket, sys, time\n"
        "if os.fork(): time.sleep(60)\n"
        "if os.fork(): os._exit(0)\n"
        "s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    with process.stdout as told, socket.create_server(("127.0.0.1", 0)) as ours:
        port = int(told.readline())
        assert listens(process.pid, port)
        assert not listens(process.pid, ours.getsockname()[1])
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        told.read()  # until the last of them is gone
    assert not listens(process.pid, port)


async def test_after_we_were_killed_it_is_found_again_although_it_changed(host: Host) -> None:
    """A start script replaces itself by another program; its session and its start tell it."""
    line = f"exec {PYTHON} main.py --port {host.port}"
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", line, cwd=host.root, start_new_session=True, stderr=asyncio.subprocess.DEVNULL
    )
    created = await asyncio.to_thread(created_at, process.pid)
    record = RunRecord(
        pid=process.pid,
        created=created,
        port=host.port,
        command=("bash", "-c", line),
        output="",
        input="",
        temp="",
        changeable=True,
    )
    await asyncio.to_thread(record.write, host.workspace / "run" / "comfyui-1.json")
    server = await host.start(shlex.join(("bash", "-c", line)))
    assert (server.pid, server.generation) == (process.pid, 1)
    await host.tasks.cancel()
    await process.wait()


async def test_a_command_that_is_not_there_is_named(host: Host) -> None:
    """At once: trying again can't help."""
    server = await host.planned(host.settings("/nowhere/init.sh"))
    with pytest.raises(EngineUnreachable, match=r"/nowhere/init\.sh"):
        await server.run()


async def test_the_command_goes_before_what_runs_and_after_what_is_named(host: Host) -> None:
    """COMFYUI_API_BASE is attached to; a ComfyUI at a usual port and a serverless host's supervisor are not waited
    for."""
    stranger = await stranger_at(0)
    command = f"{PYTHON} main.py --port {host.port}"
    try:
        for serverless in (False, True):
            async with Tasks() as tasks:
                settings = host.settings(command)
                ports = (stranger.port or 0,)
                (server,) = await servers(
                    settings, serverless=serverless, http=host.http, tasks=tasks, usual_ports=ports
                )
                assert isinstance(server, LaunchedServer)
                await server.wait_answering()
                assert server.base_url == f"http://127.0.0.1:{host.port}"
        attached = host.settings(command, api_base=str(stranger.make_url("")))
        (other,) = await servers(attached, serverless=False, http=host.http, tasks=host.tasks)
        assert isinstance(other, AttachedServer)
    finally:
        await stranger.close()


async def test_two_workers_of_one_workspace_do_not_share_a_command(host: Host) -> None:
    """The second is told, instead of starting a second ComfyUI at the same port."""
    settings = host.settings("run")
    (server,) = await launch(settings, http=host.http, clock=SystemClock())
    with pytest.raises(EngineUnreachable, match="WORKSPACE_DIR"):
        await launch(settings, http=host.http, clock=SystemClock())
    await server.close()
