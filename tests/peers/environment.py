"""Environments for foreign programs, under the ignored ``.peers/``: made once per content of the files that ask for
them."""

import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_UNREACHABLE = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeoutError|ProxyError|Network is unreachable"
    r"|ENOTFOUND|ECONNREFUSED|EAI_AGAIN|ENETUNREACH|ETIMEDOUT"
)


def peer_python(name: str, requirements: Path) -> Path:
    """Return the interpreter of the environment that has what ``requirements`` lists.

    Skips the test only when no package registry can be reached; an install that fails is a failure.
    """
    with _folder(name, requirements.read_bytes() + sys.version.encode()) as (folder, missing):
        python = folder / "bin" / "python"
        if missing:
            _make(folder, python, requirements)
    return python


def peer_node(name: str, package: Path) -> Path:
    """Return a folder with the ``node_modules`` that ``package`` (a package.json beside its lock file) asks for.

    Skips the test only when there is no Node.js or no package registry; an install that fails is a failure.
    """
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("there is no Node.js here (node, npm), so its client can't be run")
    files = (package, package.with_name("package-lock.json"))
    with _folder(name, b"".join(path.read_bytes() for path in files)) as (folder, missing):
        if missing:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for path in files:
                shutil.copy(path, folder)
            _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder)])
    return folder


@contextmanager
def _folder(name: str, content: bytes) -> Iterator[tuple[Path, bool]]:
    """The folder for an environment of this content, and whether it has to be made; nobody else makes it meanwhile."""
    folder = ROOT / ".peers" / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder, not (folder / "complete").exists()
        (folder / "complete").touch()


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
    done = subprocess.run(command, capture_output=True, text=True, timeout=550)
    if done.returncode and _UNREACHABLE.search(done.stdout + done.stderr):
        pytest.skip("no package registry can be reached, so the peer could not be installed")
    assert done.returncode == 0, done.stderr
