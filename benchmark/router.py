"""The router's own cost: its decisions, its routes over HTTP, and what the relay adds to a call."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark import router_relay, router_routes
from benchmark.facts import HostFacts, gather_facts
from benchmark.plots import save
from benchmark.router_decisions import DecisionsReport, measure_decisions
from benchmark.router_relay import Relayed, measure_relay
from benchmark.router_routes import Routes, measure_routes
from benchmark.targets import Target, target_rows

PARTS = ("decisions", "routes", "relay")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterReport:
    """What was measured; None is what was left out."""

    facts: HostFacts
    decisions: DecisionsReport | None = None
    routes: tuple[Routes, ...] = ()
    relay: Relayed | None = None

    def targets(self) -> tuple[Target, ...]:
        """Decisions, routes, relay."""
        decided = self.decisions.targets() if self.decisions else ()
        routed = (one.target() for one in self.routes)
        relayed = (self.relay.target(),) if self.relay else ()
        return (*decided, *(one for one in routed if one is not None), *relayed)

    def markdown(self) -> str:
        """The report as a page keeps it."""
        lines = [f"{self.facts.describe()}. Processor time is the router's own."]
        if self.decisions:
            lines += ["", "### Decisions", "", *self.decisions.rows()]
        if self.routes:
            lines += ["", "### Routes over HTTP, one core", "", *router_routes.rows(self.routes)]
        if self.relay:
            lines += ["", "### Relay", "", *router_relay.rows(self.relay)]
        return "\n".join([*lines, "", "### Targets", "", *target_rows(self.targets())])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "facts": asdict(self.facts),
            "decisions": self.decisions.to_json() if self.decisions else None,
            "routes": router_routes.to_json(self.routes),
            "relay": self.relay.to_json() if self.relay else None,
            "targets": [asdict(target) for target in self.targets()],
        }


async def measure_router(say: Callable[[str], None], *, parts: Sequence[str] = PARTS) -> RouterReport:
    """All of it takes about three minutes. Raises: ServerFailed."""
    return RouterReport(
        facts=await gather_facts(),
        decisions=await asyncio.to_thread(measure_decisions, say) if "decisions" in parts else None,
        routes=await measure_routes(say) if "routes" in parts else (),
        relay=await measure_relay(say) if "relay" in parts else None,
    )


def plot_router(report: RouterReport, path: Path) -> None:
    """Time of a decision over load on the left, latencies of routes on the right."""
    decisions, routes = report.decisions.measured if report.decisions else (), report.routes

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        for workers, colour in zip(sorted({one.workers for one in decisions}), ("#2563eb", "#c2410c"), strict=False):
            found = [one for one in decisions if one.workers == workers]
            loads = [one.load for one in found]
            left.plot(loads, [one.mean_ms for one in found], marker=".", color=colour, label=f"{workers} workers, mean")
            p99 = [one.p99_ms for one in found]
            left.plot(loads, p99, marker=".", color=colour, linestyle=":", label=f"{workers} workers, p99")
        left.set(title="a decision", xlabel="offered load", ylabel="ms", yscale="log")
        shares = [number / 200 for number in range(199)] + [0.995]
        for one in routes:
            values = one.latencies_ms(shares)
            right.plot([100 * share for share in shares], values, label=one.case.name)
        right.set(title="a route, one caller at a time", xlabel="percentile", ylabel="ms", yscale="log")
        for axis in (left, right):
            axis.yaxis.set_major_formatter("{x:g}")
            axis.legend(fontsize="small")

    save(path, draw, width=9.0)
