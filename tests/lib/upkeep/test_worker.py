"""lib.upkeep.worker and .ask: the tick in the worker, and what the cron process learns from it."""

import os
import sys
from asyncio import create_subprocess_exec, create_task, subprocess, to_thread
from collections.abc import Mapping
from pathlib import Path

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from lib.clock import SystemClock
from lib.errors import NotReady
from lib.settings import StorageSettings, UpkeepSettings
from lib.upkeep.ask import Door, ask, door, recorded_areas
from lib.upkeep.sweep import Areas
from lib.upkeep.worker import Upkeep, limits_of
from tests.fakes.clock import FakeClock, settle

FULL = UpkeepSettings(max_age_s=100, min_free_bytes=1 << 60)


def old_file(path: Path, *, age_s: float = 5000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    used = SystemClock().now().timestamp() - age_s
    os.utime(path, (used, used))
    return path


def upkeep_of(outputs: Path, *live: Path) -> Upkeep:
    return Upkeep(
        limits=limits_of(FULL, StorageSettings()),
        areas=lambda: Areas(outputs=(outputs,)),
        live=lambda: [str(path) for path in live],
    )


async def informed(upkeep: Upkeep) -> Upkeep:
    """As the worker's loop begins, once it has taken up what was recorded."""
    running = create_task(upkeep.run(FakeClock()))
    await settle()
    running.cancel()
    return upkeep


async def listening(upkeep: Upkeep) -> TestServer:
    async def live(request: web.Request) -> web.Response:
        return web.json_response(upkeep.answer())

    app = web.Application()
    app.router.add_get("/internal/live", live)
    server = TestServer(app)
    await server.start_server()
    return server


async def test_a_tick_cleans_up_around_live_jobs(tmp_path: Path) -> None:
    """Folders and live paths are those of the moment."""
    gone, kept = old_file(tmp_path / "a" / "1"), old_file(tmp_path / "b" / "1")
    report = await upkeep_of(tmp_path, kept.parent).tick()
    assert report.files == (gone,) and kept.exists()


async def test_before_everything_is_known_nothing_is_told(tmp_path: Path) -> None:
    """Files of jobs that are recorded and not taken up yet would look dead."""
    with pytest.raises(NotReady):
        upkeep_of(tmp_path).answer()


async def test_the_cron_process_learns_what_is_live(tmp_path: Path) -> None:
    """The answer crosses HTTP unchanged; where the listener is stands in the workspace."""
    upkeep = await informed(upkeep_of(tmp_path / "out", tmp_path / "out" / "job"))
    server = await listening(upkeep)
    record = tmp_path / "run" / "worker.json"
    record.parent.mkdir()
    record.write_bytes(orjson.dumps({"api_base": str(server.make_url("")).rstrip("/")}))
    try:
        told = await to_thread(lambda: ask(door(tmp_path, None)))
    finally:
        await server.close()
    assert told is not None
    assert tmp_path / "out" / "job" / "x.png" in told.live and tmp_path / "out" / "y" not in told.live
    assert told.areas == Areas(outputs=(tmp_path / "out",))


async def test_without_an_answer_there_is_none(tmp_path: Path) -> None:
    """Nobody there, somebody else there, or nonsense: the same."""
    assert door(tmp_path, None).base == "http://127.0.0.1:18288"
    assert await to_thread(ask, Door(base="http://127.0.0.1:1")) is None

    async def nonsense(request: web.Request) -> web.Response:
        return web.Response(text='{"paths": 3}')

    app = web.Application()
    app.router.add_get("/internal/live", nonsense)
    async with TestServer(app) as server:
        assert await to_thread(ask, Door(base=str(server.make_url("")))) is None
    async with TestServer(web.Application()) as server:
        assert await to_thread(ask, Door(base=str(server.make_url("")))) is None


def test_a_workspace_shows_its_folders(tmp_path: Path) -> None:
    """Launched processes recorded theirs, what we fetched lies in the workspace; of inputs only our part."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "comfyui-1.json").write_text('{"output": "/o", "input": "/i", "temp": "/t"}')
    (tmp_path / "run" / "comfyui-2.json").write_text("{broken")
    areas = recorded_areas(tmp_path, fetched=tmp_path / "cache")
    assert areas.outputs == (Path("/o"), tmp_path / "output", tmp_path / "outputs") and areas.temps == (Path("/t"),)
    assert Path("/i/pyworker") in areas.inputs and Path("/i/3d/pyworker") in areas.inputs
    assert tmp_path / "cache" in areas.inputs and Path("/i") not in areas.inputs


async def run_command(
    workspace: Path, *arguments: str, port: int = 1, variables: Mapping[str, str] | None = None
) -> tuple[int, str]:
    environment = {**os.environ, "WORKSPACE_DIR": str(workspace), "API_PORT": str(port)}
    environment |= {"CLEANUP_MAX_AGE_S": "3600", "CLEANUP_MIN_FREE_BYTES": str(1 << 60), **(variables or {})}
    process = await create_subprocess_exec(
        *(sys.executable, "-m", "lib.upkeep", *arguments), env=environment, stdout=subprocess.PIPE
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def test_by_hand_it_says_what_goes_and_spares_what_may_be_live(tmp_path: Path) -> None:
    """No worker answers: only files of twice the age go. A dry run removes nothing."""
    older = old_file(tmp_path / "output" / "older", age_s=8000)
    younger = old_file(tmp_path / "output" / "younger", age_s=4000)
    code, said = await run_command(tmp_path, "--dry-run")
    assert code == 0 and f"would be removed: {older}" in said and "1 files" in said and older.exists()
    code, said = await run_command(tmp_path, "--output", str(tmp_path / "output"))
    assert code == 0 and not older.exists() and younger.exists()


async def test_by_hand_it_looks_into_the_cache_that_is_set(tmp_path: Path) -> None:
    """Of ``CACHE_DIR`` only our own folder is gone through; the rest of it is somebody else's."""
    ours = old_file(tmp_path / "cache" / "pyworker" / "a", age_s=8000)
    foreign = old_file(tmp_path / "cache" / "b", age_s=8000)
    code, said = await run_command(tmp_path, variables={"CACHE_DIR": str(tmp_path / "cache")})
    assert code == 0 and f"removed: {ours}" in said and not ours.exists() and foreign.exists()


async def test_by_hand_it_keeps_what_the_worker_calls_live(tmp_path: Path) -> None:
    """And looks through the worker's folders."""
    gone, kept = old_file(tmp_path / "far" / "a" / "1"), old_file(tmp_path / "far" / "b" / "1")
    server = await listening(await informed(upkeep_of(tmp_path / "far", kept)))
    try:
        code, said = await run_command(tmp_path, port=server.port or 0)
    finally:
        await server.close()
    assert code == 0 and f"removed: {gone}" in said and kept.exists()
