"""Ten thousand tiny jobs: does anything stay behind? Memory, tasks, open files, files on disk."""

import os
import random
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmark import servers
from benchmark.facts import HostFacts, gather_facts
from benchmark.load import drive
from benchmark.ours import ApiClient
from benchmark.overhead import job_graph
from benchmark.raw import RawComfy
from benchmark.targets import Target, at_most, table, target_rows
from benchmark.watch import metric, watched
from benchmark.workload import WORKFLOWS

JOBS, WARM = 10_000, 2_000
CALLERS = 16
KEPT = 500
"""MAX_RESULTS of the worker: so many results are kept, the others must be forgotten."""
GROWTH_MB = 5.0
TASKS, FILES = "pyworker_asyncio_tasks", "pyworker_process_open_fds"


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakReport:
    """Before the measured jobs and after them; memory in MB."""

    facts: HostFacts
    jobs: int
    rate: float
    begin_mb: float
    end_mb: float
    tasks: tuple[int, int]
    open_files: tuple[int, int]
    stray_files: tuple[str, ...]
    samples: tuple[tuple[float, float], ...] = field(repr=False)

    def targets(self) -> tuple[Target, ...]:
        """Flat, and nothing left."""
        return (
            at_most("memory: last tenth against first", self.end_mb - self.begin_mb, GROWTH_MB, "MB", digits=1),
            at_most("tasks left", self.tasks[1] - self.tasks[0], 0, "tasks"),
            at_most("open files left", self.open_files[1] - self.open_files[0], 0, "files"),
            at_most("files left in inputs and temporary folders", len(self.stray_files), 0, "files"),
        )

    def markdown(self) -> str:
        """The report as a page keeps it."""
        head = self.facts.headline()
        rows = [
            ("jobs", f"{self.jobs} at {self.rate:.0f} jobs/s"),
            ("memory, first and last tenth", f"{self.begin_mb:.1f} MB, {self.end_mb:.1f} MB"),
            ("tasks, before and after", f"{self.tasks[0]}, {self.tasks[1]}"),
            ("open files, before and after", f"{self.open_files[0]}, {self.open_files[1]}"),
            ("stray files", ", ".join(self.stray_files) or "none"),
        ]
        return "\n".join([head, "", *table(("what", "found"), rows), "", *target_rows(self.targets())])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "targets": [asdict(target) for target in self.targets()]}


async def measure_soak(say: Callable[[str], None], *, jobs: int = JOBS, warm: int = WARM) -> SoakReport:
    """Start ComfyUI and our worker, send jobs, stop them. Raises: NoComfyUI, ServerFailed, ServiceError."""
    record = servers.find_record(os.environ)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        folder = Path(scratch)
        async with AsyncExitStack() as stack:
            say("Starting ComfyUI and our worker")
            comfy = await stack.enter_async_context(servers.comfyui(record, folder / "comfyui"))
            raw = await stack.enter_async_context(RawComfy(comfy.base_url))
            facts = await gather_facts(await raw.get("/system_stats"))
            environment = {"MAX_RESULTS": str(KEPT), "BENCHMARK_TEST_STEPS": "1"}
            worker = await stack.enter_async_context(servers.worker(comfy, folder / "worker", environment))
            api = await stack.enter_async_context(ApiClient(worker.base_url))
            send = _sender(api, leg=1)
            await drive(send, jobs=warm, concurrency=CALLERS)
            before = await _left(api)
            say(f"Warm after {warm} jobs; {jobs} more")
            async with watched(worker) as memory:
                leg = await drive(_sender(api, leg=2), jobs=jobs, concurrency=CALLERS)
            after = await _left(api)
            tenth = max(1, len(memory.samples) // 10)
            megabytes = [mb for _, mb in memory.samples]
            return SoakReport(
                facts=facts,
                jobs=jobs,
                rate=leg.rate,
                begin_mb=median(megabytes[:tenth]),
                end_mb=median(megabytes[-tenth:]),
                tasks=(before[0], after[0]),
                open_files=(before[1], after[1]),
                stray_files=_stray(comfy.folder, folder / "worker" / "workspace"),
                samples=tuple(memory.samples),
            )


def _sender(api: ApiClient, *, leg: int) -> Callable[[int], Any]:
    text, chance = (WORKFLOWS / "tiny.json").read_bytes(), random.Random(leg)

    async def send(number: int) -> None:
        await api.run({"workflow_json": job_graph(text, prefix=f"soak/{leg}-{number}", chance=chance)})

    return send


async def _left(api: ApiClient) -> tuple[int, int]:
    return int(await metric(api, TASKS)), int(await metric(api, FILES))


def _stray(comfy: Path, workspace: Path) -> tuple[str, ...]:
    """Files where only work in progress may have some."""
    folders = (comfy / "input", comfy / "temp", workspace / "inputs", workspace / "outputs")
    return tuple(str(path.name) for folder in folders for path in folder.rglob("*") if path.is_file())
