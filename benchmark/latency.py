"""Where the time of one tiny job goes: job by job on ComfyUI alone and on ours, and what our stages took of it.

Neighbours in time are held against each other, so that a host that is slow for a while is slow for both. Stages are
means over the same jobs, from the worker's own metrics; what no stage counts is the rest.
"""

import asyncio
import os
import random
import re
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmark import score, servers
from benchmark.facts import HostFacts, gather_facts
from benchmark.ours import ApiClient
from benchmark.overhead import WORKER_ENVIRONMENT, job_graph
from benchmark.raw import RawComfy
from benchmark.targets import table
from benchmark.workload import WORKFLOWS, Graph

PAIRS, WARM = 400, 20
EMPTIED_EACH = 100
"""Old files and history slow ComfyUI down, for both."""
PAUSE_S = 0.003
STAGES = {
    "prepare": "inputs and placeholders",
    "wait": "the record on disk, then a turn",
    "execute": "ComfyUI's own execution",
    "collect": "the history and the files",
    "deliver": "links and base64",
}
_SERIES = re.compile(
    r'^pyworker_(?:stage_seconds_sum\{stage="(\w+)"\}|(store_commit)_seconds_sum) (\S+)$', re.MULTILINE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyReport:
    """Everything in ms; ``stages_ms`` per job."""

    facts: HostFacts
    raw_ms: tuple[float, ...] = field(repr=False)
    ours_ms: tuple[float, ...] = field(repr=False)
    stages_ms: Mapping[str, float]
    cpu_ms: float

    def markdown(self) -> str:
        """The report as a page keeps it."""
        return "\n".join([self.facts.headline(), "", *table(("one tiny job, one caller", "ms"), self._rows())])

    def _rows(self) -> list[tuple[str, str]]:
        added = [ours - raw for ours, raw in zip(self.ours_ms, self.raw_ms, strict=True)]
        gap = score.bootstrap(added, of=median, draws=500)
        known = {name: self.stages_ms.get(name, 0.0) for name in STAGES}
        rest = score.mean(self.ours_ms) - sum(known.values())
        return [
            (f"ComfyUI alone, median of {len(self.raw_ms)}", f"{median(self.raw_ms):.2f}"),
            ("ours, median", f"{median(self.ours_ms):.2f}"),
            ("added, median of neighbours (95 %)", f"{gap.value:+.2f} ({gap.low:+.2f} .. {gap.high:+.2f})"),
            ("the same, 10th percentile of each", f"{_quick(self.ours_ms) - _quick(self.raw_ms):+.2f}"),
            ("ours, mean", f"{score.mean(self.ours_ms):.2f}"),
            *((f"of which {name}: {STAGES[name]}", f"{took:.2f}") for name, took in known.items()),
            ("of which the rest: HTTP, checks, ComfyUI's POST and start, record of the end, answer", f"{rest:.2f}"),
            ("the job store's transactions, with their ways to its thread", f"{self.stages_ms['store_commit']:.2f}"),
            ("our processor time", f"{self.cpu_ms:.2f}"),
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def _quick(samples: tuple[float, ...]) -> float:
    return score.percentile(samples, 0.1)


async def measure_latency(say: Callable[[str], None], *, pairs: int = PAIRS) -> LatencyReport:
    """Start ComfyUI and our worker, measure, stop them. Raises: NoComfyUI, ServerFailed, ServiceError."""
    record = servers.find_record(os.environ)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        folder = Path(scratch)
        async with AsyncExitStack() as stack:
            say("Starting ComfyUI and our worker")
            comfy = await stack.enter_async_context(servers.comfyui(record, folder / "comfyui"))
            raw = await stack.enter_async_context(RawComfy(comfy.base_url))
            facts = await gather_facts(await raw.get("/system_stats"))
            worker = await stack.enter_async_context(servers.worker(comfy, folder / "worker", WORKER_ENVIRONMENT))
            api = await stack.enter_async_context(ApiClient(worker.base_url))
            bench = _Latency(comfy=comfy, raw=raw, api=api)
            await bench.run(WARM)
            before, cpu_s = stage_sums(await api.text("/metrics")), worker.cpu_s()
            say(f"{pairs} jobs each, turn by turn")
            raw_ms, ours_ms = await bench.run(pairs)
            cpu_ms = 1000 * (worker.cpu_s() - cpu_s) / pairs
            after = stage_sums(await api.text("/metrics"))
    stages = {name: 1000 * (total - before.get(name, 0.0)) / pairs for name, total in after.items()}
    return LatencyReport(facts=facts, raw_ms=raw_ms, ours_ms=ours_ms, stages_ms=stages, cpu_ms=cpu_ms)


def stage_sums(metrics: str) -> dict[str, float]:
    """Seconds spent so far, by stage, and in transactions of the store, from the text of ``/metrics``."""
    return {found[1] or found[2]: float(found[3]) for found in _SERIES.finditer(metrics)}


@dataclass(slots=True, kw_only=True)
class _Latency:
    comfy: servers.Server
    raw: RawComfy
    api: ApiClient
    sent: int = 0
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    async def run(self, pairs: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Run so many jobs on either side, now one first, now the other; their ms."""
        took: dict[str, list[float]] = {"raw": [], "ours": []}
        sides: dict[str, Callable[[Graph], Awaitable[object]]] = {"raw": self.raw.run, "ours": self._ours}
        for number in range(pairs):
            if number % EMPTIED_EACH == 0:
                await self.raw.post("/history", {"clear": True})
                await asyncio.to_thread(servers.empty, self.comfy.folder / "output")
            for side in self.chance.sample(sorted(sides), 2):
                graph = self._graph()
                began = time.perf_counter()
                await sides[side](graph)
                took[side].append(1000 * (time.perf_counter() - began))
                await asyncio.sleep(PAUSE_S)  # what follows an answer is not the next job's
        return tuple(took["raw"]), tuple(took["ours"])

    async def _ours(self, graph: Graph) -> object:
        return await self.api.run({"workflow_json": graph, "return_outputs_as_base64": True})

    def _graph(self) -> Graph:
        self.sent += 1
        text = (WORKFLOWS / "tiny.json").read_bytes()
        return job_graph(text, prefix=f"latency/{self.sent}/picture", chance=self.chance)
