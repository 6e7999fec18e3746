"""What the relay adds to a call: a worker that does nothing, called through the router and directly, turn by turn."""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from benchmark import score, servers
from benchmark.router_load import Line, http_post
from benchmark.router_site import RouterSite, cores, pinned, router
from benchmark.score import Interval
from benchmark.targets import Target, table
from benchmark.workload import WORKFLOWS

ROUNDS, CALLS, WARM = 20, 100, 200
LIMIT_MS = 1.0
PATH = "/generate/sync"
SLOTS = 8
REPORT = {"version": "1.1.0", "loadtime": 1.0, "max_perf": 1e5, "cur_load": 0.0, "slots": SLOTS, "engines": SLOTS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Relayed:
    """Latencies of each round, and the router's processor time for a call."""

    direct_s: tuple[tuple[float, ...], ...] = field(repr=False)
    relayed_s: tuple[tuple[float, ...], ...] = field(repr=False)
    cpu_us: float

    def added_ms(self) -> Interval:
        """Difference of the medians, of all rounds."""
        pairs = list(zip(self.direct_s, self.relayed_s, strict=True))
        return score.bootstrap(pairs, of=lambda found: median(1000 * (median(two) - median(one)) for one, two in found))

    def target(self) -> Target:
        """The upper end of the interval counts."""
        found = self.added_ms()
        return Target(
            what="relay, added to the median of a call",
            promise=f"<= {LIMIT_MS:g} ms",
            found=f"{found.value:.2f} ms (at most {found.high:.2f})",
            met=found.high <= LIMIT_MS,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"added_ms": asdict(self.added_ms())}


def rows(found: Relayed) -> list[str]:
    """The figures as a table."""
    head = ("a call", "p50, ms", "p99, ms", "the router's processor time, µs")
    return list(table(head, [_row("direct", found.direct_s, "–"), _row("relayed", found.relayed_s, found.cpu_us)]))


def _row(name: str, rounds: Sequence[Sequence[float]], cpu_us: object) -> tuple[object, ...]:
    every = [one for latencies in rounds for one in latencies]
    shown = f"{cpu_us:.0f}" if isinstance(cpu_us, float) else cpu_us
    return name, *(f"{1000 * score.percentile(every, share):.2f}" for share in (0.5, 0.99)), shown


async def measure_relay(say: Callable[[str], None], *, rounds: int = ROUNDS, calls: int = CALLS) -> Relayed:
    """Start a router and the worker, measure, stop them. Raises: ServerFailed, RuntimeError (an answer but 200)."""
    place = cores()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        folder = Path(scratch)
        async with AsyncExitStack() as stack:
            site = await stack.enter_async_context(router(folder, cores=place.measured))
            with pinned(place.others):
                worker = await stack.enter_async_context(_worker(folder))
                found = await _Calls(site, worker.base_url).measure(rounds, calls)
    say(f"relay: {found.added_ms().value:.2f} ms added")
    return found


def _worker(folder: Path) -> AbstractAsyncContextManager[servers.Server]:
    port = servers.free_port()
    command = [sys.executable, "-m", "benchmark.router_worker", str(port)]
    return servers.process(
        command,
        environ=servers.environment(),
        folder=folder,
        name="worker",
        url=f"http://127.0.0.1:{port}",
        probe="/",
    )


class _Calls:
    """One caller, one call at a time."""

    def __init__(self, site: RouterSite, worker_url: str) -> None:
        graph = orjson.loads((WORKFLOWS / "tiny.json").read_bytes())
        body = {"input": {"workflow_json": graph}}
        key = {"Authorization": f"Bearer {site.api_key}"}
        self._site = site
        self._worker_url = worker_url
        self._direct = http_post(worker_url, "/relay" + PATH, body, key)
        self._relayed = http_post(site.url, PATH, body, key)
        self._report = http_post(
            site.report_url, "/worker_status/", {"id": 1, "mtoken": site.token, "url": worker_url, **REPORT}
        )

    async def measure(self, rounds: int, calls: int) -> Relayed:
        worker, through, reports = [await _line(url) for url in (self._worker_url, self._site.url, self._site.url)]
        direct, relayed, cpu_s = [], [], 0.0
        await reports.ask(self._report)
        for line, request in ((worker, self._direct), (through, self._relayed)):
            await _timed(line, request, WARM)
        for _ in range(rounds):
            await reports.ask(self._report)
            direct.append(await _timed(worker, self._direct, calls))
            before = self._site.server.cpu_s()
            relayed.append(await _timed(through, self._relayed, calls))
            cpu_s += self._site.server.cpu_s() - before
        return Relayed(direct_s=tuple(direct), relayed_s=tuple(relayed), cpu_us=1e6 * cpu_s / (rounds * calls))


async def _line(url: str) -> Line:
    port = int(url.rpartition(":")[2])
    _, line = await asyncio.get_running_loop().create_connection(Line, "127.0.0.1", port)
    return line


async def _timed(line: Line, request: bytes, calls: int) -> tuple[float, ...]:
    latencies = []
    for _ in range(calls):
        begun = time.perf_counter()
        await line.ask(request)
        latencies.append(time.perf_counter() - begun)
    return tuple(latencies)
