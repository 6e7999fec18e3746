"""Starts the worker. Readable by Python 3.10, which Vast's stock start script runs it with.

``python3 -m workers.comfyui-json.worker`` from the repository's root, or this file by its path. In an interpreter
that is too old, or lacks the packages, the environment is made by ``start_server.sh --setup-only`` and this file starts
again in it. What goes wrong here is reported to every ``REPORT_ADDR``, and the exit status is not 0.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("aiohttp", "pydantic_settings", "orjson", "boto3", "cryptography", "stamina")
AGAIN = "PYWORKER_SECOND_INTERPRETER"
HOST_READY = "PYWORKER_HOST_READY"


def main() -> int:
    """Run until the worker ends; give its exit status."""
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    if os.environ.get("SERVERLESS", "").lower() in ("1", "true", "t", "yes", "y", "on"):
        os.environ.setdefault("REPORT_ADDR", "https://run.vast.ai")
    if sys.version_info < (3, 11) or any(importlib.util.find_spec(name) is None for name in PACKAGES):
        return _start_in_own_environment()
    status = _prepare_host()
    return status if status else _serve()


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
    python = os.environ.get("PYWORKER_VENV", str(ROOT / ".venv")) + "/bin/python"
    os.environ[AGAIN] = "1"
    sys.stdout.flush()
    try:
        os.execv(python, [python, str(Path(__file__).resolve())])  # noqa: S606  # no shell is meant
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


def _serve() -> int:
    from benchmark.boot import boot_benchmark
    from benchmark.settings import load_benchmark_settings
    from lib.app import run
    from lib.settings import SettingsError, load_settings

    try:
        settings = load_settings()
        load_benchmark_settings()  # a wrong value is told now, and not when ComfyUI is up
    except SettingsError as error:
        return _fail(str(error))
    return run(settings, boot_benchmark=boot_benchmark)


def _fail(message: str) -> int:
    from provisioning.error_report import report_error

    print("FAILED: " + message, file=sys.stderr, flush=True)
    report_error(message, os.environ)
    return 1


if __name__ == "__main__":
    sys.exit(main())
