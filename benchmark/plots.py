"""Pictures of what was measured, as PNG. The plotting library is a development requirement, imported at first use."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmark import score
from benchmark.gap import GapReport
from benchmark.soak import SoakReport
from benchmark.streams import StreamsReport
from benchmark.traffic import LoadReport

COLOURS = {"raw": "#888888", "raw again": "#bbbbbb", "ours": "#c2410c"}
_SHARES = [number / 200 for number in range(200)] + [0.999]


def plot_load(report: LoadReport, path: Path) -> None:
    """Latency percentiles of each kind of load, raw against ours."""

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, len(report.measured), squeeze=False)[0]
        for axis, measured in zip(axes, report.measured, strict=True):
            for leg in measured.legs:
                values = [leg.ms(share) for share in _SHARES]
                axis.plot([100 * share for share in _SHARES], values, label=leg.side, color=COLOURS[leg.side])
            axis.set(title=measured.traffic.name, xlabel="percentile", yscale="log")
        axes[0].set_ylabel("latency, ms")
        axes[0].legend()

    save(path, draw, width=3.2 * len(report.measured))


def plot_gap(report: GapReport, path: Path) -> None:
    """How often ComfyUI stood idle for at most so long."""

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        for leg, colour in zip(report.legs, (COLOURS["raw"], COLOURS["ours"], COLOURS["raw again"]), strict=True):
            values = [score.percentile(leg.gaps_ms, share) for share in _SHARES]
            axis.plot(values, [100 * share for share in _SHARES], label=leg.side, color=colour)
        axis.set(xlabel="idle between two jobs, ms", ylabel="% of the gaps", xscale="log")
        axis.legend()

    save(path, draw)


def plot_soak(report: SoakReport, path: Path) -> None:
    """Resident memory over the whole run."""

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        axis.plot(*zip(*report.samples, strict=True), color=COLOURS["ours"])
        axis.set(xlabel="seconds", ylabel="resident memory, MB", ylim=(0, None), title=f"{report.jobs} jobs")

    save(path, draw)


def plot_streams(report: StreamsReport, path: Path) -> None:
    """Ages of events, from ComfyUI's tick to the reader."""

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        axis.plot([score.percentile(report.ages_ms, share) for share in _SHARES], [100 * share for share in _SHARES])
        axis.axvline(50, color=COLOURS["raw"], linestyle=":")
        axis.set(xlabel="age of an event, ms", ylabel="% of the events", title=f"{report.streams} streams")

    save(path, draw)


def save(path: Path, draw: Callable[[Any], None], *, width: float = 7.0, height: float = 4.0) -> None:
    """Draw into a PNG, so many inches wide and high."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    draw(figure)
    for axis in figure.axes:
        axis.grid(visible=True, alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
