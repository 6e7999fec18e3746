"""The Python environment that ComfyUI runs in: interpreter, torch for what this host has, packages, stand-ins.

A host without a GPU never gets CUDA packages (gigabytes that it can't use): an index of CPU builds is asked first,
and what plain pip would install is looked at before it may.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import requests

from provisioning.comfyui.locate import imports
from provisioning.comfyui.record import Device
from provisioning.errors import ProvisioningError
from provisioning.settings import InstallSettings
from provisioning.steps import Stamps, digest, run_command, say

TORCH = "torch==2.13.0"
TORCHVISION = "torchvision==0.28.0"
TORCHAUDIO = "torchaudio"
# The gallery of ComfyUI's own page: large, and nothing that a service needs.
LEFT_OUT = frozenset({"torch", "torchvision", "torchaudio", "comfyui-workflow-templates"})
# Transformers 5 renamed what ComfyUI of this time imports.
LIMITS = ("transformers<5",)
CUDA_PACKAGE = re.compile(r"(nvidia|cuda|cupy|triton|pytorch[-_]triton)(?![a-z])", re.IGNORECASE)
SHIMS = Path(__file__).parent / "shims"
NO_CACHES = shutil.ignore_patterns("__pycache__")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """An interpreter that can run ComfyUI, and the variables that it needs for that."""

    python: Path
    env: dict[str, str]


def detect_device() -> Device:
    """Ask the NVIDIA driver whether there is a GPU."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return Device.CPU
    return Device.CUDA if listed.returncode == 0 and b"GPU" in listed.stdout else Device.CPU


def build_environment(
    workspace: Path, *, root: Path, device: Device, settings: InstallSettings, stamps: Stamps
) -> Environment:
    """Make or complete ``<workspace>/comfyui-env`` for the ComfyUI at ``root``; done steps are not repeated."""
    folder = workspace / "comfyui-env"
    python = folder / "bin" / "python"
    key = digest(sys.version, str(folder))
    if not (stamps.fresh("environment", key) and python.exists()):
        _create(folder)
        stamps.mark("environment", key)

    keys = {each: _torch_key(key, each, settings) for each in (device, Device.CUDA)}  # CUDA's torch runs on a CPU too
    key = next((each for each in keys.values() if stamps.fresh("torch", each)), keys[device])
    if not stamps.fresh("torch", key):
        _install_torch(python, device=device, settings=settings)
        stamps.mark("torch", key)

    wanted = wanted_packages((root / "requirements.txt").read_text())
    key = digest(key, wanted)
    if not stamps.fresh("packages", key):
        say(f"    packages of ComfyUI ({len(wanted)})")
        _pip(python, "install", *wanted, *LIMITS, failure="pip could not install ComfyUI's packages.")
        stamps.mark("packages", key)
    return Environment(python=python, env=_stand_ins(python, workspace / "comfyui-shims"))


def _torch_key(key: str, device: Device, settings: InstallSettings) -> str:
    return digest(key, TORCH, TORCHVISION, device, settings.torch_index_url, settings.torch_cpu_index_url)


def wanted_packages(requirements: str) -> tuple[str, ...]:
    """Give ComfyUI's requirements without comments, torch (installed apart) and what a service never needs."""
    lines = (line.split("#", 1)[0].strip() for line in requirements.splitlines())
    return tuple(line for line in lines if line and _name(line) not in LEFT_OUT)


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def _create(folder: Path) -> None:
    say(f"    Python environment {folder} ({sys.version.split()[0]})")
    shutil.rmtree(folder, ignore_errors=True)
    run_command(
        [sys.executable, "-m", "venv", folder],
        failure=f"The environment {folder} could not be made.",
        remedy="Install python3-venv and see that the disk is not full, then start again.",
    )


def _install_torch(python: Path, *, device: Device, settings: InstallSettings) -> None:
    if device is Device.CUDA:
        _install_cuda_torch(python, settings=settings)
    elif not _install_from_cpu_index(python, settings=settings):
        _install_plain_torch(python)


def _install_cuda_torch(python: Path, *, settings: InstallSettings) -> None:
    say("    torch with CUDA (several GB)")
    index = ("--index-url", settings.torch_index_url) if settings.torch_index_url else ()
    _pip(python, "install", TORCH, TORCHVISION, TORCHAUDIO, *index, failure="pip could not install torch with CUDA.")
    if detect_device() is not Device.CUDA:
        return  # an image is built where there is no GPU
    check = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 1)"
    run_command(
        [python, "-c", check],
        failure="torch is installed, but can't use this GPU: its CUDA is newer than the driver allows.",
        remedy="Update the driver, or set TORCH_INDEX_URL to the index of an older CUDA "
        "(https://download.pytorch.org/whl/cu126), then start again.",
    )


def _install_from_cpu_index(python: Path, *, settings: InstallSettings) -> bool:
    index = settings.torch_cpu_index_url
    if not _answers(f"{index.rstrip('/')}/torch/", timeout_s=settings.probe_timeout_s):
        say(f"    {index} does not answer")
        return False
    say(f"    torch without CUDA from {index} (200 MB)")
    try:
        _pip(python, "install", TORCH, TORCHVISION, "--index-url", index, failure=f"{index} has no {TORCH}.")
    except ProvisioningError as error:
        say(f"    {error.cause.splitlines()[0]}")
        return False
    try:
        _pip(python, "install", "--no-deps", TORCHAUDIO, "--index-url", index, failure="torchaudio is not there.")
    except ProvisioningError as error:
        say(f"    {error.cause.splitlines()[0]} Audio models will not work.")
    return True


def _install_plain_torch(python: Path) -> None:
    say(f"    {TORCH} as pip is configured on this host")
    refuse_cuda(python)
    _pip(python, "install", TORCH, failure=f"pip could not install {TORCH}.")
    say(f"    {TORCHVISION}, its Python half")
    _pip(python, "install", "--no-deps", TORCHVISION, failure=f"pip could not install {TORCHVISION}.")


def refuse_cuda(python: Path) -> None:
    """Raise ProvisioningError if plain pip would bring CUDA packages."""
    dry = [str(python), "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-", TORCH]
    planned = subprocess.run(dry, capture_output=True, check=False)
    if planned.returncode:
        tail = planned.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ProvisioningError(
            f"pip finds no {TORCH}: {''.join(tail)}",
            remedy="Make TORCH_CPU_INDEX_URL reachable, or put a CPU wheel of torch where pip looks (PIP_FIND_LINKS).",
        )
    names = [item["metadata"]["name"] for item in json.loads(planned.stdout)["install"]]
    cuda = sorted(name for name in names if CUDA_PACKAGE.match(name))
    if cuda:
        raise ProvisioningError(
            f"This host has no GPU, but pip would install CUDA packages for it ({', '.join(cuda[:4])}, ...).",
            remedy="Make TORCH_CPU_INDEX_URL reachable, or put a CPU wheel of torch where pip looks (PIP_FIND_LINKS).",
        )


def _answers(url: str, *, timeout_s: float) -> bool:
    try:
        return requests.head(url, timeout=timeout_s, allow_redirects=True).ok
    except requests.RequestException:
        return False


def _pip(python: Path, *arguments: str, failure: str) -> None:
    run_command(
        [python, "-m", "pip", *_without_prompts(arguments)],
        failure=failure,
        remedy="Check the network and the disk, then start again: what is done is kept.",
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )


def _without_prompts(arguments: Sequence[str]) -> tuple[str, ...]:
    return (arguments[0], "--no-input", *arguments[1:])


def _stand_ins(python: Path, folder: Path) -> dict[str, str]:
    """Put what doesn't import on ``PYTHONPATH``, and nothing where the real packages do."""
    made = folder.with_name(f".{folder.name}.new")  # swapped in whole: a ComfyUI may be starting with the old one
    shutil.rmtree(made, ignore_errors=True)
    if not imports(python, "torchvision"):
        shutil.copytree(SHIMS / "torchvision_operators", made, dirs_exist_ok=True, ignore=NO_CACHES)
    if not imports(python, "torchaudio"):
        shutil.copytree(SHIMS / "torchaudio_stub", made, dirs_exist_ok=True, ignore=NO_CACHES)
    if not imports(python, "torch, torchvision, torchaudio", python_path=str(made) if made.exists() else ""):
        raise ProvisioningError(
            f"torch or a package beside it does not import in {python}.",
            remedy=f"Remove {python.parent.parent} and start again.",
        )
    shutil.rmtree(folder, ignore_errors=True)
    if not made.exists():
        return {}
    made.replace(folder)
    return {"PYTHONPATH": str(folder)}
