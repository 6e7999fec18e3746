"""Starts the worker. Readable by Python 3.10, which Vast's stock start script runs it with.

``python3 -m workers.comfyui-json.worker`` from the repository's root, or this file by its path. In an interpreter
that is too old, or lacks the packages, the environment is made by ``start_server.sh --setup-only`` and this file starts
again in it. What goes wrong here is reported to every ``REPORT_ADDR``, and the exit status is not 0.

The flags are those of RunPod's SDK (``--help`` has them); ``--test_input`` does one job and ends.
"""

import argparse
import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("aiohttp", "pydantic_settings", "orjson", "boto3", "cryptography", "stamina")
AGAIN = "PYWORKER_SECOND_INTERPRETER"
HOST_READY = "PYWORKER_HOST_READY"
TEST_INPUT = "test_input.json"
LEVELS = {"NOTSET": "CRITICAL", "TRACE": "DEBUG", "DEBUG": "DEBUG", "INFO": "INFO", "WARN": "WARNING", "ERROR": "ERROR"}
"""Names of RunPod's SDK, and ours."""


def main() -> int:
    """Run until the worker ends; give its exit status."""
    parser = _parser()
    options = parser.parse_args()
    job = None if options.test_input is None else _test_job(options.test_input, parser)
    sys.path.insert(0, str(ROOT))
    if os.environ.get("SERVERLESS", "").lower() in ("1", "true", "t", "yes", "y", "on"):
        os.environ.setdefault("REPORT_ADDR", "https://run.vast.ai")
    if sys.version_info < (3, 11) or any(importlib.util.find_spec(name) is None for name in PACKAGES):
        return _start_in_own_environment()
    os.chdir(ROOT)
    _apply(options)
    status = _prepare_host()
    return status if status else _serve(job)


def _parser():
    parser = argparse.ArgumentParser(
        description="ComfyUI as an API. Everything is set by variables of the environment (docs/reference.md); the "
        "flags are those of RunPod's SDK, for who is used to them."
    )
    parser.add_argument(
        "--test_input",
        nargs="?",
        const="",
        metavar="JOB",
        help='do one job, {"input": {...}} or a file that has it, print its result as JSON, and end with status 0, or '
        "1 when it failed; without a value the job is in " + TEST_INPUT,
    )
    parser.add_argument("--rp_serve_api", action="store_true", help="the API listens on port 8000 (SERVE_API_LOCALLY)")
    parser.add_argument("--rp_api_host", metavar="HOST", help="address that the API listens on (API_HOST)")
    parser.add_argument("--rp_api_port", metavar="PORT", type=int, help="port that it listens on (API_PORT)")
    parser.add_argument("--rp_api_concurrency", metavar="N", type=int, help="accepted; any number is served at once")
    parser.add_argument("--rp_log_level", type=str.upper, choices=sorted(LEVELS), help="least level that is logged")
    parser.add_argument("--rp_debugger", action="store_true", help="log everything, as --rp_log_level DEBUG")
    return parser


def _test_job(given, parser):
    """Give the job of ``--test_input``: JSON, or the name of a file; the usual file where nothing is given."""
    text = given
    if not given.lstrip().startswith("{"):
        names = [Path(given)] if given else [Path(TEST_INPUT), ROOT / TEST_INPUT]
        found = next((name for name in names if name.is_file()), None)
        if found is None:
            parser.error("--test_input: {} is not there".format(" or ".join(map(str, names))))
        text = found.read_text(encoding="utf-8")
    try:
        job = json.loads(text)
    except ValueError as error:
        parser.error("--test_input is not JSON: {}".format(error))
    if not isinstance(job, dict) or job.get("input") is None:
        parser.error('--test_input: expected {"input": {...}}')
    return job


def _apply(options) -> None:
    """Say it in variables; they are read later, all at once."""
    level = "DEBUG" if options.rp_debugger else LEVELS.get(options.rp_log_level)
    said = {
        "SERVE_API_LOCALLY": "true" if options.rp_serve_api else None,
        "API_HOST": options.rp_api_host,
        "API_PORT": options.rp_api_port,
        "LOG_LEVEL": level,
    }
    os.environ.update({name: str(value) for name, value in said.items() if value is not None})


def _start_in_own_environment() -> int:
    """Make the environment and replace this process by one that runs in it; returns only when that failed."""
    if os.environ.get(AGAIN):
        return _fail("The environment that start_server.sh made lacks packages.")
    try:
        status = subprocess.call(["bash", str(ROOT / "start_server.sh"), "--setup-only"])
    except OSError as error:
        return _fail("start_server.sh could not be run: {}".format(error))
    if status:
        return status  # start_server.sh said and reported why
    python = str(ROOT / os.environ.get("PYWORKER_VENV", ".venv") / "bin" / "python")
    os.environ[AGAIN] = "1"
    sys.stdout.flush()
    try:
        os.execv(python, [python, str(Path(__file__).resolve()), *sys.argv[1:]])  # noqa: S606  # no shell is meant
    except OSError as error:
        return _fail("{} could not be run: {}".format(python, error))


def _prepare_host() -> int:
    """Do what ``start_server.sh`` does before it comes here, unless it did."""
    from provisioning.settings import default_workspace

    if not (os.environ.get("WORKSPACE_DIR") or os.environ.get("WORKSPACE")):
        os.environ["WORKSPACE_DIR"] = str(default_workspace())
    if os.environ.get(HOST_READY):
        return 0
    status = subprocess.call([sys.executable, "-m", "provisioning", "host"], cwd=str(ROOT))
    if status not in (0, 1, 130):  # those two are said and reported by provisioning itself
        return _fail("Provisioning ended with status {}.".format(status))
    return status


def _serve(test_job) -> int:
    from benchmark.boot import boot_benchmark
    from benchmark.settings import load_benchmark_settings
    from benchmark.warmup import load_warm_up
    from lib.app import run
    from lib.settings import SettingsError, load_settings
    from provisioning.beside import Later

    try:
        settings = load_settings()
        benchmark = load_benchmark_settings()  # a wrong value is told now, and not when ComfyUI is up
        warm_up = load_warm_up(benchmark, keys=settings.salad)
    except SettingsError as error:
        return _fail(str(error))
    return run(
        settings,
        boot_benchmark=functools.partial(boot_benchmark, settings=benchmark, warm_up=warm_up),
        after_start=Later(),
        test_job=test_job,
    )


def _fail(message: str) -> int:
    from provisioning.error_report import report_error

    print("FAILED: " + message, file=sys.stderr, flush=True)
    report_error(message, os.environ)
    return 1


if __name__ == "__main__":
    sys.exit(main())
