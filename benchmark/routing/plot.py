"""Pictures of the simulation: mean response over load, policy by policy."""

from pathlib import Path
from typing import Any

from benchmark.plots import save
from benchmark.routing.cells import CENTRAL, HYBRID, LEAST_WORK, PROPORTIONAL
from benchmark.routing.report import RoutingReport, curves
from benchmark.routing.traces import SizesDrawn

STYLES: dict[str, dict[str, Any]] = {
    PROPORTIONAL: {"color": "#888888", "linestyle": "--"},
    LEAST_WORK: {"color": "#2563eb"},
    CENTRAL: {"color": "#15803d"},
    HYBRID: {"color": "#c2410c", "linewidth": 2.5},
}


def plot_routing(report: RoutingReport, path: Path) -> None:
    """Same-size jobs on the left, mixed sizes on the right."""

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, 2)
        for axis, sizes in zip(axes, (SizesDrawn.SAME, SizesDrawn.MIXED), strict=True):
            for name, points in curves(report, sizes).items():
                style = STYLES.get(name, {"color": "#bbbbbb", "linewidth": 1.0})
                axis.plot(*zip(*points, strict=True), label=name, marker=".", **style)
            axis.set(title=sizes, xlabel="offered load", yscale="log")
        axes[0].set_ylabel("mean response, s")
        axes[0].legend(fontsize="small")

    save(path, draw, width=9.0)
