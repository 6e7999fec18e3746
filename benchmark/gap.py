"""How long ComfyUI stands idle between consecutive jobs, while ours fetch their inputs and upload their outputs.

The yardstick is ComfyUI alone with all prompts in its own queue beforehand: no caller can feed it faster. Ours get
their picture from a place that takes 200 ms and give the result to one that takes 500 ms. Measured inside ComfyUI, from
the end of one execution to the begin of the next.
"""

import os
import random
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from benchmark import score, servers
from benchmark.facts import HostFacts, gather_facts
from benchmark.load import drive
from benchmark.neighbours import Neighbours, neighbours, small_png
from benchmark.ours import ApiClient
from benchmark.raw import RawComfy
from benchmark.targets import Target, at_most, table, target_rows
from benchmark.workload import WORKFLOWS, Graph

JOBS = 110
WARM = 10
"""Jobs at the begin of a leg that are not measured: the model is loaded, the pipeline fills."""
INPUT_S, UPLOAD_S = 0.2, 0.5
FACTOR = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """Idle milliseconds between consecutive executions of one leg."""

    side: str
    gaps_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        return median(self.gaps_ms)

    @property
    def p95_ms(self) -> float:
        return score.percentile(self.gaps_ms, 0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class GapReport:
    """Three legs in the order in which they ran: raw, ours, raw again."""

    facts: HostFacts
    legs: tuple[Gaps, ...]
    jobs: int

    def targets(self) -> tuple[Target, ...]:
        """Median and 95th percentile against the mean of both raw legs."""
        raw, ours = _yardstick(self.legs), self.legs[1]
        return (
            at_most("median gap / raw's, pre-queued", ours.median_ms / raw[0], FACTOR, "x", digits=2),
            at_most("p95 gap / raw's, pre-queued", ours.p95_ms / raw[1], FACTOR, "x", digits=2),
        )

    def markdown(self) -> str:
        """The report as a page keeps it."""
        rows = [(leg.side, len(leg.gaps_ms), f"{leg.median_ms:.2f}", f"{leg.p95_ms:.2f}") for leg in self.legs]
        head = f"{self.facts.headline()}; {self.jobs} jobs a leg"
        lines = table(("side", "gaps", "median ms", "p95 ms"), rows)
        return "\n".join([head, "", *lines, "", *target_rows(self.targets())])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "targets": [asdict(target) for target in self.targets()]}


async def measure_gap(say: Callable[[str], None], *, jobs: int = JOBS, warm: int = WARM) -> GapReport:
    """Start ComfyUI and our worker, measure, stop them. Raises: NoComfyUI, ServerFailed, ServiceError."""
    record = servers.find_record(os.environ)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        folder = Path(scratch)
        async with AsyncExitStack() as stack:
            say("Starting ComfyUI")
            comfy = await stack.enter_async_context(servers.comfyui(record, folder / "comfyui", pack=True))
            raw = await stack.enter_async_context(RawComfy(comfy.base_url))
            facts = await gather_facts(await raw.get("/system_stats"))
            outside = await stack.enter_async_context(neighbours(input_s=INPUT_S, upload_s=UPLOAD_S))
            environment = {"FETCH_ALLOW_HOSTS": "127.0.0.1", "BENCHMARK_TEST_STEPS": "1"}
            worker = await stack.enter_async_context(servers.worker(comfy, folder / "worker", environment))
            api = await stack.enter_async_context(ApiClient(worker.base_url))
            bench = _Gap(comfy=comfy, raw=raw, api=api, outside=outside, say=say, jobs=jobs, warm=warm)
            legs = (await bench.raw_leg("raw, pre-queued"), await bench.our_leg(), await bench.raw_leg("raw again"))
        return GapReport(facts=facts, legs=legs, jobs=jobs)


@dataclass(slots=True, kw_only=True)
class _Gap:
    comfy: servers.Server
    raw: RawComfy
    api: ApiClient
    outside: Neighbours
    say: Callable[[str], None]
    jobs: int
    warm: int
    sent: int = 0

    async def raw_leg(self, side: str) -> Gaps:
        """All prompts in ComfyUI's queue at once, their pictures in its input folder."""
        numbers = self._numbers()
        for number in numbers:
            (self.comfy.folder / "input" / f"{number}.png").write_bytes(small_png(number))

        async def send(index: int) -> None:
            await self.raw.run(_graph(f"{numbers[index]}.png", numbers[index]))

        return await self._leg(side, send)

    async def our_leg(self) -> Gaps:
        """All jobs sent at once; each fetches its picture and delivers its output."""
        numbers = self._numbers()

        async def send(index: int) -> None:
            number = numbers[index]
            await self.api.run(
                {
                    "workflow_json": _graph(f"{self.outside.base_url}/picture/{number}.png", number),
                    "upload": {"put_urls": [f"{self.outside.base_url}/put/{number}"]},
                }
            )

        found = await self._leg("ours", send)
        if missing := [number for number in numbers if not self.outside.received.get(str(number))]:
            raise servers.ServerFailed(f"{len(missing)} outputs were not delivered")
        return found

    async def _leg(self, side: str, send: Callable[[int], Any]) -> Gaps:
        log = servers.stopwatch(self.comfy.folder)
        before = len(_lines(log))
        await drive(send, jobs=self.jobs, concurrency=self.jobs)
        found = Gaps(side=side, gaps_ms=gaps_ms(_lines(log)[before:])[self.warm :])
        self.say(f"{side}: median {found.median_ms:.2f} ms, p95 {found.p95_ms:.2f} ms between {self.jobs} jobs")
        return found

    def _numbers(self) -> range:
        self.sent += self.jobs
        return range(self.sent, self.sent + self.jobs)


def gaps_ms(lines: Sequence[str]) -> tuple[float, ...]:
    """Idle time between consecutive lines ``id begin end`` of the stopwatch, in ms."""
    times = sorted((float(begin), float(end)) for _, begin, end in (line.split() for line in lines))
    return tuple(1000 * (begin - end) for (_, end), (begin, _) in pairwise(times))


def _lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def _graph(picture: str, number: int) -> Graph:
    graph: Graph = orjson.loads((WORKFLOWS / "img2img.json").read_bytes())
    graph["1"]["inputs"]["image"] = picture
    graph["3"]["inputs"]["seed"] = random.Random(number).randrange(1 << 32)
    graph["6"]["inputs"]["text"] = f"picture {number} of a lighthouse"
    graph["9"]["inputs"]["filename_prefix"] = f"gap/{number}"
    return graph


def _yardstick(legs: Sequence[Gaps]) -> tuple[float, float]:
    raw = (legs[0], legs[2])
    return score.mean([leg.median_ms for leg in raw]), score.mean([leg.p95_ms for leg in raw])
