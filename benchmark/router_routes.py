"""How many requests a second the router gives a worker over HTTP, on one core: a real process, alone on its core, with
the load generator (``router_load``) on another."""

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark import score
from benchmark.router_load import Found, Load, Spent
from benchmark.router_site import cores, pinned, router
from benchmark.servers import ServerFailed
from benchmark.settings import REPOSITORY
from benchmark.targets import Target, table

WORKERS, BUSY, CALLERS = 500, 250, 16
SECONDS = 12.0
LEAST_D, LEAST_OTHER = 4000.0, 1500.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kind of route. ``version`` of the workers decides the signature's form; ours get a ticket as well."""

    name: str
    least: float | None = None
    version: str = "1.1.0"
    ours: bool = False
    redis: bool = False


CASES = (
    Case(name="form D", least=LEAST_D),
    Case(name="form D and a ticket", ours=True),
    Case(name="form C", least=LEAST_OTHER, version="1.0.0"),
    Case(name="form D, Redis store", least=LEAST_OTHER, redis=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """One case. ``found`` is the load generator's."""

    case: Case
    found: Found

    @property
    def rate(self) -> float:
        """Routes a second, of the time that passed."""
        return self.found.routes.calls / self.found.routes.seconds

    @property
    def core(self) -> float:
        """The share of a core that the router had meanwhile."""
        return self.found.routes.cpu_s / self.found.routes.seconds

    def latencies_ms(self, shares: Sequence[float]) -> list[float]:
        """Of one caller at a time."""
        return [1000 * score.percentile(self.found.alone_s, share) for share in shares]

    def target(self) -> Target | None:
        """The promise on the rate."""
        if self.case.least is None:
            return None
        return Target(
            what=f"routes/s over HTTP on one core, {self.case.name}",
            promise=f">= {self.case.least:.0f}",
            found=f"{self.rate:.0f}, with {self.core:.2f} of the core",
            met=self.rate >= self.case.least,
        )

    def row(self) -> tuple[object, ...]:
        """For the table."""
        found = self.found
        return (
            self.case.name,
            f"{self.rate:.0f}",
            f"{self.core:.2f}",
            f"{_us(found.routes):.0f}",
            " / ".join(f"{ms:.2f}" for ms in self.latencies_ms((0.5, 0.99))),
            f"{1000 * score.percentile(found.together_s, 0.99):.1f}",
            f"{_us(found.ends):.0f}",
            f"{_us(found.reports):.0f}",
        )


def rows(measured: Sequence[Routes]) -> list[str]:
    """The table of all cases."""
    head = (
        "signature",
        "routes/s",
        "cores it got",
        "processor time a route, µs",
        "one caller: p50 / p99, ms",
        f"{CALLERS} callers flat out: p99, ms",
        "an end, µs",
        "a report, µs",
    )
    return list(table(head, [one.row() for one in measured]))


async def measure_routes(
    say: Callable[[str], None],
    *,
    cases: Sequence[Case] = CASES,
    seconds: float = SECONDS,
    workers: int = WORKERS,
    busy: int = BUSY,
) -> tuple[Routes, ...]:
    """A router of its own for each case. Raises: ServerFailed."""
    measured = []
    for case in cases:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
            measured.append(await _measure(case, Path(scratch), seconds=seconds, workers=workers, busy=busy))
        say(f"{case.name}: {measured[-1].rate:.0f} routes/s, {_us(measured[-1].found.routes):.0f} µs each")
    return tuple(measured)


def to_json(measured: Sequence[Routes]) -> list[dict[str, Any]]:
    """Plain JSON values; latencies as percentiles."""
    return [
        {
            **asdict(one.case),
            "rate": one.rate,
            "core": one.core,
            **{kind: asdict(getattr(one.found, kind)) for kind in ("routes", "ends", "reports")},
            "alone_ms": _percentiles(one.found.alone_s),
            "together_ms": _percentiles(one.found.together_s),
        }
        for one in measured
    ]


async def _measure(case: Case, folder: Path, *, seconds: float, workers: int, busy: int) -> Routes:
    place = cores()
    async with router(folder, redis=case.redis, cores=place.measured, others=place.others) as site:
        load = Load(
            host="127.0.0.1",
            port=site.port,
            pid=site.server.process.pid,
            api_key=site.api_key,
            token=site.token,
            workers=workers,
            busy=busy,
            callers=CALLERS,
            version=case.version,
            ours=case.ours,
            seconds=seconds,
        )
        with pinned(place.others):
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmark.router_load", json.dumps(asdict(load))),
                cwd=REPOSITORY,
                stdout=asyncio.subprocess.PIPE,
            )
        told, _ = await child.communicate()
    if child.returncode != 0:
        raise ServerFailed(f"the load generator ended with {child.returncode}")
    return Routes(case=case, found=_read(json.loads(told)))


def _read(told: dict[str, Any]) -> Found:
    return Found(
        routes=Spent(**told["routes"]),
        ends=Spent(**told["ends"]),
        reports=Spent(**told["reports"]),
        waited=told["waited"],
        alone_s=tuple(told["alone_s"]),
        together_s=tuple(told["together_s"]),
    )


def _us(spent: Spent) -> float:
    return 1e6 * spent.cpu_s / max(spent.calls, 1)


def _percentiles(latencies_s: Sequence[float]) -> dict[str, float]:
    return {f"p{100 * share:g}": 1000 * score.percentile(latencies_s, share) for share in (0.5, 0.95, 0.99)}
