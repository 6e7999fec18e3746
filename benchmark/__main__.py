"""``python -m benchmark COMMAND``, for measuring by hand: boot, overhead, latency, load, gap, large, router,
routing, soak, streams."""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmark import plots
from benchmark.boot import boot_benchmark
from benchmark.gap import measure_gap
from benchmark.large import measure_large
from benchmark.latency import measure_latency
from benchmark.ours import DIALECTS, ApiClient
from benchmark.overhead import CASES, TINY, measure_overhead
from benchmark.ports import BenchRunner
from benchmark.raw import RawComfy
from benchmark.report import Overhead
from benchmark.result import BenchResult
from benchmark.router import PARTS, measure_router, plot_router
from benchmark.routing.measure import JOBS, PROCESSES, SEEDS, measure_routing
from benchmark.routing.plot import plot_real, plot_routing
from benchmark.routing.real import measure_real
from benchmark.routing.recorded import BadRecording
from benchmark.runners import ApiRunner, RawRunner
from benchmark.servers import NoComfyUI, ServerFailed
from benchmark.settings import REPOSITORY
from benchmark.soak import measure_soak
from benchmark.streams import measure_streams
from benchmark.targets import Target, new_page, with_tables
from benchmark.traffic import measure_load
from lib.errors import ServiceError
from lib.settings import SettingsError

RESULTS = REPOSITORY / "var"
PAGES = REPOSITORY / "docs" / "benchmarks"
COMFYUI_URL = "http://127.0.0.1:18188"
EXAMPLES = """examples:
  python -m benchmark boot                                  ComfyUI on 127.0.0.1:18188
  python -m benchmark boot --url http://127.0.0.1:8188      another ComfyUI
  python -m benchmark boot --api http://127.0.0.1:18288     our running service, through its API listener
  python -m benchmark overhead                              our service against ComfyUI alone (10 minutes)
  python -m benchmark gap --page                            keep tables and plot in docs/benchmarks/"""


class Report(Protocol):
    """What a measurement gives."""

    def markdown(self) -> str: ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A command; ``plot`` draws its report into a PNG."""

    about: str
    measure: Callable[..., Awaitable[Any]]
    plot: Callable[[Any, Path], None] | None = None


MEASUREMENTS = {
    "load": Measurement(about="mixed workflows, open and closed loop", measure=measure_load, plot=plots.plot_load),
    "gap": Measurement(about="idle time of ComfyUI between jobs", measure=measure_gap, plot=plots.plot_gap),
    "latency": Measurement(about="where the time of one tiny job goes", measure=measure_latency),
    "large": Measurement(about="files of a gigabyte: memory and stalls", measure=measure_large),
    "router": Measurement(about="the router: decisions, routes, relay", measure=measure_router, plot=plot_router),
    "routing": Measurement(about="simulated fleets: policies compared", measure=measure_routing, plot=plot_routing),
    "soak": Measurement(about="10,000 jobs: what stays behind", measure=measure_soak, plot=plots.plot_soak),
    "streams": Measurement(about="2,000 event streams", measure=measure_streams, plot=plots.plot_streams),
}


def main() -> None:
    """Parse the command line and run."""
    parser = _parser()
    options = parser.parse_args()
    if options.page and (options.only or options.trace) and options.command in MEASUREMENTS:
        parser.error("a page is kept of the whole: not of --only a part, nor of a --trace")
    if options.real and options.trace:
        parser.error("a --trace is replayed on simulated fleets, not on --real processes")
    signal.signal(signal.SIGTERM, _end)
    try:
        if options.command == "boot":
            asyncio.run(_boot(options.url, options.api, options.workspace))
            return
        _keep(options, _measure(options), plot=_plot_of(options))
    except (ServiceError, SettingsError, NoComfyUI, ServerFailed, BadRecording) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _end(number: int, frame: object) -> None:
    """As Ctrl-C: what was started is stopped. ``timeout`` sends it twice, and a second Ctrl-C waits for nothing."""
    signal.signal(number, signal.SIG_IGN)
    signal.raise_signal(signal.SIGINT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmark", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(dialect=None, only=None, page=False, real=False, trace=None)
    commands = parser.add_subparsers(dest="command", required=True)
    boot = commands.add_parser("boot", help="the benchmark that a worker runs at start")
    where = boot.add_mutually_exclusive_group()
    where.add_argument("--url", default=COMFYUI_URL, help=f"a ComfyUI, by default {COMFYUI_URL}")
    where.add_argument("--api", help="our service's API listener, for example http://127.0.0.1:18288")
    boot.add_argument("--workspace", type=Path, help="keep the result (and use a valid one) in this folder")
    overhead = commands.add_parser("overhead", help="our service against ComfyUI alone, and its memory")
    overhead.add_argument("--no-memory", action="store_true", help="leave the memory figures out")
    overhead.add_argument("--only", choices=("tiny", "sd"), help="one of the two workflows")
    overhead.add_argument(
        "--dialect", choices=sorted(DIALECTS), help="what this dialect costs over POST /generate/sync (tiny workflow)"
    )
    others = {name: commands.add_parser(name, help=one.about) for name, one in MEASUREMENTS.items()}
    others["router"].add_argument("--only", choices=PARTS, help="one of its three parts")
    others["routing"].add_argument("--real", action="store_true", help="some of it on real processes (5 minutes)")
    others["routing"].add_argument("--trace", type=Path, help="a recording instead (CSV: at, size; see docs)")
    others["routing"].add_argument("--jobs", type=int, default=JOBS, help=f"in a cell, at most; {JOBS} by default")
    others["routing"].add_argument("--seeds", type=int, default=SEEDS, help=f"{SEEDS} by default")
    others["routing"].add_argument("--processes", type=int, default=PROCESSES, help=f"{PROCESSES} by default")
    for command in (overhead, *others.values()):
        command.add_argument("--json", type=Path, help="where the figures go, by default var/<command>.json")
        command.add_argument("--page", action="store_true", help="keep tables and plot in docs/benchmarks/<command>")
    return parser


def _measure(options: argparse.Namespace) -> Report:
    if options.command == "overhead":
        only = "tiny" if options.dialect else options.only
        cases = tuple(case for case in CASES if only is None or (case.name == TINY) == (only == "tiny"))
        memory = not options.no_memory and options.dialect is None
        measuring = measure_overhead(_say, cases=cases, memory=memory, dialect=options.dialect)
        return Overhead(asyncio.run(measuring))
    if options.real:
        return asyncio.run(measure_real(_say))
    report: Report = asyncio.run(_run(MEASUREMENTS[options.command].measure(_say, **_chosen(options))))
    return report


def _chosen(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of a measurement, as its arguments."""
    match options.command:
        case "router":
            return {"parts": (options.only,)} if options.only else {}
        case "routing":
            names = ("jobs", "seeds", "processes", "trace")
            return {name: getattr(options, name) for name in names}
        case _:
            return {}


async def _run(measuring: Awaitable[Any]) -> Any:
    return await measuring


def _plot_of(options: argparse.Namespace) -> Callable[[Any, Path], None] | None:
    """A part of a measurement has no picture."""
    if options.real:
        return plot_real
    whole = options.command in MEASUREMENTS and not (options.only or options.trace)
    return MEASUREMENTS[options.command].plot if whole else None


def _keep(options: argparse.Namespace, report: Report, *, plot: Callable[[Any, Path], None] | None) -> None:
    kind = "real" if options.real else "trace" if options.trace else None
    name = "-".join(filter(None, (options.command, options.dialect, kind)))
    path = options.json or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.to_json(), indent=2) + "\n")
    print(report.markdown())
    if options.page:
        page = PAGES / f"{name}.md"
        text = page.read_text() if page.is_file() else new_page(f"{options.command} --dialect {options.dialect}")
        page.write_text(with_tables(text, report.markdown()))
    if plot is not None:
        picture = (PAGES if options.page else path.parent) / f"{name}.png"
        plot(report, picture)
        _say(f"Plot: {picture}")
    missed = [target.what for target in _targets(report) if target.met is False]
    _say(f"MISSED: {', '.join(missed)}" if missed else "All measured targets are met.")
    _say(f"Figures: {path}")


def _targets(report: Report) -> Sequence[Target]:
    found = getattr(report, "targets", None)
    return found() if found is not None else ()


async def _boot(url: str, api: str | None, workspace: Path | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = workspace or Path(scratch)
        if api is not None:
            async with ApiClient(api) as client:
                result = await _score(ApiRunner(client), folder)
        else:
            async with RawComfy(url) as comfy:
                result = await _score(RawRunner(comfy), folder)
    print(json.dumps(result.to_json(), indent=2))


async def _score(runner: BenchRunner, workspace: Path) -> BenchResult:
    return await boot_benchmark(runner, workspace=workspace, announce=_say)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
