"""Pictures of the simulation: responses over load, policy by policy."""

from pathlib import Path
from typing import Any

from benchmark import score
from benchmark.plots import save
from benchmark.routing.cells import CENTRAL, HYBRID, LEAST_WORK, PROPORTIONAL
from benchmark.routing.real import RealReport
from benchmark.routing.report import RoutingReport, curves
from benchmark.routing.traces import SizesDrawn

PLAIN: tuple[dict[str, Any], ...] = tuple(
    {"color": colour, "linewidth": 1.2, "linestyle": line}
    for colour, line in (("#999999", ":"), ("#999999", "-."), ("#c9a227", "-"))
)
STYLES: dict[str, dict[str, Any]] = {
    PROPORTIONAL: {"color": "#888888", "linestyle": "--"},
    LEAST_WORK: {"color": "#2563eb"},
    CENTRAL: {"color": "#15803d"},
    HYBRID: {"color": "#c2410c", "linewidth": 2.5},
}


SIZES = (SizesDrawn.SAME, SizesDrawn.MIXED)
FIGURES = {"mean": "mean response, s", "p99": "p99 response, s"}
TICKS = (1, 2, 4, 10, 20, 40, 100, 200, 400, 1000)


def plot_routing(report: RoutingReport, path: Path) -> None:
    """Same-size jobs on the left, mixed sizes on the right; means above, p99 below."""

    def draw(figure: Any) -> None:
        axes = figure.subplots(2, 2, sharex=True)
        for row, (field, label) in zip(axes, FIGURES.items(), strict=True):
            for axis, sizes in zip(row, SIZES, strict=True):
                _curves(axis, report, sizes, field)
            row[0].set_ylabel(label)
        for axis, sizes in zip(axes[0], SIZES, strict=True):
            axis.set_title(sizes)
        for axis in axes[1]:
            axis.set_xlabel("offered load")
        axes[0][0].legend(fontsize="small")

    save(path, draw, width=9.0, height=7.0)


def _curves(axis: Any, report: RoutingReport, sizes: SizesDrawn, field: str) -> None:
    plain = iter(PLAIN)
    for name, points in curves(report, sizes, field).items():
        axis.plot(*zip(*points, strict=True), label=name, marker=".", **(STYLES.get(name) or next(plain)))
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.set_yticks([tick for tick in TICKS if low <= tick <= high])
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("")


def plot_real(report: RealReport, path: Path) -> None:
    """Percentiles of responses, real and simulated, a cell beside the other."""
    cells = list(dict.fromkeys(one.cell for one in report.compared))
    shares = [number / 200 for number in range(200)]

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, len(cells), squeeze=False)[0]
        for axis, cell in zip(axes, cells, strict=True):
            for one in (one for one in report.compared if one.cell == cell):
                for name, responses, line in (("real", one.real, "-"), ("simulated", one.simulated, ":")):
                    values = [score.percentile(responses, share) for share in shares]
                    style = {"color": STYLES[one.policy]["color"], "linestyle": line}
                    axis.plot([100 * share for share in shares], values, label=f"{one.policy}, {name}", **style)
            axis.set(title=cell.replace(", ", "\n", 1), xlabel="percentile", yscale="log")
            axis.yaxis.set_major_formatter("{x:g}")
        axes[0].set_ylabel("response, s")
        axes[0].legend(fontsize="small")

    save(path, draw, width=3.6 * len(cells))
