"""A router with its relay over loopback, workers that do as they are told, and a caller."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from lib.lifecycle import Tasks
from lib.serving.payloads import json_response
from router.app import Router
from router.parts import Ground, Part
from router.relay.building import build_relay
from router.relay.ports import JobsHalf, Sizing, Upstream, Visitor, Work
from router.settings import RouterSettings
from router.signing import load_signing_key
from router.wire import wire
from tests.fakes.relay_worker import Behaviour, RelayWorker, relay_worker
from tests.fakes.router_world import ACCOUNT, KEY, TOKEN

TENANT = "tenant-key-0123456789"
ENDPOINTS = [
    {
        "name": "ep",
        "api_key": KEY,
        "tenants": [{"name": "studio", "api_keys": [TENANT], "max_waiting": 1}],
    }
]
GRAPH = {"3": {"class_type": "KSampler", "inputs": {"steps": 20}}}


@dataclass
class Kept:
    """What the half that keeps jobs was given."""

    visitor: Visitor
    dialect: str
    body: bytes
    work: Work
    wait_s: float


@dataclass
class World:
    """One router."""

    router: Router
    http: aiohttp.ClientSession
    stack: AsyncExitStack
    kept: list[Kept] = field(default_factory=list)
    ground: list[Ground] = field(default_factory=list)

    async def build(self, ground: Ground, stack: AsyncExitStack) -> Part:
        self.ground.append(ground)
        return await build_relay(ground, stack, build_jobs=self._jobs)

    async def _jobs(self, ground: Ground, stack: AsyncExitStack, *, upstream: Upstream, sizing: Sizing) -> JobsHalf:
        return JobsHalf(keep=self._keep)

    async def _keep(
        self, request: web.Request, *, visitor: Visitor, dialect: str, body: bytes, work: Work, wait_s: float = 0.0
    ) -> web.StreamResponse:
        self.kept.append(Kept(visitor, dialect, body, work, wait_s))
        return json_response({"kept": True}, status=202)

    async def join(self, number: int, behave: Behaviour, **changes: Any) -> RelayWorker:
        """A worker that has reported."""
        worker = await self.stack.enter_async_context(relay_worker(number, behave))
        async with self.http.get(self.router.url + "/pubkey/") as response:
            worker.trust(await response.text())
        await self.report(worker, **changes)
        return worker

    async def report(self, worker: RelayWorker, **changes: Any) -> None:
        told = {name: value for name, value in worker.report(**changes).items() if value is not None}
        path = self.router.url + "/e/ep/worker_status/"
        async with self.http.post(path, json=told | {"mtoken": TOKEN}) as response:
            assert response.status == 200, await response.text()

    def call(self, path: str, body: Any = None, *, key: str = KEY, method: str = "POST", **headers: str) -> Any:
        """Call as a client; use as a context manager, or await."""
        data = body if isinstance(body, bytes | io.BytesIO) else None if body is None else json.dumps(body)
        own = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"} if key else {}
        sent = {**own, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return self.http.request(method, self.router.url + path, data=data, headers=sent)

    async def sync(self, path: str = "/generate/sync", **changes: Any) -> tuple[int, Any]:
        """A synchronous request of the wrapper's."""
        body = changes.pop("body", {"input": {"workflow_json": GRAPH}})
        async with self.call(path, body, **changes) as response:
            return response.status, await response.json()

    async def metrics(self) -> str:
        async with self.call("/metrics", method="GET", key=ACCOUNT) as response:
            text: str = await response.text()
            return text


@pytest.fixture(scope="module")
def signing_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once, as that takes longer than most tests."""
    path = tmp_path_factory.mktemp("key") / "signing_key.pem"
    load_signing_key(path)
    return path


@pytest.fixture
async def world(tmp_path: Path, signing_key: Path) -> AsyncIterator[World]:
    """A router without workers."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        tasks = await stack.enter_async_context(Tasks())
        listening = asyncio.Event()
        settings = RouterSettings(
            port=0,
            state_dir=tmp_path,
            signing_key_path=signing_key,
            account_keys=ACCOUNT,
            worker_tokens=TOKEN,
            endpoints=json.dumps(ENDPOINTS),
            open_page=False,
            stop_timeout_s=0.0,
            stale_s=300.0,
        )
        made: list[World] = []
        router = Router(
            settings,
            parts=(wire, lambda ground, within: made[0].build(ground, within)),
            say=lambda text: listening.set(),
        )
        made.append(World(router, http, stack))
        task = tasks.spawn(router.run(), name="router")
        waiting = tasks.spawn(listening.wait(), name="listening")
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield made[0]
        router.stop()
        await task
