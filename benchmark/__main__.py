"""``python -m benchmark boot | overhead``: measure by hand."""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from benchmark.boot import boot_benchmark
from benchmark.ours import ApiClient
from benchmark.ports import BenchRunner
from benchmark.raw import RawComfy
from benchmark.result import BenchResult
from benchmark.runners import ApiRunner, RawRunner
from lib.errors import ServiceError
from lib.settings import SettingsError

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
    options = parser.parse_args()
    try:
        asyncio.run(_boot(options.url, options.api, options.workspace))
    except (ServiceError, SettingsError) as error:
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


async def _measure(runner: BenchRunner, workspace: Path) -> BenchResult:
    return await boot_benchmark(runner, workspace=workspace, announce=_say)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
