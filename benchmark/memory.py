"""Resident memory of our worker: idle, with all libraries used, with 1,000 requests waiting, with a 500 MB output."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import orjson

from benchmark import servers
from benchmark.ours import ApiClient
from benchmark.watch import MEGABYTE, watched
from benchmark.workload import WORKFLOWS, Graph
from lib.errors import ServiceError

T = TypeVar("T")
WAITING = 1000
REQUEST_BYTES = 10_000
HOLD_STEPS = 2000
"""Steps of the job that keeps ComfyUI busy while others wait; it is cancelled."""
SAMPLE_S = 0.01
SETTLE_S = 1.0
WAIT_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFigures:
    """In MB (a million bytes). None: could not be measured; ``notes`` say why."""

    idle_mb: float
    libraries_mb: float | None
    waiting_added_mb: float | None
    large_output_mb: float | None
    large_growth_mb: float | None
    notes: tuple[str, ...] = ()


async def measure_memory(
    comfy: servers.Server, folder: Path, *, environment: Mapping[str, str], say: Callable[[str], None]
) -> MemoryFigures:
    """Start a fresh worker beside ``comfy`` and an S3 server, and measure."""
    async with AsyncExitStack() as stack:
        say("Memory: starting a fresh worker and an S3 server")
        store = await stack.enter_async_context(servers.s3(folder / "store"))
        worker = await stack.enter_async_context(servers.worker(comfy, folder / "worker", environment))
        api = await stack.enter_async_context(ApiClient(worker.base_url))
        return await _Memory(worker=worker, api=api, store=store, say=say).measure()


@dataclass(slots=True, kw_only=True)
class _Memory:
    worker: servers.Server
    api: ApiClient
    store: servers.S3Server
    say: Callable[[str], None]

    async def measure(self) -> MemoryFigures:
        notes: list[str] = []
        await asyncio.sleep(SETTLE_S)
        idle_mb = self._rss_mb()
        self.say(f"Memory: idle {idle_mb:.0f} MB")
        libraries_mb = await self._attempt(self._libraries, notes)
        large = await self._attempt(self._large, notes)
        size_mb, growth_mb = large if large is not None else (None, None)
        waiting_mb = await self._attempt(self._waiting, notes)
        return MemoryFigures(
            idle_mb=idle_mb,
            libraries_mb=libraries_mb,
            waiting_added_mb=waiting_mb,
            large_output_mb=size_mb,
            large_growth_mb=growth_mb,
            notes=tuple(notes),
        )

    async def _attempt(self, measure: Callable[[], Awaitable[T]], notes: list[str]) -> T | None:
        try:
            return await measure()
        except (ServiceError, servers.ServerFailed, aiohttp.ClientError, TimeoutError) as error:
            notes.append(f"{getattr(measure, '__name__', '').strip('_')}: {type(error).__name__}: {error}")
            self.say(f"Memory: {notes[-1]}")
            return None

    async def _libraries(self) -> float:
        """Use what is imported at first use: boto3, input fetching and type sniffing, base64, docs, metrics."""
        await asyncio.to_thread(make_bucket, self.store)
        job = await self.api.run(
            {"workflow_json": _tiny(1), "s3": self.store.block(), "return_outputs_as_base64": True}
        )
        graph = _tiny(2)
        graph["1"] = {"class_type": "LoadImage", "inputs": {"image": url_of(job.answer)}}
        await self.api.run({"workflow_json": graph})
        for path in ("/health", "/metrics", "/docs", "/openapi.json"):
            await self.api.get(path)
        await asyncio.sleep(SETTLE_S)
        self.say(f"Memory: all libraries used {self._rss_mb():.0f} MB")
        return self._rss_mb()

    async def _waiting(self) -> float:
        """What 1,000 requests of 10 KB add while one long job holds ComfyUI; then they hang up."""
        before_mb = self._rss_mb()
        async with asyncio.TaskGroup() as group:
            callers = [group.create_task(self._hang(_long_job()))]
            await self._until_accepted(1)
            callers += [group.create_task(self._hang(_bulky(number))) for number in range(WAITING)]
            try:
                await self._until_accepted(WAITING + 1)
                await asyncio.sleep(SETTLE_S)
                added_mb = self._rss_mb() - before_mb
            finally:
                for caller in callers:
                    caller.cancel()
        await self._until_accepted(0)
        self.say(f"Memory: {WAITING} waiting requests of {REQUEST_BYTES // 1000} KB add {added_mb:.0f} MB")
        return added_mb

    async def _large(self) -> tuple[float, float]:
        """Deliver a file of some 500 MB to S3; give its size and by how much we grew meanwhile, in MB."""
        graph = orjson.loads((WORKFLOWS / "large.json").read_bytes())
        async with watched(self.worker, every_s=SAMPLE_S) as memory:
            job = await self.api.run({"workflow_json": graph, "s3": self.store.block()})
        size_mb = await stored_bytes(url_of(job.answer)) / MEGABYTE
        growth_mb = memory.growth_mb
        self.say(f"Memory: a {size_mb:.0f} MB output delivered to S3 in {job.total_s:.1f} s, growth {growth_mb:.0f} MB")
        return size_mb, growth_mb

    async def _hang(self, graph: Graph) -> None:
        """Wait for an answer that does not matter; the caller hangs up first."""
        with suppress(ServiceError):
            await self.api.run({"workflow_json": graph})

    async def _until_accepted(self, count: int) -> None:
        """Wait until the service holds exactly ``count`` jobs. Raises TimeoutError."""
        async with asyncio.timeout(WAIT_LIMIT_S):
            while await self._held() != count:  # noqa: ASYNC110 - the service offers counts only on request
                await asyncio.sleep(0.1)

    async def _held(self) -> int:
        _, health = await self.api.get("/health")
        return sum(int(count) for count in health["queues"].values())

    def _rss_mb(self) -> float:
        return self.worker.rss_bytes() / MEGABYTE


def make_bucket(store: servers.S3Server) -> None:
    """Make the bucket that outputs go to. Blocking."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=store.base_url,
        aws_access_key_id=store.access_key,
        aws_secret_access_key=store.secret_key,
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=servers.BUCKET)


def url_of(answer: Mapping[str, Any]) -> str:
    """The URL of the first file of an answer. Raises: ServerFailed."""
    for entry in answer.get("output", ()):
        if entry.get("url"):
            return str(entry["url"])
    raise servers.ServerFailed(f"no URL in the answer: {answer.get('output')}")


async def stored_bytes(url: str) -> int:
    """The size of what lies behind a URL."""
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        response.raise_for_status()
        return int(response.headers["Content-Length"])


def _tiny(color: int) -> Graph:
    graph: Graph = orjson.loads((WORKFLOWS / "tiny.json").read_bytes())
    graph["1"]["inputs"]["color"] = color
    return graph


def _bulky(number: int) -> Graph:
    """A graph of some 10 KB, many nodes rather than one long text: that is what parsing would blow up."""
    graph = _tiny(number)
    node_id = "1"
    while len(orjson.dumps(graph)) < REQUEST_BYTES:
        for _ in range(10):
            source, node_id = node_id, str(len(graph) + 100)
            graph[node_id] = {"class_type": "ImageInvert", "inputs": {"image": [source, 0]}}
    graph["2"]["inputs"]["images"] = [node_id, 0]
    return graph


def _long_job() -> Graph:
    """Keeps ComfyUI busy for minutes, can be interrupted at each step."""
    graph: Graph = orjson.loads((WORKFLOWS / "sd15.json").read_bytes())
    graph["3"]["inputs"]["steps"] = HOLD_STEPS
    graph["5"]["inputs"].update(width=128, height=128)
    graph["6"]["inputs"]["text"] = "a lighthouse"
    return graph
