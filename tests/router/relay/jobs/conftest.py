"""Routers with their whole relay over loopback, workers that keep jobs, and their callers."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest

from lib.lifecycle import Tasks
from router.app import Router
from router.parts import Ground, Part
from router.ports import JobStore
from router.relay.building import build_relay
from router.relay.jobs import build_jobs
from router.relay.ports import JobsHalf, Upstream
from router.settings import RouterSettings
from router.wire import wire
from tests.fakes.job_worker import JobBook, workflow
from tests.fakes.relay_worker import relay_worker
from tests.fakes.router_world import ACCOUNT, KEY, TOKEN

T = TypeVar("T")
TENANT, OTHER = "tenant-key-0123456789", "other-key-01234567890"
ENDPOINTS = [
    {
        "name": "ep",
        "api_key": KEY,
        "tenants": [
            {"name": "studio", "api_keys": [TENANT], "max_waiting": 3},
            {"name": "other", "api_keys": [OTHER]},
        ],
    }
]


class JobsWorld:
    """One router."""

    def __init__(self, router: Router, task: asyncio.Task[int], stack: AsyncExitStack, tasks: Tasks) -> None:
        self.router = router
        self.grounds: list[Ground] = []
        self._task = task
        self._stack = stack
        self._tasks = tasks

    @property
    def ground(self) -> Ground:
        return self.grounds[0]

    async def stop(self) -> None:
        self.router.stop()
        await self._task

    async def join(self, number: int = 1, *, book: JobBook | None = None, **changes: Any) -> JobBook:
        """A worker that keeps jobs, and has reported."""
        book = book or JobBook(self._tasks)
        worker = await self._stack.enter_async_context(relay_worker(number, book))
        worker.trust(self.ground.signing.public_pem)
        book.worker = worker
        await self.report(book, **changes)
        return book

    async def report(self, book: JobBook, **changes: Any) -> None:
        told = book.worker.report(**{"working_request_idxs": book.working, **changes}) | {"mtoken": TOKEN}
        told = {name: value for name, value in told.items() if value is not None}
        status, answer = await self.call("/e/ep/worker_status/", told)
        assert status == 200, answer

    async def call(
        self, path: str, body: Any = None, *, key: str = KEY, method: str = "POST", **headers: str
    ) -> tuple[int, Any]:
        """Call as a client; status and JSON."""
        sent = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body)
        async with self.http.request(method, self.router.url + path, data=data, headers=sent) as response:
            self.headers = response.headers
            text = await response.read()
            return response.status, json.loads(text) if text else None

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        return await self.call(path, method="GET", **options)

    async def text(self, path: str, *, key: str = KEY) -> tuple[int, str]:
        """GET what is no JSON."""
        async with self.http.get(self.router.url + path, headers={"Authorization": f"Bearer {key}"}) as response:
            return response.status, await response.text()

    async def submit(self, text: str = "a", *, status: int = 202, name: str = "", **options: Any) -> dict[str, Any]:
        """``POST /generate`` of the wrapper's."""
        inputs = options.pop("inputs", {})
        more = options.pop("more", {})
        asked = {"workflow_json": workflow(text, **inputs), **({"request_id": name} if name else {}), **more}
        got, answer = await self.call("/generate", {"input": asked}, **options)
        assert got == status, answer
        return dict(answer)

    async def result(self, job: dict[str, Any], *, wait: float = 60, **options: Any) -> tuple[int, Any]:
        return await self.get(f"/result/{job['job_id']}?wait={wait:g}", **options)

    http: aiohttp.ClientSession
    headers: Any = None


Start = Callable[..., Awaitable[JobsWorld]]


def _as_it_is(thing: T) -> T:
    return thing


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start routers; all end with the test. ``jobs`` puts something before the store, ``upstream`` before workers."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        tasks = await stack.enter_async_context(Tasks())

        async def begin(
            folder: str = "state",
            *,
            jobs: Callable[[JobStore], JobStore] = _as_it_is,
            upstream: Callable[[Upstream], Upstream] = _as_it_is,
            **changes: Any,
        ) -> JobsWorld:
            listening = asyncio.Event()
            options: dict[str, Any] = {
                "port": 0,
                "state_dir": tmp_path / folder,
                "account_keys": ACCOUNT,
                "worker_tokens": TOKEN,
                "endpoints": json.dumps(ENDPOINTS),
                "open_page": False,
                "stop_timeout_s": 0.0,
                "stale_s": 300.0,
                "webhook_allow_hosts": "127.0.0.1",
            }
            made: list[JobsWorld] = []

            async def relay(ground: Ground, within: AsyncExitStack) -> Part:
                grounds.append(ground)
                return await build_relay(replace(ground, jobs=jobs(ground.jobs)), within, build_jobs=build)

            async def build(ground: Ground, within: AsyncExitStack, **given: Any) -> JobsHalf:
                return await build_jobs(ground, within, **given | {"upstream": upstream(given["upstream"])})

            grounds: list[Ground] = []
            settings = RouterSettings(**options | changes)
            router = Router(settings, parts=(wire, relay), say=lambda text: listening.set())
            task = tasks.spawn(router.run(), name="router")
            waiting = tasks.spawn(listening.wait(), name="listening")
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            world = JobsWorld(router, task, stack, tasks)
            world.grounds, world.http = grounds, http
            made.append(world)
            stack.push_async_callback(world.stop)
            return world

        yield begin


@pytest.fixture
async def world(start: Start) -> JobsWorld:
    """One router."""
    return await start()
