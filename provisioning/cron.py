"""Installs a module of this project as a cron entry, and sees that cron runs."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from provisioning.manifest import CronEntry
from provisioning.settings import REPOSITORY
from provisioning.steps import say, write_text_atomically

PASSED_ON = ("WORKSPACE_DIR", "STATE_DIR", "LOG_LEVEL", "LOG_FORMAT", "INPUT_CACHE_BYTES")
PASSED_ON_PREFIXES = ("CLEANUP_", "COMFYUI_")
PID_FILES = (Path("/run/crond.pid"), Path("/var/run/crond.pid"))
SYSTEM_FOLDER = Path("/etc/cron.d")


def missing_for_cron(cron_dir: Path) -> str | None:
    """Say what keeps an entry from being installed, or give None."""
    if not cron_dir.is_dir() or (cron_dir == SYSTEM_FOLDER and _cron_program() is None):
        return "cron is not installed; the worker cleans up while it runs (to install: apt-get install cron)"
    if not os.access(cron_dir, os.W_OK):
        return f"{cron_dir} can be written by root only; the worker cleans up while it runs"
    return None


def install_entry(entry: CronEntry, *, cron_dir: Path, workspace: Path, environ: Mapping[str, str]) -> bool:
    """Write the entry; gives False when the very same one is there."""
    path = cron_dir / f"pyworker-{entry.name}"
    text = entry_text(entry, workspace=workspace, environ=environ)
    if path.is_file() and path.read_text() == text:
        return False
    write_text_atomically(path, text)
    return True


def entry_text(entry: CronEntry, *, workspace: Path, environ: Mapping[str, str]) -> str:
    """Build the file: cron gives no environment, so the variables that the module reads are in it; no secrets."""
    variables = {name: value for name, value in sorted(environ.items()) if _passed_on(name) and "\n" not in value}
    variables["WORKSPACE_DIR"] = str(workspace)
    lines = [f'{name}="{value}"' for name, value in variables.items()]
    log = workspace / f"{entry.name}.log"
    command = f"cd {shlex.quote(str(REPOSITORY))} && {shlex.quote(sys.executable)} -m {entry.module}"
    command = f"{command} >> {shlex.quote(str(log))} 2>&1".replace("%", r"\%")
    return "\n".join(("# Written by comfyui-pyworker's provisioning.", *lines, f"{entry.schedule} root {command}", ""))


def _passed_on(name: str) -> bool:
    secret = any(part in name for part in ("KEY", "TOKEN", "SECRET"))
    return not secret and (name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES))


def start_cron(cron_dir: Path) -> None:
    """Start cron where nothing else does: containers have no init system that would."""
    program = _cron_program()
    if cron_dir != SYSTEM_FOLDER or program is None or any(path.exists() for path in PID_FILES):
        return
    started = subprocess.run([program], capture_output=True, check=False).returncode == 0
    say("    cron started" if started else f"    {program} could not be started")


def _cron_program() -> str | None:
    return shutil.which("cron") or shutil.which("crond")
