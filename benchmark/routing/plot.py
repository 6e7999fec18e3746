"""Pictures of the simulation: mean response over load, policy by policy."""

from pathlib import Path
from typing import Any

from benchmark.plots import save
from benchmark.routing.cells import CENTRAL, HYBRID, LEAST_WORK, PROPORTIONAL
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


TICKS = {SizesDrawn.SAME: (1, 2, 3, 4, 6, 8), SizesDrawn.MIXED: (4, 6, 10, 20, 40, 80)}


def plot_routing(report: RoutingReport, path: Path) -> None:
    """Same-size jobs on the left, mixed sizes on the right."""

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, 2)
        for axis, sizes in zip(axes, (SizesDrawn.SAME, SizesDrawn.MIXED), strict=True):
            plain = iter(PLAIN)
            for name, points in curves(report, sizes).items():
                style = STYLES.get(name) or next(plain)
                axis.plot(*zip(*points, strict=True), label=name, marker=".", **style)
            axis.set(title=sizes, xlabel="offered load", yscale="log", yticks=TICKS[sizes])
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("")
        axes[0].set_ylabel("mean response, s")
        axes[0].legend(fontsize="small")

    save(path, draw, width=9.0)
