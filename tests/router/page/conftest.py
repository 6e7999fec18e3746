"""Whole routers with the page, on loopback, and a browser."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from lib.lifecycle import Tasks
from router.app import Router
from router.cases import Ending, Outcome
from router.page import page
from router.parts import Ground, Part
from router.refusals import Refusal
from router.registry import record_of
from router.settings import RouterSettings
from tests.comfyui_fixture import free_port
from tests.fakes.router_world import ACCOUNT, KEY, TOKEN
from tests.router.page.browser import CHROMIUM, MISSING, Tab, chromium

ENDPOINTS = orjson.dumps(
    [
        {
            "name": "ep",
            "api_key": KEY,
            "lead_time": 0.0,
            "groups": [{"name": "big", "gpu_name": "RTX 4090", "price": 0.4}],
            "tenants": [{"name": "studio", "api_keys": ["studio-key-0123456789"]}],
        },
        {"name": "other", "api_key": "other-endpoint-key-0123456789"},
    ]
).decode()


@dataclass
class House:
    """A router that runs. Workers report to it, and requests are given, without HTTP: those have tests of their own."""

    port: int
    folder: Path
    options: dict[str, Any]
    http: aiohttp.ClientSession
    tasks: Tasks
    ground: Ground = field(init=False)
    router: Router = field(init=False)
    task: asyncio.Task[int] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        listening = asyncio.Event()

        async def keep(ground: Ground, stack: AsyncExitStack) -> Part:
            self.ground = ground
            return Part(name="kept")

        given = {"port": self.port, "state_dir": self.folder, "account_keys": ACCOUNT, "worker_tokens": TOKEN}
        settings = RouterSettings(**given | {"endpoints": ENDPOINTS, "stale_s": 300.0} | self.options)
        self.router = Router(settings, parts=(keep, page), say=lambda text: listening.set())
        self.task = self.tasks.spawn(self.router.run(), name="router")
        waiting = self.tasks.spawn(listening.wait(), name="listening")
        await asyncio.wait({self.task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if self.task.done():
            self.task.result()

    async def stop(self) -> None:
        if self.task is not None:
            self.router.stop()
            await self.task
            self.task = None

    async def report(self, worker_id: int, *, endpoint: str = "ep", **changes: Any) -> None:
        """A loaded worker of ours reports, unless ``changes`` say otherwise."""
        usual = {"id": worker_id, "version": "1.1.0", "loadtime": 1.0, "max_perf": 100.0, "cur_load": 0.0, "slots": 2}
        usual |= {"engines": 1, "url": f"http://127.0.0.1:{worker_id}", "models_warm": ["photo-v3.safetensors"]}
        endpoints, dispatcher = self.ground.endpoints, self.ground.dispatcher
        place = endpoints.place(worker_id, token=TOKEN, prefix=endpoint)
        known = dispatcher.worker(place.key(worker_id))
        now = self.ground.clock.now().timestamp()
        record = record_of(
            usual | changes, worker_id=worker_id, place=place, now=now, previous=known.record if known else None
        )
        await dispatcher.heard(record)

    async def give(self, request_id: str, *, cost: float = 100.0, tenant: str = "studio") -> str:
        """Give a request to a worker; its key."""
        learning, now = self.ground.dispatcher.learning, self.ground.clock.monotonic()
        ask = learning.ask(request_id, endpoint="ep", arrived_at=now, cost=cost, tenant=tenant)
        given = await self.ground.dispatcher.assign(ask, wait_s=10)
        assert given is not None
        return given.worker

    async def done(self, request_id: str, *, ending: Ending = Ending.SUCCESS) -> None:
        await self.ground.dispatcher.settle(request_id, Outcome(ending=ending, run_s=1.0))

    async def failed(self, request_id: str, worker: str, reason: Refusal = Refusal.FAILED) -> None:
        await self.ground.dispatcher.refused(request_id, worker, reason)

    def events(self, *, key: str = "", **query: str) -> Any:
        """The page's stream."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return self.http.get(f"{self.url}/page/events", params=query, headers=headers)


async def news(stream: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """What a stream tells, piece by piece."""
    async for line in stream.content:
        if line.startswith(b"data: "):
            yield orjson.loads(line[6:])


Build = Callable[..., Any]


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Build]:
    """Start routers; all are stopped in the end."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        tasks = await stack.enter_async_context(Tasks())

        async def begin(**options: Any) -> House:
            made = House(port=free_port(), folder=tmp_path, options=options, http=http, tasks=tasks)
            await made.start()
            stack.push_async_callback(made.stop)
            return made

        yield begin


@pytest.fixture
async def house(build: Build) -> House:
    """One on loopback: open to who looks."""
    made: House = await build()
    return made


@pytest.fixture
async def tab() -> AsyncIterator[Tab]:
    """A page of a browser, nothing in it yet; its console must stay silent."""
    if CHROMIUM is None:
        pytest.skip(MISSING)
    async with chromium() as browser:
        tab = await browser.tab()
        yield tab
        assert tab.complaints == []
