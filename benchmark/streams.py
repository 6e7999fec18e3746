"""Two thousand open event streams with ten events a second each, beside a load generator.

Two ComfyUIs: on one a job ticks ten times a second and is watched, on the other the load generator's tiny jobs run. The
readers are a process of their own; some of them never read. An event's age is measured end to end: from the node's
tick inside ComfyUI to the reader's socket.
"""

import asyncio
import json
import os
import random
import resource
import sys
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from benchmark import score, servers
from benchmark.facts import HostFacts, gather_facts
from benchmark.ours import ApiClient
from benchmark.overhead import job_graph
from benchmark.raw import RawComfy
from benchmark.settings import REPOSITORY
from benchmark.targets import Target, at_most, table, target_rows
from benchmark.workload import WORKFLOWS, Graph
from lib.lifecycle import Tasks

STREAMS, SLOW = 2000, 50
EVENTS_PER_SECOND = 10.0
SECONDS = 20.0
JOBS_PER_SECOND = 5.0
OPEN_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamsReport:
    """``cores`` is our process' CPU time over the wall time, ``idle_cores`` the same with the load but no stream."""

    facts: HostFacts
    streams: int
    slow: int
    events_per_second: float
    cores: float
    idle_cores: float
    jobs: int
    closed: int
    ages_ms: tuple[float, ...] = field(repr=False)

    def targets(self) -> tuple[Target, ...]:
        """Processor, freshness."""
        p99 = score.percentile(self.ages_ms, 0.99) if self.ages_ms else None
        return (
            at_most("our processor time", self.cores, 1.0, "cores", digits=2),
            at_most("event age p99", p99, 50, "ms"),
        )

    def markdown(self) -> str:
        """The report as a page keeps it."""
        head = self.facts.headline()
        ages = [f"{score.percentile(self.ages_ms, share):.1f}" for share in (0.5, 0.95, 0.99)]
        rows = [
            ("open streams, of which never read", f"{self.streams}, {self.slow}"),
            ("events read a second, all streams", f"{self.events_per_second:.0f}"),
            ("event age p50 / p95 / p99, ms", " / ".join(ages)),
            ("our processor time, cores", f"{self.cores:.2f} (without streams {self.idle_cores:.2f})"),
            ("jobs of the load generator meanwhile", self.jobs),
            ("streams closed by us", self.closed),
        ]
        return "\n".join([head, "", *table(("what", "found"), rows), "", *target_rows(self.targets())])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "targets": [asdict(target) for target in self.targets()]}


async def measure_streams(
    say: Callable[[str], None], *, streams: int = STREAMS, slow: int = SLOW, seconds: float = SECONDS
) -> StreamsReport:
    """Start two ComfyUIs and our worker, measure, stop them. Raises: NoComfyUI, ServerFailed, ServiceError."""
    _raise_file_limit(streams + 500)
    record = servers.find_record(os.environ)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        folder = Path(scratch)
        async with AsyncExitStack() as stack:
            say("Starting two ComfyUIs and our worker")
            watched = await stack.enter_async_context(servers.comfyui(record, folder / "one", pack=True))
            other = await stack.enter_async_context(servers.comfyui(record, folder / "two", pack=True))
            raw = await stack.enter_async_context(RawComfy(watched.base_url))
            facts = await gather_facts(await raw.get("/system_stats"))
            environment = {
                "COMFYUI_API_BASE": "",
                "COMFYUI_BACKENDS": f"{watched.base_url},{other.base_url}",
                "COMFYUI_OUTPUT_PATH": "",
                "COMFYUI_INPUT_PATH": "",
                "BENCHMARK_TEST_STEPS": "1",
            }
            worker = await stack.enter_async_context(servers.worker(watched, folder / "worker", environment))
            api = await stack.enter_async_context(ApiClient(worker.base_url))
            bench = _Streams(worker=worker, api=api, say=say)
            return await bench.measure(facts, streams=streams, slow=slow, seconds=seconds)


@dataclass(slots=True, kw_only=True)
class _Streams:
    worker: servers.Server
    api: ApiClient
    say: Callable[[str], None]
    jobs: int = 0

    async def measure(self, facts: HostFacts, *, streams: int, slow: int, seconds: float) -> StreamsReport:
        job_id = await self._start_ticking(seconds + OPEN_LIMIT_S)
        async with Tasks() as tasks:
            tasks.spawn(self._load(), name="load")
            idle_cores = await self._cores(seconds / 4)
            url = f"{self.worker.base_url}/generate/stream/{job_id}"
            readers = await _readers(url, streams, seconds, slow)
            self.say(f"{streams} streams are open")
            before, sent = self.worker.cpu_s(), self.jobs
            found = json.loads(await _line(readers))
            spent = self.worker.cpu_s() - before
        await self.api.post(f"/cancel/{job_id}", {})
        window = found["seconds"] + 1.0  # the readers wait a second before they count
        report = StreamsReport(
            facts=facts,
            streams=streams,
            slow=slow,
            events_per_second=found["events"] / found["seconds"],
            cores=spent / window,
            idle_cores=idle_cores,
            jobs=self.jobs - sent,
            closed=found["closed"],
            ages_ms=tuple(found["ages_ms"]),
        )
        self.say(f"{report.events_per_second:.0f} events/s on {report.cores:.2f} cores")
        return report

    async def _start_ticking(self, seconds: float) -> str:
        status, answer = await self.api.post("/generate", {"input": {"workflow_json": _ticking(seconds)}})
        if status != 202:
            raise servers.ServerFailed(f"/generate answered {status}: {answer}")
        return str(answer["id"])

    async def _load(self) -> None:
        """Tiny jobs, so many a second, one after the other."""
        text, chance = (WORKFLOWS / "tiny.json").read_bytes(), random.Random(1)
        while True:
            await asyncio.sleep(chance.expovariate(JOBS_PER_SECOND))
            await self.api.run({"workflow_json": job_graph(text, prefix=f"streams/{self.jobs}", chance=chance)})
            self.jobs += 1

    async def _cores(self, seconds: float) -> float:
        before = self.worker.cpu_s()
        await asyncio.sleep(seconds)
        return (self.worker.cpu_s() - before) / seconds


async def _readers(url: str, streams: int, seconds: float, slow: int) -> asyncio.subprocess.Process:
    """Start the readers and wait until all streams are open."""
    command = [sys.executable, "-m", "benchmark.readers", url, str(streams), str(seconds), str(slow)]
    child = await asyncio.create_subprocess_exec(
        *command, cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE, limit=1 << 22
    )
    async with asyncio.timeout(OPEN_LIMIT_S):
        if await _line(child) != b"open\n":
            raise servers.ServerFailed("the readers could not open their streams")
    return child


async def _line(child: asyncio.subprocess.Process) -> bytes:
    assert child.stdout is not None  # noqa: S101 - for the type checker
    return await child.stdout.readline()


def _ticking(seconds: float) -> Graph:
    graph: Graph = orjson.loads((WORKFLOWS / "tiny.json").read_bytes())
    ticks = {"image": ["1", 0], "seconds": seconds, "per_second": EVENTS_PER_SECOND}
    graph["3"] = {"class_type": "BenchTicks", "inputs": ticks}
    graph["2"]["inputs"]["images"] = ["3", 0]
    return graph


def _raise_file_limit(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(wanted, soft), hard), hard))
