"""Our router as a process, our worker on a real ComfyUI behind it, and the unmodified ``vastai`` SDK in front."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.comfyui_fixture import RealComfyUI, free_port
from tests.integration.harness import WorkerProcess, picture, worker
from tests.integration.router_process import TOKEN, RouterProcess, router_process, terse_worker
from tests.peers.vast.sdk import drive, sdk_python

WORKER = 42


@pytest.fixture(scope="module")
def python() -> Path:
    return sdk_python()


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterProcess]:
    with router_process(tmp_path_factory.mktemp("router"), "ep", "full", "broken", "dead") as process:
        yield process


@pytest.fixture(scope="module")
def real_worker(
    router: RouterProcess, real_comfyui: RealComfyUI, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    """Reports to the router as the endpoint ``ep``'s."""
    port = str(free_port())
    with worker(
        tmp_path_factory.mktemp("worker"),
        COMFYUI_API_BASE=real_comfyui.base_url,
        SERVERLESS="true",
        REPORT_ADDR=f"{router.url}/e/ep",
        CONTAINER_ID=str(WORKER),
        MASTER_TOKEN=TOKEN,
        PUBLIC_IPADDR="127.0.0.1",
        WORKER_PORT=port,
        WORKER_HOST="127.0.0.1",
        USE_SSL="false",
    ) as process:
        process.public = f"http://127.0.0.1:{port}"
        process.wait_for(lambda: _status(router) == "idle", "known to the router as ready")
        yield process


def _status(router: RouterProcess) -> str:
    return str(router.workers("ep").get(WORKER, {}).get("status"))


def sdk(python: Path, router: RouterProcess, scenario: str, **options: Any) -> list[dict[str, Any]]:
    return asyncio.run(drive(python, scenario, router=router.url, **options))


def made(graph: dict[str, Any]) -> dict[str, Any]:
    return {"input": {"workflow_json": graph}}


@pytest.mark.comfyui
def test_requests_are_routed_and_made(router: RouterProcess, real_worker: WorkerProcess, python: Path) -> None:
    """Four at once, more than the worker has places: each waits its turn at the router, and none is refused."""
    payload = made(picture(701, prefix="router/__RANDOM_INT__"))
    results = sdk(python, router, "request", payload=payload, count=4)
    assert [(result["ok"], result["status"]) for result in results] == [(True, 200)] * 4
    assert all(result["response"]["status"] == "completed" for result in results)
    assert len({result["request_idx"] for result in results}) == 4
    assert {result["url"].rsplit("/generate", 1)[0] for result in results} == {real_worker.public}


@pytest.mark.comfyui
def test_a_session_holds_and_frees_the_worker(router: RouterProcess, real_worker: WorkerProcess, python: Path) -> None:
    """Routed once, used, closed; then the router gives the worker to the next."""
    payload = made(picture(702, prefix="router/__RANDOM_INT__"))
    opened, *results, is_open, closed = sdk(python, router, "session", payload=payload, count=2)
    assert opened["session_id"] and is_open["value"] is True and "closed session" in closed["error"]
    assert [result["status"] for result in results] == [200, 200]
    (after,) = sdk(python, router, "request", payload=payload)
    assert after["ok"] is True


@pytest.mark.comfyui
def test_the_worker_is_listed(router: RouterProcess, real_worker: WorkerProcess, python: Path) -> None:
    """As the SDK reads it: its number, ready, with a measured speed."""
    (listed,) = [one for one in sdk(python, router, "workers") if one["id"] == WORKER]
    assert listed["status"] == "idle"
    assert listed["perf"] > 0


@pytest.mark.comfyui
def test_a_dead_worker_costs_one_try(router: RouterProcess, real_worker: WorkerProcess, python: Path) -> None:
    """It looks much faster, but nobody answers there: the SDK comes back at once and gets the living one."""
    dead = 99
    fields = {"id": dead, "version": "1.1.0", "loadtime": 1.0, "max_perf": 1e6, "cur_load": 0.0}
    router.tell("ep", "/worker_status/", **fields, url=f"http://127.0.0.1:{free_port()}")
    (result,) = sdk(python, router, "request", payload=made(picture(703, prefix="router/__RANDOM_INT__")))
    assert (result["ok"], result["status"]) == (True, 200)
    assert result["url"].startswith(real_worker.public)
    assert router.given("ep", dead) == 1
    assert router.workers("ep")[dead]["status"] == "error"


def test_a_full_worker_is_asked_again_later(router: RouterProcess, python: Path) -> None:
    """429 twice, then it works: the same number all the time, a few routes and no storm."""
    with terse_worker(router, "full", 1, 429, 429, 200) as full:
        (result,) = sdk(python, router, "request", endpoint="full")
    assert (result["ok"], result["status"]) == (True, 200)
    assert [call["auth_data"]["request_idx"] for call in full.calls] == [result["request_idx"]] * 3
    assert router.given("full", 1) == 3


def test_a_broken_worker_is_left_for_a_sound_one(router: RouterProcess, python: Path) -> None:
    """500 from the faster one: the retry goes to the other."""
    with terse_worker(router, "broken", 1, 500) as broken, terse_worker(router, "broken", 2, 200) as sound:
        broken.report(max_perf=10_000.0)
        (result,) = sdk(python, router, "request", endpoint="broken")
    assert (result["ok"], result["status"]) == (True, 200)
    assert (len(broken.calls), len(sound.calls)) == (1, 1)


def test_nobody_spins_while_only_a_dead_worker_is_there(router: RouterProcess, python: Path) -> None:
    """The SDK retries without a pause when a connection fails; it is held until a living worker comes."""

    async def scene() -> list[dict[str, Any]]:
        fields = {"id": 1, "version": "1.1.0", "loadtime": 1.0, "max_perf": 100.0, "cur_load": 0.0}
        url = f"http://127.0.0.1:{free_port()}"
        await asyncio.to_thread(router.tell, "dead", "/worker_status/", **fields, url=url)
        asking = asyncio.ensure_future(drive(python, "request", router=router.url, endpoint="dead"))
        while not await asyncio.to_thread(router.given, "dead", 1):
            assert not asking.done()
        with terse_worker(router, "dead", 2, 200):
            return await asking

    (result,) = asyncio.run(scene())
    assert (result["ok"], result["status"]) == (True, 200)
    assert router.given("dead", 1) == 1
