"""The unmodified ``vastai`` SDK against our worker: what it sends is understood, what we answer it understands."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from lib.clock import SystemClock
from lib.fleet.disk import DiskGauge
from lib.fleet.reporter import Reporter, WorkerState
from lib.fleet.uplink import Uplink
from lib.settings import FleetSettings
from tests.comfyui_fixture import free_port
from tests.fakes.vast_worker import World, make_world
from tests.peers.vast.sdk import drive, sdk_python


@pytest.fixture(scope="session")
def python() -> Path:
    return sdk_python()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def worker(stack: AsyncExitStack, folder: Path, *, loaded: bool = True, **options: Any) -> World:
    """A worker that reports to its router, as a deployed one does."""
    port = free_port()
    world = await make_world(stack, folder, url=f"http://127.0.0.1:{port}", port=port, **options)
    stack.push_async_callback(world.tasks.cancel)
    state = WorkerState(loadtime_s=1.5 if loaded else 0.0, max_perf=20.0, url=world.listener.url)
    uplink = await stack.enter_async_context(Uplink((world.router.url,), clock=SystemClock()))
    reporter = Reporter(
        settings=FleetSettings(container_id=7, report_interval_s=0.05),
        ledger=world.ledger,
        state=lambda: state,
        uplink=uplink,
        clock=SystemClock(),
        disk=DiskGauge(),
    )
    await stack.enter_async_context(reporter)
    await world.router.until(lambda router: bool(router.statuses))
    return world


async def test_requests_are_answered(python: Path, stack: AsyncExitStack, tmp_path: Path) -> None:
    """Route, sign, work: ok, the result object, the router's id; and the router hears of each end."""
    world = await worker(stack, tmp_path)
    results = await drive(python, "request", router=world.router.url, count=3)
    assert [(result["ok"], result["status"]) for result in results] == [(True, 200)] * 3
    assert all(result["response"]["status"] == "completed" for result in results)
    ids = {result["request_idx"] for result in results}
    await world.router.until(lambda router: len(router.deleted) == 3)
    assert {item["request_idx"] for item in world.router.deleted} == ids
    assert all(item["success"] and item["status"] == "Success" for item in world.router.deleted)


async def test_a_wrong_request_ends_at_once(python: Path, stack: AsyncExitStack, tmp_path: Path) -> None:
    """422 is returned to the caller with our explanation, not repeated on other GPUs."""
    world = await worker(stack, tmp_path)
    (result,) = await drive(python, "request", router=world.router.url, payload={"input": {"workflow_json": {}}})
    assert (result["ok"], result["status"]) == (False, 422)
    assert "the workflow is empty" in str(result)
    assert len(world.router.routes) == 1


async def test_a_full_worker_is_asked_again_until_it_has_room(
    python: Path, stack: AsyncExitStack, tmp_path: Path
) -> None:
    """429 makes the SDK back off and route again with the same id; both requests end well."""
    world = await worker(stack, tmp_path, in_flight=1, automatic=False)
    driving = asyncio.create_task(drive(python, "request", router=world.router.url, count=2))
    await world.router.until(lambda router: any(item["status"] == "Rejected" for item in router.deleted), timeout_s=120)
    world.engine.automatic = True
    world.engine.finish()
    results = await driving
    assert [result["status"] for result in results] == [200, 200]
    rejected = next(item for item in world.router.deleted if item["status"] == "Rejected")
    assert [route["request_idx"] for route in world.router.routes].count(rejected["request_idx"]) >= 1


async def test_a_session_from_open_to_close(python: Path, stack: AsyncExitStack, tmp_path: Path) -> None:
    """Signed create, work inside, health, end; after the end 410 tells the SDK that it is closed."""
    world = await worker(stack, tmp_path)
    opened, first, second, is_open, closed = await drive(python, "session", router=world.router.url, count=2)
    assert opened["session_id"]
    assert [(result["ok"], result["status"]) for result in (first, second)] == [(True, 200)] * 2
    assert is_open["value"] is True
    assert "closed session" in closed["error"]
    assert len(world.engine.ran) == 2
    await world.router.until(lambda router: len(router.deleted) == 1)
    assert world.router.deleted[0]["status"] == "Success"
    assert world.ledger.figures().load == 0.0
    assert [post["url"] for post in world.posts] == ["https://hooks.example/closed"]


async def test_the_listing_shows_what_we_report(python: Path, stack: AsyncExitStack, tmp_path: Path) -> None:
    """Our status body makes a worker object that the SDK can read."""
    world = await worker(stack, tmp_path)
    (listed,) = await drive(python, "workers", router=world.router.url)
    assert (listed["id"], listed["status"], listed["perf"], listed["cur_load"]) == (7, "idle", 20.0, 0.0)


async def test_the_debug_mode_of_the_sdk_works(python: Path, stack: AsyncExitStack, tmp_path: Path) -> None:
    """It sends two keys of auth_data and always the same id: an unsecured worker serves each request anew."""
    world = await worker(stack, tmp_path, unsecured=True)
    results = await drive(
        python, "request", router=world.router.url, count=2, environment={"VAST_DEBUG_WORKER_URL": world.listener.url}
    )
    assert [result["status"] for result in results] == [200, 200]
    assert len({result["response"]["id"] for result in results}) == 2
    assert world.router.routes == []
