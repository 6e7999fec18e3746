"""Finds a ComfyUI that is already on this host, and the interpreter that it runs in."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from provisioning.errors import ProvisioningError

USUAL_PLACES = (Path("/workspace/ComfyUI"), Path("/opt/ComfyUI"), Path("/opt/workspace-internal/ComfyUI"))
USUAL_ENVIRONMENTS = (Path("/venv/main"), Path("/opt/venv"), Path("/opt/environments/python/comfyui"))


def find_installed(install_path: Path | None) -> Path | None:
    """Give the folder with ``main.py``, or None. Raises ProvisioningError when the named folder is none."""
    if install_path is not None:
        if not is_comfyui(install_path):
            raise ProvisioningError(
                f"COMFYUI_INSTALL_PATH={install_path} has no main.py.",
                remedy="Point it at a ComfyUI folder, or unset it to have one found or installed.",
            )
        return install_path.resolve()
    return next((place for place in (*USUAL_PLACES, Path.home() / "ComfyUI") if is_comfyui(place)), None)


def is_comfyui(folder: Path) -> bool:
    """Tell whether ``folder`` holds ComfyUI's program (models alone don't count)."""
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir()


def comfyui_version(root: Path) -> str:
    """Give ``0.3.75`` and the like; ``unknown`` for versions that carry no version file."""
    path = root / "comfyui_version.py"
    found = re.search(r"__version__\s*=\s*[\"']([^\"']+)", path.read_text()) if path.is_file() else None
    return found.group(1) if found else "unknown"


def find_python(root: Path, named: Path | None) -> Path | None:
    """Give the interpreter that has torch: the named one, one beside ``root``, or a usual environment."""
    if named is not None:
        if not imports(named, "torch"):
            raise ProvisioningError(
                f"COMFYUI_PYTHON={named} can't import torch.", remedy="Name the interpreter that ComfyUI runs in."
            )
        return named
    return next((python for python in _interpreters(root) if imports(python, "torch")), None)


def _interpreters(root: Path) -> Iterator[Path]:
    folders = (root / "venv", root / ".venv", root.parent / "venv", root.parent / "comfyui-env", *USUAL_ENVIRONMENTS)
    for folder in folders:
        python = folder / "bin" / "python"
        if python.exists():
            yield python
    yield from (path for path in (Path("/usr/local/bin/python3"), Path("/usr/bin/python3")) if path.exists())


def imports(python: Path, module: str, *, python_path: str = "") -> bool:
    """Tell whether ``python`` imports ``module``; ``python_path`` is put into ``PYTHONPATH``."""
    try:
        done = subprocess.run(
            [python, "-c", f"import {module}"],
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": python_path, "HOME": str(Path.home())},
            capture_output=True,
            timeout=180,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
