"""Looking at our worker from outside while it works: its memory, what ``/metrics`` says, its files."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmark.ours import ApiClient
from benchmark.servers import Server
from lib.lifecycle import Tasks

SAMPLE_S = 0.1
MEGABYTE = 1_000_000


@dataclass(slots=True, kw_only=True)
class Watched:
    """Samples of resident memory: (seconds since the begin, MB)."""

    samples: list[tuple[float, float]] = field(default_factory=list)

    @property
    def peak_mb(self) -> float:
        return max(mb for _, mb in self.samples)

    @property
    def growth_mb(self) -> float:
        return self.peak_mb - self.samples[0][1]


@asynccontextmanager
async def watched(server: Server, *, every_s: float = SAMPLE_S) -> AsyncIterator[Watched]:
    """Sample the memory all the while."""
    found, began = Watched(), time.perf_counter()

    def sample() -> None:
        found.samples.append((time.perf_counter() - began, server.rss_bytes() / MEGABYTE))

    async def keep_on() -> None:
        while True:
            await asyncio.sleep(every_s)  # memory has no events
            sample()

    sample()
    async with Tasks() as tasks:
        tasks.spawn(keep_on(), name="memory-samples")
        yield found
    sample()


async def metric(api: ApiClient, series: str) -> float:
    """The value of one series (name and labels, as it stands in the exposition), 0.0 when it is not there."""
    found = re.search(rf"^{re.escape(series)} (\S+)$", await api.text("/metrics"), re.MULTILINE)
    return float(found[1]) if found else 0.0


async def stalls(api: ApiClient, *, over_s: float) -> int:
    """How often the worker's event loop came late by more than ``over_s``, one of the histogram's bounds."""
    name = "pyworker_event_loop_lag_seconds"
    late = await metric(api, f"{name}_count") - await metric(api, f'{name}_bucket{{le="{over_s}"}}')
    return int(late)
