"""A router over loopback with nothing but its protocol, and a way to talk to it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from lib.lifecycle import Tasks
from router.app import Router
from router.parts import PartBuilder
from router.settings import RouterSettings
from router.wire import wire
from tests.comfyui_fixture import free_port
from tests.fakes.router_world import ACCOUNT, KEY, TOKEN

TENANT = "tenant-key-0123456789"
OTHER_KEY = "other-endpoint-key-0123456789"
ENDPOINTS = [
    {
        "name": "ep",
        "id": 1,
        "api_key": KEY,
        "lead_time": 0.0,
        "groups": [{"name": "g", "id": 11, "containers": [1, 2]}, {"name": "h", "id": 12, "containers": [3]}],
        "tenants": [{"name": "studio", "api_keys": [TENANT]}],
    },
    {"name": "other", "id": 2, "api_key": OTHER_KEY},
]


@dataclass
class Talk:
    """Speaks to one router."""

    url: str
    http: aiohttp.ClientSession
    stop: Callable[[], Awaitable[int]]

    async def __call__(
        self, path: str, body: Any = None, *, method: str = "POST", key: str = "", data: Any = None, status: int = 200
    ) -> Any:
        """Call; the answer has to have this status."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        raw = data if data is not None else json.dumps(body) if body is not None else None
        async with self.http.request(method, self.url + path, data=raw, headers=headers) as response:
            text = await response.text()
            assert response.status == status, text
            return json.loads(text) if response.content_type == "application/json" else text

    async def route(self, **fields: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await self("/route/", {"endpoint": "ep", "api_key": KEY, "cost": 100, **fields})
        return answer

    async def report(self, worker_id: int, *, prefix: str = "/e/ep", status: int = 200, **changes: Any) -> Any:
        """A loaded worker of the stock kind reports, unless ``changes`` say otherwise."""
        report = {
            "id": worker_id,
            "mtoken": TOKEN,
            "version": "1.1.0",
            "loadtime": 5.0,
            "cur_load": 0.0,
            "new_load": 0.0,
            "rej_load": 0.0,
            "cur_perf": 0.0,
            "max_perf": 100.0,
            "error_msg": "",
            "num_requests_working": 0,
            "num_requests_recieved": 0,
            "additional_disk_usage": 0.0,
            "working_request_idxs": [],
            "cur_capacity": 0,
            "max_capacity": 0,
            "url": f"http://127.0.0.1:{40000 + worker_id}",
        }
        told = {name: value for name, value in (report | changes).items() if value is not None}
        return await self(f"{prefix}/worker_status/", told, status=status)


Start = Callable[..., Awaitable[Talk]]


async def begun(
    stack: AsyncExitStack, tasks: Tasks, http: aiohttp.ClientSession, *, parts: Sequence[PartBuilder], **changes: Any
) -> Talk:
    """A router that listens; the stack stops it. Raises: what its start does."""
    listening = asyncio.Event()
    options = {"port": free_port(), "account_keys": ACCOUNT, "worker_tokens": TOKEN}
    options |= {"route_wait_s": 0.0, "stale_s": 300.0} | changes
    router = Router(RouterSettings(**options), parts=parts, say=lambda text: listening.set())
    task = tasks.spawn(router.run(), name="router")
    waiting = tasks.spawn(listening.wait(), name="listening")
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()

    async def stop() -> int:
        router.stop()
        return await task

    stack.push_async_callback(stop)
    return Talk(url=f"http://127.0.0.1:{options['port']}", http=http, stop=stop)


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start routers; all are stopped in the end."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        tasks = await stack.enter_async_context(Tasks())

        async def begin(parts: Sequence[PartBuilder] = (wire,), **changes: Any) -> Talk:
            options = {"state_dir": tmp_path, "endpoints": json.dumps(ENDPOINTS)}
            return await begun(stack, tasks, http, parts=parts, **options | changes)

        yield begin


@pytest.fixture
async def talk(start: Start) -> Talk:
    """One router."""
    return await start()
