"""Both sides of the comparison: ComfyUI's own protocol, and our API listener as its caller sees it."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmark.boot import boot_benchmark
from benchmark.ours import ApiClient
from benchmark.raw import RawComfy
from benchmark.runners import ApiRunner, RawRunner
from benchmark.servers import NoComfyUI, find_record
from benchmark.settings import BenchmarkSettings
from lib.errors import EngineUnreachable, ExecutionFailed, InvalidWorkflow, JobTimeout, ServiceError
from tests.fakes.comfyui import FakeComfyUI
from tests.fakes.workflows import node, picture, through


@pytest_asyncio.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeComfyUI]:
    async with FakeComfyUI(tmp_path / "comfyui") as server:
        yield server


async def test_raw_brings_the_files_home(fake: FakeComfyUI) -> None:
    """POST, end marker, history, view, in that order and nothing else."""
    async with RawComfy(fake.base_url) as raw:
        run = await raw.run(picture())
    assert [data[:4] for data in run.files] == [b"\x89PNG"]
    assert 0 <= run.execute_s <= run.total_s + 0.002  # ComfyUI stamps whole milliseconds
    calls = [call for call in fake.requests if "/ws" not in call]
    assert [call.split("/")[1] for call in calls] == ["prompt", "history", "view"]


async def test_raw_keeps_prompts_apart(fake: FakeComfyUI) -> None:
    """Twenty prompts in flight over one socket: each ends with its own file."""
    async with RawComfy(fake.base_url) as raw:
        runs = await asyncio.gather(*(raw.run(picture(f"bench/{number}/x")) for number in range(20)))
    assert len({run.files for run in runs}) == 20


async def test_raw_says_what_comfyui_refuses_and_what_fails(fake: FakeComfyUI) -> None:
    """A refused graph and a failing node are two kinds of error, neither is a fast run."""
    async with RawComfy(fake.base_url) as raw:
        with pytest.raises(InvalidWorkflow, match="NoSuchNode"):
            await raw.run({"1": node("NoSuchNode")})
        with pytest.raises(ExecutionFailed, match="HWFail"):
            await raw.run(through("HWFail", kind="value"))


async def test_raw_ends_when_comfyui_does(fake: FakeComfyUI) -> None:
    """A lost socket fails what is in flight, and nothing waits for ever."""
    async with RawComfy(fake.base_url) as raw:
        job = asyncio.gather(raw.run(through("HWSleep", seconds=60.0)), return_exceptions=True)
        while not fake.posted:
            await asyncio.sleep(0)
        await fake.kill()
        (error,) = await job
    assert isinstance(error, EngineUnreachable)
    with pytest.raises(EngineUnreachable, match="No ComfyUI answers"):
        async with RawComfy(fake.base_url):
            pass


async def test_raw_gives_up_after_the_timeout(fake: FakeComfyUI) -> None:
    """A run that takes too long is an error of its own."""
    async with RawComfy(fake.base_url) as raw:
        with pytest.raises(JobTimeout):
            await raw.run(through("HWSleep", seconds=5.0), timeout_s=0.05)


async def test_the_boot_benchmark_runs_on_a_bare_comfyui(fake: FakeComfyUI, tmp_path: Path) -> None:
    """``python -m benchmark boot``: each run draws another random number, as the service would."""
    graph = picture(prefix="bench/__RANDOM_INT__")
    (tmp_path / "own.json").write_text(json.dumps(graph))
    async with RawComfy(fake.base_url) as raw:
        result = await boot_benchmark(
            RawRunner(raw),
            workspace=tmp_path,
            announce=lambda line: None,
            settings=BenchmarkSettings(json_path=tmp_path / "own.json"),
            operator_file=tmp_path / "absent.json",
        )
    assert result.perf > 0
    assert result.facts.comfyui == "0.3.75"
    prefixes = {body["prompt"]["2"]["inputs"]["filename_prefix"] for body in fake.posted}
    assert len(prefixes) == len(fake.posted) >= 4


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (422, {"detail": "workflow_json: missing"}, InvalidWorkflow),
        (400, {"message": "no such node"}, InvalidWorkflow),
        (500, {"status": "failed", "message": "boom"}, ExecutionFailed),
        (499, {"status": "cancelled", "message": "cancelled"}, ExecutionFailed),
        (200, {"status": "failed", "message": "boom"}, ExecutionFailed),
    ],
)
async def test_a_job_that_did_not_complete_is_never_a_time(
    status: int, body: dict[str, str], error: type[ServiceError]
) -> None:
    """Only 200 and ``completed`` counts."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    app = web.Application()
    app.router.add_post("/generate/sync", answer)
    async with TestServer(app) as server, ApiClient(str(server.make_url("/"))) as api:
        with pytest.raises(error, match=next(iter(body.values())) if "detail" in body else body["message"]):
            await ApiRunner(api).run(b"{}", engine="service", timeout_s=60)


async def test_no_service_is_said() -> None:
    """Nobody listens: one clear error."""
    async with ApiClient("http://127.0.0.1:9") as api:
        with pytest.raises(EngineUnreachable, match="does not answer"):
            await api.run({})
        with pytest.raises(EngineUnreachable, match="does not answer"):  # what ``benchmark boot --api`` asks first
            await ApiRunner(api).system_stats()


def test_the_installed_comfyui_is_found_by_its_record(tmp_path: Path) -> None:
    """COMFYUI_TEST_DIR names the folder; without a record there the way out is told."""
    with pytest.raises(NoComfyUI, match="make setup"):
        find_record({"COMFYUI_TEST_DIR": str(tmp_path)})
    (tmp_path / "comfyui.json").write_text("{}")
    assert find_record({"COMFYUI_TEST_DIR": str(tmp_path)}) == tmp_path / "comfyui.json"
