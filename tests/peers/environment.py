"""Virtual environments for foreign programs, under the ignored ``.peers/``: made once a requirements file."""

import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_UNREACHABLE = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeoutError|ProxyError|Network is unreachable"
)


def peer_python(name: str, requirements: Path) -> Path:
    """Return the interpreter of the environment that has what ``requirements`` lists.

    Skips the test only when no package registry can be reached; an install that fails is a failure.
    """
    key = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = ROOT / ".peers" / f"{name}-{key}"
    folder.parent.mkdir(exist_ok=True)
    python = folder / "bin" / "python"
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            _make(folder, python, requirements)
            (folder / "complete").touch()
    return python


def _make(folder: Path, python: Path, requirements: Path) -> None:
    uv = shutil.which("uv")
    if uv:
        _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
        install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python)]
    else:
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*install, "-r", str(requirements)])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    if done.returncode and _UNREACHABLE.search(done.stdout + done.stderr):
        pytest.skip("no package registry can be reached, so the peer could not be installed")
    assert done.returncode == 0, done.stderr
