"""``python -m benchmark boot | overhead``: measure by hand."""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from benchmark.boot import boot_benchmark
from benchmark.ours import ApiClient
from benchmark.overhead import CASES, TINY, measure_overhead
from benchmark.ports import BenchRunner
from benchmark.raw import RawComfy
from benchmark.report import markdown, targets, to_json, with_tables
from benchmark.result import BenchResult
from benchmark.runners import ApiRunner, RawRunner
from benchmark.servers import NoComfyUI, ServerFailed
from benchmark.settings import REPOSITORY
from lib.errors import ServiceError
from lib.settings import SettingsError

RESULT_FILE = REPOSITORY / "var" / "overhead.json"
COMFYUI_URL = "http://127.0.0.1:18188"
EXAMPLES = """examples:
  python -m benchmark boot                                  ComfyUI on 127.0.0.1:18188
  python -m benchmark boot --url http://127.0.0.1:8188      another ComfyUI
  python -m benchmark boot --api http://127.0.0.1:18288     our running service, through its API listener
  python -m benchmark overhead                              our service against ComfyUI alone (10 minutes)"""


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmark", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    boot = commands.add_parser("boot", help="the benchmark that a worker runs at start")
    where = boot.add_mutually_exclusive_group()
    where.add_argument("--url", default=COMFYUI_URL, help=f"a ComfyUI, by default {COMFYUI_URL}")
    where.add_argument("--api", help="our service's API listener, for example http://127.0.0.1:18288")
    boot.add_argument("--workspace", type=Path, help="keep the result (and use a valid one) in this folder")
    overhead = commands.add_parser("overhead", help="our service against ComfyUI alone, and its memory")
    overhead.add_argument(
        "--json", type=Path, default=RESULT_FILE, help=f"where the figures go, by default {RESULT_FILE}"
    )
    overhead.add_argument("--no-memory", action="store_true", help="leave the memory figures out")
    overhead.add_argument("--page", type=Path, help="put the tables into this page, between its two markers")
    overhead.add_argument("--only", choices=("tiny", "sd"), help="one of the two workflows")
    options = parser.parse_args()
    try:
        if options.command == "boot":
            asyncio.run(_boot(options.url, options.api, options.workspace))
        else:
            _overhead(options.json, page=options.page, memory=not options.no_memory, only=options.only)
    except (ServiceError, SettingsError, NoComfyUI, ServerFailed) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


async def _boot(url: str, api: str | None, workspace: Path | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = workspace or Path(scratch)
        if api is not None:
            async with ApiClient(api) as client:
                result = await _measure(ApiRunner(client), folder)
        else:
            async with RawComfy(url) as comfy:
                result = await _measure(RawRunner(comfy), folder)
    print(json.dumps(result.to_json(), indent=2))


def _overhead(path: Path, *, page: Path | None, memory: bool, only: str | None) -> None:
    cases = tuple(case for case in CASES if only is None or (case.name == TINY) == (only == "tiny"))
    report = asyncio.run(measure_overhead(_say, cases=cases, memory=memory))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(to_json(report), indent=2) + "\n")
    print(markdown(report))
    if page is not None:
        page.write_text(with_tables(page.read_text(), markdown(report)))
    missed = [target.what for target in targets(report) if target.met is False]
    _say(f"MISSED: {', '.join(missed)}" if missed else "All measured targets are met.")
    _say(f"Figures: {path}")


async def _measure(runner: BenchRunner, workspace: Path) -> BenchResult:
    return await boot_benchmark(runner, workspace=workspace, announce=_say)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
