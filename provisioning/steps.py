"""How a step of provisioning is announced, remembered, guarded and run. Knows nothing of what the steps do."""

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from provisioning.errors import ProvisioningError

TAIL_LINES = 25


def say(text: str) -> None:
    """Tell the person at the console, at once."""
    print(text, flush=True)


def digest(*parts: object) -> str:
    """Hash what a step depends on; equal parts give equal text."""
    return hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()[:32]


class Stamps:
    """Remembers which steps are done, each with the hash of what it depended on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fresh(self, step: str, key: str) -> bool:
        """Tell whether ``step`` was completed for this very ``key``."""
        path = self._folder / step
        return path.is_file() and path.read_text() == key

    def mark(self, step: str, key: str) -> None:
        """Remember that ``step`` is complete."""
        write_text_atomically(self._folder / step, key)

    def forget(self, step: str) -> None:
        """Have ``step`` run again."""
        (self._folder / step).unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write a file that readers see whole or not at all; the folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.chmod(mode)
    temporary.replace(path)


@contextmanager
def exclusive(lock_path: Path) -> Iterator[None]:
    """Hold the file lock at ``lock_path``; says so when another process makes us wait."""
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    with lock_path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Another process is at work here ({lock_path}); waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run_command(
    args: Sequence[str | Path],
    *,
    failure: str,
    remedy: str = "",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float | None = None,
) -> None:
    """Run a program; on a terminal its progress bars show, elsewhere its last lines show when it fails.

    Raises ProvisioningError with ``failure`` and ``remedy`` when the program is absent, fails or takes too long; then
    what it started ends with it.
    """
    visible = sys.stdout.isatty()
    output = None if visible else subprocess.PIPE
    try:
        with subprocess.Popen(
            args, env=env, cwd=cwd, stdout=output, stderr=subprocess.STDOUT, start_new_session=timeout_s is not None
        ) as process:
            try:
                said, _ = process.communicate(timeout=timeout_s)
            except BaseException:
                _end(process, group=timeout_s is not None)
                raise
    except FileNotFoundError as error:
        raise ProvisioningError(f"{failure} {args[0]} is not installed.", remedy=remedy) from error
    except subprocess.TimeoutExpired as error:
        raise ProvisioningError(f"{failure} It took over {timeout_s:.0f} s.", remedy=remedy) from error
    if process.returncode:
        tail = "\n".join(said.decode(errors="replace").splitlines()[-TAIL_LINES:]) if said else ""
        raise ProvisioningError(f"{failure} (exit status {process.returncode})\n{tail}".strip(), remedy=remedy)


def _end(process: subprocess.Popen[bytes], *, group: bool) -> None:
    if not group:
        process.kill()
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
