"""A mix of workflows under load: closed loop (so many callers) and open loop (so many jobs a second, whatever happens).

The same jobs at the same moments go to ComfyUI alone and to us, on the same ComfyUI process, turn by turn: raw, ours,
raw again. Latency is from the moment a job was due until its files are in the caller's hands.
"""

import asyncio
import os
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmark import score, servers
from benchmark.facts import HostFacts, gather_facts
from benchmark.load import drive
from benchmark.ours import ApiClient
from benchmark.overhead import job_graph
from benchmark.raw import RawComfy
from benchmark.targets import table
from benchmark.workload import WORKFLOWS, Graph

MIX = (("tiny.json", 0.9), ("sd15.json", 0.1))
"""Which workflows, and their share of the jobs."""
PERCENTILES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """One kind of load: ``callers`` that each send the next job when one is done, or ``rate`` jobs a second."""

    name: str
    jobs: int
    callers: int | None = None
    rate: float | None = None


TRAFFIC = (
    Traffic(name="closed, 1 caller", jobs=40, callers=1),
    Traffic(name="closed, 16 callers", jobs=60, callers=16),
    Traffic(name="open, 5 jobs/s", jobs=50, rate=5.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One leg: latencies in seconds, and how long it took in all."""

    side: str
    latencies_s: tuple[float, ...] = field(repr=False)
    elapsed_s: float

    @property
    def rate(self) -> float:
        return len(self.latencies_s) / self.elapsed_s

    def ms(self, share: float) -> float:
        """A percentile of the latency in ms."""
        return 1000 * score.percentile(self.latencies_s, share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The legs of one kind of load, in the order in which they ran: raw, ours, raw again."""

    traffic: Traffic
    legs: tuple[Side, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """Everything that a run of ``python -m benchmark load`` found."""

    facts: HostFacts
    measured: tuple[Measured, ...]

    def markdown(self) -> str:
        """The report as a page keeps it."""
        head = self.facts.headline()
        columns = ("load", "side", "jobs", "jobs/s", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "p50 / raw", "p99 / raw")
        return "\n".join([head, "", *table(columns, [row for one in self.measured for row in _rows(one)])])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def _rows(one: Measured) -> list[tuple[object, ...]]:
    raw = [one.legs[0], one.legs[2]]
    rows: list[tuple[object, ...]] = []
    for leg in one.legs:
        ratios = (leg.ms(share) / score.mean([other.ms(share) for other in raw]) for share in (0.5, 0.99))
        figures = [f"{leg.ms(share):.1f}" for share in PERCENTILES]
        rows.append(
            (
                one.traffic.name,
                leg.side,
                len(leg.latencies_s),
                f"{leg.rate:.2f}",
                *figures,
                *(f"{r:.2f}" for r in ratios),
            )
        )
    return rows


async def measure_load(say: Callable[[str], None], *, traffic: Sequence[Traffic] = TRAFFIC) -> LoadReport:
    """Start ComfyUI and our worker, measure, stop them. Raises: NoComfyUI, ServerFailed, ServiceError."""
    record = servers.find_record(os.environ)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        folder = Path(scratch)
        async with AsyncExitStack() as stack:
            say("Starting ComfyUI")
            comfy = await stack.enter_async_context(servers.comfyui(record, folder / "comfyui"))
            raw = await stack.enter_async_context(RawComfy(comfy.base_url))
            facts = await gather_facts(await raw.get("/system_stats"))
            environment = {"MAX_QUEUE_SIZE": "3000", "BENCHMARK_TEST_STEPS": "1"}
            worker = await stack.enter_async_context(servers.worker(comfy, folder / "worker", environment))
            api = await stack.enter_async_context(ApiClient(worker.base_url))
            bench = _Load(comfy=comfy, raw=raw, api=api, say=say)
            measured = [await bench.measure(one) for one in traffic]
        return LoadReport(facts=facts, measured=tuple(measured))


@dataclass(slots=True, kw_only=True)
class _Load:
    comfy: servers.Server
    raw: RawComfy
    api: ApiClient
    say: Callable[[str], None]
    leg: int = 0

    async def measure(self, traffic: Traffic) -> Measured:
        legs = []
        for side in ("raw", "ours", "raw again"):
            legs.append(await self._leg(side, traffic))
            self.say(f"{traffic.name}, {side}: {legs[-1].rate:.2f} jobs/s, p50 {legs[-1].ms(0.5):.0f} ms")
        return Measured(traffic=traffic, legs=tuple(legs))

    async def _leg(self, side: str, traffic: Traffic) -> Side:
        self.leg += 1
        graphs = mixed(traffic.jobs, leg=self.leg)
        await asyncio.to_thread(servers.empty, self.comfy.folder / "output")
        await self.raw.post("/history", {"clear": True})
        await self._send(side, mixed(1, leg=10_000 + self.leg, share=1.0)[0])  # the model is warm on either side

        async def send(number: int) -> None:
            await self._send(side, graphs[number])

        if traffic.rate is not None:
            return await _open_loop(side, send, jobs=traffic.jobs, rate=traffic.rate)
        leg = await drive(send, jobs=traffic.jobs, concurrency=traffic.callers or 1)
        return Side(side=side, latencies_s=leg.latencies_s, elapsed_s=leg.elapsed_s)

    async def _send(self, side: str, graph: Graph) -> None:
        if side == "ours":
            files = (await self.api.run({"workflow_json": graph, "return_outputs_as_base64": True})).files
        else:
            files = (await self.raw.run(graph)).files
        if len(files) != 1:
            raise servers.ServerFailed(f"expected one file, got {len(files)}")


async def _open_loop(side: str, send: Callable[[int], Awaitable[None]], *, jobs: int, rate: float) -> Side:
    """Poisson arrivals: the same moments on either side. A late answer holds no later job up."""
    chance = random.Random(jobs)
    latencies: list[float] = []
    began = time.perf_counter()

    async def one(number: int, due: float) -> None:
        await send(number)
        latencies.append(time.perf_counter() - due)

    due = began
    async with asyncio.TaskGroup() as group:
        for number in range(jobs):
            due += chance.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(one(number, due))
    return Side(side=side, latencies_s=tuple(latencies), elapsed_s=time.perf_counter() - began)


def mixed(jobs: int, *, leg: int, share: float | None = None) -> list[Graph]:
    """The jobs of a leg: none like another in its cached parts; which is which follows from its number alone."""
    order, content = random.Random(jobs), random.Random(leg)
    graphs = []
    for number in range(jobs):
        heavy = order.random() < (MIX[1][1] if share is None else share)
        text = (WORKFLOWS / MIX[heavy][0]).read_bytes()
        graphs.append(job_graph(text, prefix=f"load/{leg}-{number}/picture", chance=content))
    return graphs
