"""What our service costs over ComfyUI alone: the same jobs, on the same ComfyUI process, turn by turn.

Rounds of raw, ours, raw', each leg with an empty output folder and history, the same prefix a job, the same bytes in
the caller's hands. ``make bench`` runs this; ten minutes. With a dialect the rounds are ``POST /generate/sync``, the
dialect's own route, ``/generate/sync`` again: what that dialect costs over ours.
"""

import asyncio
import os
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from benchmark import servers
from benchmark.compare import Comparison, Round, compare
from benchmark.facts import HostFacts, gather_facts
from benchmark.load import Leg, drive
from benchmark.memory import MemoryFigures, measure_memory
from benchmark.ours import DIALECTS, ApiClient
from benchmark.raw import RawComfy
from benchmark.workload import WORKFLOWS, Graph

PNG = b"\x89PNG\r\n\x1a\n"
TIME_LIMIT_S = 600.0
MEMORY_RESERVE_S = 75.0
"""Kept free of the time limit for the memory figures."""
WANTED_ROUNDS = 6
WORKER_ENVIRONMENT = {
    "MAX_QUEUE_SIZE": "3000",
    "FETCH_ALLOW_HOSTS": "127.0.0.1",
    "BENCHMARK_TEST_WIDTH": "64",
    "BENCHMARK_TEST_HEIGHT": "64",
    "BENCHMARK_TEST_STEPS": "1",
}
"""Room for 1,000 waiting jobs, leave to reach our own S3 server, and a short start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One workflow at one concurrency; of ``jobs`` sent, ``count`` are measured (all when None).

    ``reserve_s`` is kept free for this case while earlier ones repeat their void rounds.
    """

    name: str
    concurrency: int
    jobs: int
    count: int | None = None
    reserve_s: float


TINY, PICTURE = "tiny (EmptyImage 64x64)", "SD 1.5 128x128, 4 steps"
CASES = (
    Case(name=TINY, concurrency=1, jobs=300, reserve_s=40),
    Case(name=TINY, concurrency=8, jobs=600, reserve_s=40),
    Case(name=TINY, concurrency=64, jobs=600, reserve_s=40),
    Case(name=PICTURE, concurrency=1, jobs=10, reserve_s=95),
    Case(name=PICTURE, concurrency=8, jobs=18, count=11, reserve_s=110),
    Case(name=PICTURE, concurrency=64, jobs=64, count=10, reserve_s=110),
)


Side = Callable[[Graph], Awaitable[tuple[bytes, ...]]]
"""Runs one job somewhere and brings its files home."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverheadReport:
    """Everything that a run of ``python -m benchmark overhead`` found. With a ``dialect``, "raw" is our own route
    ``POST /generate/sync`` and "ours" is the dialect's."""

    facts: HostFacts
    dialect: str | None = None
    comparisons: tuple[Comparison, ...]
    memory: MemoryFigures | None
    notes: tuple[str, ...]
    seconds_spent: float


async def measure_overhead(
    announce: Callable[[str], None],
    *,
    cases: tuple[Case, ...] = CASES,
    rounds: int = WANTED_ROUNDS,
    memory: bool = True,
    dialect: str | None = None,
) -> OverheadReport:
    """Start ComfyUI and our worker, measure, stop them; void rounds are repeated, two for each three that are wanted.

    Raises: NoComfyUI, ServerFailed, ServiceError.
    """
    began = time.monotonic()
    record = servers.find_record(os.environ)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        folder = Path(scratch)
        async with AsyncExitStack() as stack:
            announce("Starting ComfyUI")
            comfy = await stack.enter_async_context(servers.comfyui(record, folder / "comfyui"))
            raw = await stack.enter_async_context(RawComfy(comfy.base_url))
            facts = await gather_facts(await raw.get("/system_stats"))
            announce(f"On {facts.headline()}")
            deadline = began + TIME_LIMIT_S - (MEMORY_RESERVE_S if memory else 0)
            bench = _Overhead(
                comfy=comfy, raw=raw, announce=announce, deadline=deadline, wanted=rounds, dialect=dialect
            )
            comparisons = await bench.compare_all(cases, folder / "worker")
            figures = None
            if memory:
                await bench.fresh()
                figures = await measure_memory(comfy, folder / "memory", environment=WORKER_ENVIRONMENT, say=announce)
    return OverheadReport(
        facts=facts,
        dialect=dialect,
        comparisons=comparisons,
        memory=figures,
        notes=tuple(bench.notes),
        seconds_spent=time.monotonic() - began,
    )


@dataclass(slots=True, kw_only=True)
class _Overhead:
    """The comparison in progress."""

    comfy: servers.Server
    raw: RawComfy
    announce: Callable[[str], None]
    deadline: float
    wanted: int = WANTED_ROUNDS
    dialect: str | None = None
    notes: list[str] = field(default_factory=list)
    leg: int = 0
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    async def compare_all(self, cases: tuple[Case, ...], folder: Path) -> tuple[Comparison, ...]:
        self.announce("Starting our worker beside it")
        async with AsyncExitStack() as stack:
            worker = await stack.enter_async_context(servers.worker(self.comfy, folder, WORKER_ENVIRONMENT))
            api = await stack.enter_async_context(ApiClient(worker.base_url))
            found = []
            for number, case in enumerate(cases):
                deadline = self.deadline - sum(later.reserve_s for later in cases[number + 1 :])
                found.append(await self._case(case, worker, self._sides(api), deadline=deadline))
        return tuple(one for one in found if one is not None)

    def _sides(self, api: ApiClient) -> tuple[Side, Side]:
        """What is held against what."""

        async def ours(graph: Graph) -> tuple[bytes, ...]:
            return (await api.run({"workflow_json": graph, "return_outputs_as_base64": True})).files

        async def raw(graph: Graph) -> tuple[bytes, ...]:
            return (await self.raw.run(graph)).files

        return (raw, ours) if self.dialect is None else (ours, partial(DIALECTS[self.dialect], api))

    async def fresh(self, case: Case | None = None) -> None:
        """Empty queue, history and output folder: old files and entries slow ComfyUI down.

        ComfyUI collects garbage for some 0.3 s, every 10 s at most, which would hit one leg and spare the next. Freeing
        makes it collect now; the warm jobs after it bring the model back and tell that it is over.
        """
        while any((await self.raw.get("/queue")).values()):  # noqa: ASYNC110 - ComfyUI offers nothing to wait on
            await asyncio.sleep(0.05)
        if case is not None:
            await self.raw.post("/free", {"unload_models": True})
            for graph in self._graphs(case)[: 2 if case.name == TINY else 1]:
                await self.raw.run(graph)
        await self.raw.post("/history", {"clear": True})
        await asyncio.to_thread(servers.empty, self.comfy.folder / "output")

    async def _case(
        self, case: Case, worker: servers.Server, sides: tuple[Side, Side], *, deadline: float
    ) -> Comparison | None:
        warm = replace(case, jobs=min(case.jobs, max(3, case.concurrency)), count=None if case.jobs > 100 else 3)
        for side in sides:
            await self._leg(warm, side)
        rounds: list[Round] = []
        most, last_s = self.wanted * 5 // 3, 0.0
        while sum(not one.void for one in rounds) < self.wanted and len(rounds) < most:
            began = time.monotonic()
            if began + last_s > deadline:
                self.notes.append(f"{case.name} at {case.concurrency}: time was up after {len(rounds)} rounds")
                break
            rounds.append(await self._round(case, worker, sides))
            last_s = time.monotonic() - began
            self.announce(_line(case, len(rounds), rounds[-1]))
        return compare(case.name, rounds, concurrency=case.concurrency, wanted=self.wanted)

    async def _round(self, case: Case, worker: servers.Server, sides: tuple[Side, Side]) -> Round:
        base, measured = sides
        raw = await self._leg(case, base)
        before = worker.cpu_s()
        ours = await self._leg(case, measured)
        cpu_s = worker.cpu_s() - before
        return Round(raw=raw, ours=ours, again=await self._leg(case, base), cpu_s=cpu_s)

    async def _leg(self, case: Case, side: Side) -> Leg:
        graphs = self._graphs(case)

        async def send(number: int) -> None:
            _check(await side(graphs[number]))

        await self.fresh(case)
        leg = await drive(send, jobs=case.jobs, concurrency=case.concurrency, count=case.count)
        if case.count is not None:  # prompts that their caller dropped; our worker withdraws its own
            await self.raw.post("/queue", {"clear": True})
        return leg

    def _graphs(self, case: Case) -> list[Graph]:
        """The jobs of one leg: none like another, so that ComfyUI's cache answers nothing; a folder for each."""
        self.leg += 1
        text = (WORKFLOWS / ("tiny.json" if case.name == TINY else "sd15.json")).read_bytes()
        prefix = f"bench/{self.leg}-{{}}/picture"
        return [job_graph(text, prefix=prefix.format(number), chance=self.chance) for number in range(case.jobs)]


def job_graph(text: bytes, *, prefix: str, chance: random.Random) -> Graph:
    """One job: the tiny workflow in another colour, or the small SD picture with another seed and text."""
    graph: dict[str, Any] = orjson.loads(text)
    if "3" not in graph:
        graph["1"]["inputs"]["color"] = chance.randrange(1 << 24)
        graph["2"]["inputs"]["filename_prefix"] = prefix
        return graph
    graph["3"]["inputs"].update(seed=chance.randrange(1 << 32), steps=4)
    graph["5"]["inputs"].update(width=128, height=128)
    graph["6"]["inputs"]["text"] = f"picture {chance.randrange(1 << 32)} of a lighthouse"
    graph["9"]["inputs"]["filename_prefix"] = prefix
    return graph


def _check(files: tuple[bytes, ...]) -> None:
    if len(files) != 1 or not files[0].startswith(PNG):
        raise servers.ServerFailed(f"expected one PNG, got {[data[:8] for data in files]}")


def _line(case: Case, number: int, one: Round) -> str:
    found = f"ratio {one.ratio:.3f}, added p50 {one.added_p50_ms:+.2f} ms, our CPU {one.cpu_ms:.2f} ms a job"
    verdict = "void" if one.void else found
    rates = f"{one.raw.rate:.1f} / {one.ours.rate:.1f} / {one.again.rate:.1f} jobs/s"
    return f"{case.name} x{case.concurrency}, round {number}: {rates}, raw'/raw {one.drift:.2f}: {verdict}"
