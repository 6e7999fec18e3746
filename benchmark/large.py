"""Large files: an output of a gigabyte to S3, and an input of 300 MB.

What they add to our memory, and whether the event loop stalls."""

import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from benchmark import servers
from benchmark.facts import HostFacts, gather_facts
from benchmark.memory import make_bucket, stored_bytes, url_of
from benchmark.neighbours import serving
from benchmark.ours import ApiClient
from benchmark.raw import RawComfy
from benchmark.targets import Target, at_most, table, target_rows
from benchmark.watch import MEGABYTE, stalls, watched
from benchmark.workload import WORKFLOWS, Graph

OUTPUT_BATCH = 15
"""Latents of 67 MB each in one file."""
SIDE = 10_000
"""Of the input picture, uncompressed, three bytes a pixel."""
GROWTH_MB = 64
STALL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeCase:
    """One large file on its way: size and growth in MB, stalls above 20 ms counted by the worker itself."""

    what: str
    size_mb: float
    growth_mb: float
    stalls: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeReport:
    """Everything that a run of ``python -m benchmark large`` found."""

    facts: HostFacts
    cases: tuple[LargeCase, ...]

    def targets(self) -> tuple[Target, ...]:
        """Memory and stalls of each case."""
        growth = [at_most(f"{one.what}: growth", one.growth_mb, GROWTH_MB, "MB") for one in self.cases]
        late = [at_most(f"{one.what}: event loop late by 20 ms", one.stalls, 0, "times") for one in self.cases]
        return (*growth, *late)

    def markdown(self) -> str:
        """The report as a page keeps it."""
        rows = [(c.what, f"{c.size_mb:.0f}", f"{c.growth_mb:.0f}", c.stalls, f"{c.seconds:.1f}") for c in self.cases]
        head = self.facts.headline()
        lines = table(("file", "MB", "growth MB", "stalls > 20 ms", "seconds in all"), rows)
        return "\n".join([head, "", *lines, "", *target_rows(self.targets())])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "targets": [asdict(target) for target in self.targets()]}


async def measure_large(say: Callable[[str], None], *, batch: int = OUTPUT_BATCH, side: int = SIDE) -> LargeReport:
    """Start ComfyUI, S3 and our worker, measure, stop them. Raises: NoComfyUI, ServerFailed, ServiceError."""
    record = servers.find_record(os.environ)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        folder = Path(scratch)
        async with AsyncExitStack() as stack:
            say("Starting ComfyUI, an S3 server and our worker")
            comfy = await stack.enter_async_context(servers.comfyui(record, folder / "comfyui"))
            raw = await stack.enter_async_context(RawComfy(comfy.base_url))
            facts = await gather_facts(await raw.get("/system_stats"))
            store = await stack.enter_async_context(servers.s3(folder / "store"))
            make_bucket(store)
            environment = {"FETCH_ALLOW_HOSTS": "127.0.0.1", "BENCHMARK_TEST_STEPS": "1"}
            worker = await stack.enter_async_context(servers.worker(comfy, folder / "worker", environment))
            api = await stack.enter_async_context(ApiClient(worker.base_url))
            picture = await stack.enter_async_context(_large_picture(side))
            bench = _Large(worker=worker, api=api, say=say)
            await bench.warm(store)
            cases = (await bench.output(store, batch), await bench.input(picture, side))
        return LargeReport(facts=facts, cases=cases)


@dataclass(slots=True, kw_only=True)
class _Large:
    worker: servers.Server
    api: ApiClient
    say: Callable[[str], None]

    async def warm(self, store: servers.S3Server) -> None:
        """Import what is imported at first use, so that libraries are not taken for files."""
        await self.api.run({"workflow_json": orjson.loads((WORKFLOWS / "tiny.json").read_bytes()), "s3": store.block()})

    async def output(self, store: servers.S3Server, batch: int) -> LargeCase:
        """A file of ``batch`` x 67 MB to S3."""
        graph = orjson.loads((WORKFLOWS / "large.json").read_bytes())
        graph["1"]["inputs"]["batch_size"] = batch

        async def work() -> float:
            job = await self.api.run({"workflow_json": graph, "s3": store.block()})
            return await stored_bytes(url_of(job.answer)) / MEGABYTE

        return await self._case("output to S3", work)

    async def input(self, url: str, side: int) -> LargeCase:
        """A picture fetched by URL; a corner of it is what the workflow makes."""

        async def work() -> float:
            await self.api.run({"workflow_json": _corner(url)})
            return 3 * side * side / MEGABYTE

        return await self._case("input by URL", work)

    async def _case(self, what: str, work: Callable[[], Awaitable[float]]) -> LargeCase:
        before = await stalls(self.api, over_s=STALL_S)
        async with watched(self.worker) as memory:
            size_mb = await work()
        late = await stalls(self.api, over_s=STALL_S) - before
        seconds = memory.samples[-1][0]
        self.say(f"{what}: {size_mb:.0f} MB, growth {memory.growth_mb:.0f} MB, {late} stalls, {seconds:.1f} s")
        return LargeCase(what=what, size_mb=size_mb, growth_mb=memory.growth_mb, stalls=late, seconds=seconds)


def _corner(url: str) -> Graph:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": url}},
        "2": {"class_type": "ImageCrop", "inputs": {"image": ["1", 0], "width": 64, "height": 64, "x": 0, "y": 0}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "corner"}},
    }


@asynccontextmanager
async def _large_picture(side: int) -> AsyncIterator[str]:
    """Serve a bitmap of ``side`` x ``side`` pixels; give its URL."""
    row = bytes(range(256)) * (3 * side // 256 + 1)
    row = row[: 3 * side] + b"\0" * (-3 * side % 4)

    async def send(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = "image/bmp"
        response.content_length = 54 + len(row) * side
        await response.prepare(request)
        await response.write(_bitmap_header(side, len(row) * side))
        for _ in range(0, side, 100):
            await response.write(row * 100)
        return response

    async with serving([web.get("/large.bmp", send)]) as base_url:
        yield f"{base_url}/large.bmp"


def _bitmap_header(side: int, size: int) -> bytes:
    def number(value: int, width: int = 4) -> bytes:
        return value.to_bytes(width, "little")

    file = b"BM" + number(54 + size) + number(0) + number(54)
    picture = number(40) + number(side) * 2 + number(1, 2) + number(24, 2) + number(0) + number(size)
    return file + picture + number(0) * 4
