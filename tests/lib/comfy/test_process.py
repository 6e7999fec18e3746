"""lib.comfy.process: a ComfyUI of ours is kept running, found again, and given up with its reason."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import orjson
import psutil
import pytest

from lib.clock import SystemClock
from lib.comfy.attached import AttachedServer
from lib.comfy.child import Claim, RunRecord
from lib.comfy.discover import launch
from lib.comfy.install import Install, Launch, plan
from lib.comfy.ports import CareAction
from lib.comfy.process import LaunchedServer
from lib.comfy.restarts import RestartPolicy
from lib.errors import EngineDied, EngineUnreachable
from lib.lifecycle import Tasks
from lib.settings import EngineSettings
from tests.comfyui_fixture import free_port, install_record
from tests.fakes.process_comfyui import make_install

QUICK = RestartPolicy(backoff_s=0.01, backoff_max_s=0.02, patience_s=5.0)


@dataclass
class Host:
    """A workspace with a fake installation; starts servers and ends what is left of them."""

    workspace: Path
    http: aiohttp.ClientSession
    tasks: Tasks
    orphans: list[int] = field(default_factory=list)

    async def launch(self, *, mode: str = "", args: str = "") -> Launch:
        settings = EngineSettings(workspace=self.workspace, args=args)
        install = Install(
            python=Path(sys.executable), root=self.workspace / "ComfyUI", env={"FAKE_MODE": mode}, device="cpu"
        )
        return await asyncio.to_thread(plan, settings, install, number=1)

    async def server(self, launch: Launch, *, policy: RestartPolicy = QUICK, port: int = 0) -> LaunchedServer:
        claim = await asyncio.to_thread(Claim.take, self.workspace / "run" / "comfyui-1.lock")
        assert claim is not None
        return LaunchedServer(
            launch, port=port or free_port(), claim=claim, http=self.http, policy=policy, log_poll_s=0.02
        )

    async def start(self, **options: str) -> LaunchedServer:
        server = await self.server(await self.launch(**options))
        self.tasks.spawn(server.run(), name="supervise")
        await server.wait_answering()
        return server

    async def post(self, server: LaunchedServer, path: str, body: str = "") -> None:
        with suppress(aiohttp.ClientError):
            async with self.http.post(f"{server.base_url}{path}", data=body.encode()):
                pass


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    make_install(tmp_path / "ComfyUI")
    async with aiohttp.ClientSession() as http, Tasks() as tasks:
        host = Host(tmp_path, http, tasks)
        yield host
    for pid in host.orphans:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def gone(pid: int) -> bool:
    """Whether it has ended (who inherited it may not have asked for its exit code yet)."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def down_event(server: LaunchedServer) -> Callable[[], Awaitable[str]]:
    reasons: asyncio.Queue[str] = asyncio.Queue()
    server.on_down(lambda reason, _: reasons.put_nowait(reason))
    return reasons.get


async def test_a_server_is_started_with_folders_of_its_own_and_ended_with_us(host: Host) -> None:
    """Started: folders exist, the record names it, it answers. Closed: the process and its record are gone."""
    server = await host.start()
    pid = server.pid
    record = await asyncio.to_thread(RunRecord.find, host.workspace / "run" / "comfyui-1.json")
    assert record is not None and record.pid == pid
    assert server.folders is not None and server.folders.input == host.workspace / "ComfyUI" / "input"
    assert server.folders.output.is_dir() and (host.workspace / "user" / "comfyui-1").is_dir()
    assert (server.generation, server.down_reason) == (1, None)
    await host.tasks.cancel()
    assert pid is not None and not psutil.pid_exists(pid)
    assert not (host.workspace / "run" / "comfyui-1.json").exists()
    with pytest.raises(EngineUnreachable):
        await server.wait_answering()


async def test_a_crash_is_told_and_followed_by_a_restart(host: Host) -> None:
    """The exit code and the last log lines are known, the next process answers under a new generation."""
    server = await host.start()
    down = down_event(server)
    await host.post(server, "/fake/exit/134")
    assert await down() == "ComfyUI ended with exit code 134"
    assert server.log_tail(1) == ("about to end",)
    await server.wait_answering()
    assert (server.generation, server.down_reason) == (2, None)


async def test_a_planned_restart_is_no_failure(host: Host) -> None:
    """No pause, no count, not even where ComfyUI's own end would be the worker's."""
    policy = RestartPolicy(backoff_s=600, patience_s=5.0, always_restart=False)
    server = await host.server(await host.launch(), policy=policy)
    told: list[tuple[str, CareAction | None]] = []
    server.on_down(lambda reason, action: told.append((reason, action)))
    host.tasks.spawn(server.run(), name="supervise")
    for generation in (2, 3):
        await server.wait_answering()
        assert await server.restart("so many jobs", planned=True) is True
        assert await server.restart("so many jobs", planned=True) is False
        async with asyncio.timeout(60):
            await server.wait_answering()
        assert server.generation == generation
    assert told == [("so many jobs", None)] * 2


async def test_what_it_does_by_itself_is_told(host: Host) -> None:
    """Its own end and a dead executor; an end that was asked for is told by who asked."""
    server = await host.start()
    told: asyncio.Queue[CareAction | None] = asyncio.Queue()
    server.on_down(lambda _, action: told.put_nowait(action))
    await host.post(server, "/fake/exit/1")
    assert await told.get() is CareAction.RESTARTED_DIED
    await server.wait_answering()
    await host.post(server, "/fake/log", "pyworker: the executor thread has ended")
    assert await told.get() is CareAction.RESTARTED_EXECUTOR
    await server.wait_answering()
    await server.restart("asked for")
    assert await told.get() is None


async def test_a_killed_process_is_named_by_its_signal(host: Host) -> None:
    """SIGKILL (the kernel's out-of-memory killer) shows as such."""
    server = await host.start()
    down = down_event(server)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    assert await down() == "ComfyUI was ended by SIGKILL"
    await server.wait_answering()
    assert server.generation == 2


async def test_a_dead_executor_thread_causes_a_restart(host: Host) -> None:
    """HTTP still answers 200 then; the log line is the sign."""
    server = await host.start()
    down = down_event(server)
    await host.post(server, "/fake/log", "Exception in thread Thread-7 (prompt_worker):")
    assert await down() == "ComfyUI's executor thread died"
    await server.wait_answering()
    assert server.generation == 2


async def test_restart_is_idempotent_while_one_is_under_way(host: Host) -> None:
    """Three requests at once cost one restart, and one notice."""
    server = await host.start()
    reasons: list[str] = []
    server.on_down(lambda reason, _: reasons.append(reason))
    for _ in range(3):
        await server.restart("node ignored the interrupt")
    assert server.down_reason == "node ignored the interrupt"
    await server.wait_answering()
    assert (server.generation, reasons) == (2, ["node ignored the interrupt"])


async def test_without_always_restart_the_end_is_an_error(host: Host) -> None:
    """``ALWAYS_RESTART_COMFYUI=false``: run raises, with code, last lines and where the log is."""
    server = await host.server(await host.launch(), policy=replace(QUICK, always_restart=False))
    running = host.tasks.spawn(server.run(), name="supervise")
    await server.wait_answering()
    await host.post(server, "/fake/exit/3")
    with pytest.raises(EngineDied) as caught:
        await running
    assert caught.value.details["exit_code"] == 3
    assert "about to end" in str(caught.value.details["log_tail"])
    assert not caught.value.started
    with pytest.raises(EngineUnreachable):
        await server.restart("again")


async def test_a_bad_flag_is_not_tried_again(host: Host) -> None:
    """Exit code 2 is a usage error: one start, then a clear error, also for those who wait."""
    server = await host.server(await host.launch(mode="exit:2"))
    running = host.tasks.spawn(server.run(), name="supervise")
    with pytest.raises(EngineDied, match="this start went wrong"):
        await server.wait_answering()
    with pytest.raises(EngineDied):
        await running
    assert server.generation == 1


async def test_a_server_that_never_comes_up_is_given_up(host: Host) -> None:
    """Three starts with growing pauses, then the error has the last log lines."""
    server = await host.server(await host.launch(mode="exit:1"))
    with pytest.raises(EngineDied, match="does not start: ComfyUI ended with exit code 1"):
        await server.run()
    assert server.generation == QUICK.first_attempts


async def test_a_start_that_hangs_is_ended(host: Host) -> None:
    """``COMFYUI_STARTUP_TIMEOUT_S`` bounds it, and is named."""
    server = await host.server(
        await host.launch(mode="hang"), policy=replace(QUICK, startup_timeout_s=0.5, first_attempts=1, patience_s=0.5)
    )
    with pytest.raises(EngineDied, match="COMFYUI_STARTUP_TIMEOUT_S"):
        await server.run()


async def test_a_missing_interpreter_is_an_error_with_its_path(host: Host) -> None:
    """Nothing is tried twice when there is nothing to start."""
    launch = await host.launch()
    gone = replace(launch, install=replace(launch.install, python=Path("/nowhere/python")))
    with pytest.raises(EngineUnreachable, match="/nowhere/python"):
        await (await host.server(gone)).run()


async def test_a_stubborn_process_is_killed(host: Host) -> None:
    """SIGINT and SIGTERM are ignored: SIGKILL ends it."""
    server = await host.server(await host.launch(mode="stubborn"), policy=replace(QUICK, patience_s=0.1))
    host.tasks.spawn(server.run(), name="supervise")
    await server.wait_answering()
    pid = server.pid
    await host.tasks.cancel()
    assert pid is not None and not psutil.pid_exists(pid)


async def test_what_it_started_dies_with_it(host: Host) -> None:
    """A custom node's own child process does not outlive ComfyUI."""
    server = await host.server(await host.launch(mode="parent"))
    host.tasks.spawn(server.run(), name="supervise")
    await server.wait_answering()
    line = next(
        line for line in (host.workspace / "logs" / "comfyui-1.log").read_text().splitlines() if "grand" in line
    )
    grandchild = psutil.Process(int(line.split()[-1]))
    await host.tasks.cancel()
    await asyncio.to_thread(psutil.wait_procs, [grandchild], 60)
    assert gone(grandchild.pid)


async def test_a_port_that_was_taken_meanwhile_is_left_for_the_next(host: Host) -> None:
    """The stranger there, a ComfyUI too, is not mistaken for ours; ``base_url`` moves on."""
    stranger = await host.start()
    second = Host(host.workspace / "second", host.http, host.tasks)
    make_install(second.workspace / "ComfyUI")
    taken = int(stranger.base_url.rpartition(":")[2])
    server = await second.server(await second.launch(), port=taken)
    host.tasks.spawn(server.run(), name="second")
    await server.wait_answering()
    assert int(server.base_url.rpartition(":")[2]) > taken
    assert stranger.generation == 1


async def test_the_child_has_the_records_variables_and_none_of_our_secrets(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Custom nodes run there: the operator's keys stay here."""
    monkeypatch.setenv("S3_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("HF_HOME", "/models")
    server = await host.start(mode="normal")
    async with host.http.get(f"{server.base_url}/fake/env") as response:
        seen = await response.json()
    assert "S3_SECRET_ACCESS_KEY" not in seen
    assert (seen["FAKE_MODE"], seen["HF_HOME"]) == ("normal", "/models")


PARENT = """
import asyncio, sys
from pathlib import Path
import aiohttp
from tests.lib.comfy.test_process import Host
from lib.lifecycle import Tasks

async def main():
    async with aiohttp.ClientSession() as http, Tasks() as tasks:
        server = await Host(Path(sys.argv[1]), http, tasks).start()
        print(server.pid, server.base_url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def killed_parent(host: Host) -> tuple[int, str]:
    """Run a worker of this workspace in another process, kill it hard; return what it left running."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(host.workspace), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid, base_url = (await parent.stdout.readline()).decode().split()
    host.orphans.append(int(pid))
    parent.kill()
    await parent.wait()
    return int(pid), base_url


async def test_after_we_were_killed_the_process_is_found_again(host: Host) -> None:
    """Same process, same port, no second start; its log is followed on, and it is restarted when it ends."""
    pid, base_url = await killed_parent(host)
    server = await host.start()
    assert (server.pid, server.base_url, server.generation) == (pid, base_url, 1)
    assert "Starting server" in server.log_tail()
    await host.post(server, "/fake/log", "written after the kill")
    down = down_event(server)
    await host.post(server, "/fake/exit/9")
    assert await down() == "ComfyUI ended"
    assert "written after the kill" in server.log_tail()
    await server.wait_answering()
    assert server.generation == 2 and server.pid != pid


async def test_what_is_found_again_is_planned_at_its_own_port(host: Host) -> None:
    """Whoever asks for the base URL before it answers gets the right one, not that of a next free port."""
    pid, base_url = await killed_parent(host)
    root = host.workspace / "ComfyUI"
    record = {"python": sys.executable, "root": str(root), "env": {"FAKE_MODE": ""}, "device": "cpu"}
    (host.workspace / "comfyui.json").write_bytes(orjson.dumps(record))
    settings = EngineSettings(workspace=host.workspace, port=int(base_url.rpartition(":")[2]))
    (server,) = await launch(settings, http=host.http, clock=SystemClock())
    assert server.base_url == base_url
    host.tasks.spawn(server.run(), name="supervise")
    await server.wait_answering()
    assert (server.pid, server.base_url) == (pid, base_url)


async def test_a_left_over_with_other_settings_is_replaced(host: Host) -> None:
    """New flags take effect: the old process goes before the new one comes."""
    pid, _ = await killed_parent(host)
    server = await host.start(args="--lowvram")
    assert server.pid != pid and gone(pid)


async def test_another_process_with_that_number_is_left_alone(host: Host) -> None:
    """A record whose start time or command does not fit is stale."""
    me = psutil.Process()
    record = {"pid": me.pid, "created": me.create_time() - 100, "port": 1, "command": ["x"]}
    path = host.workspace / "run" / "comfyui-1.json"
    path.parent.mkdir()
    path.write_bytes(orjson.dumps(record | {"output": "", "input": "", "temp": ""}))
    assert await asyncio.to_thread(RunRecord.find, path) is None
    path.write_bytes(orjson.dumps(record | {"created": me.create_time(), "output": "", "input": "", "temp": ""}))
    assert await asyncio.to_thread(RunRecord.find, path) is None
    path.write_bytes(b"{broken")
    server = await host.start()
    assert server.generation == 1


@pytest.mark.comfyui
async def test_a_real_comfyui_is_started_killed_and_comes_back(host: Host) -> None:
    """Its real command line is accepted, its folders are used, and it answers again under a new generation."""
    record = install_record()
    install = Install(
        python=Path(str(record["python"])),
        root=Path(str(record["root"])),
        env={str(name): str(value) for name, value in dict(record["env"] or {}).items()},  # type: ignore[call-overload]
        device="cpu",
    )
    settings = EngineSettings(workspace=host.workspace, input_path=host.workspace / "input")
    server = await host.server(await asyncio.to_thread(plan, settings, install, number=1))
    host.tasks.spawn(server.run(), name="supervise")
    await server.wait_answering()
    assert any("ComfyUI version" in line for line in server.log_tail(200))
    assert server.pid is not None and (host.workspace / "user" / "comfyui-1" / "comfyui.db").is_file()
    down = down_event(server)
    os.kill(server.pid, signal.SIGKILL)
    assert await down() == "ComfyUI was ended by SIGKILL"
    await server.wait_answering()
    assert server.generation == 2
    attached = AttachedServer(server.base_url, name="a", http=host.http, settings=EngineSettings(), restart_cmd=None)
    await attached.wait_answering()
    assert attached.folders == server.folders
    pid = server.pid
    await host.tasks.cancel()
    assert pid is not None and gone(pid)
