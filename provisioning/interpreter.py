"""The Python that ComfyUI runs in, and getting packages into it and into no other.

Node packs name what they need in ``requirements.txt``, and their install scripts call pip by whatever name they know:
every program that is started here finds this interpreter first, as ``VIRTUAL_ENV``, on ``PATH`` and by itself. torch
stays the one that this host was given: a package that wants another one is refused, with pip's own words.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lib.settings import child_environment
from provisioning.errors import ProvisioningError
from provisioning.steps import digest, run_command, write_text_atomically

PIP_TIMEOUT_S = 1800.0
HELD = ("torch", "torchvision", "torchaudio")
FOREIGN = frozenset({"VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "PYTHONHOME", "PYTHONPATH", "UV_PYTHON"})
ASK_VERSIONS = """
import importlib.metadata as metadata, sys
for name in sys.argv[1:]:
    try:
        print(f"{name}=={metadata.version(name)}")
    except metadata.PackageNotFoundError:
        pass
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """ComfyUI's Python; ``env`` is what it needs to be started with, ``constraints`` a file of ours."""

    python: Path
    constraints: Path
    env: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Give the variables for a program that installs into this interpreter; the worker's secrets are left out."""
        variables = {name: value for name, value in child_environment({}).items() if name not in FOREIGN}
        variables["PATH"] = f"{self.python.parent}{os.pathsep}{variables.get('PATH', os.defpath)}"
        variables |= {
            "PIP_NO_INPUT": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_CONSTRAINT": str(self.constraints),
        }
        if (self._prefix / "pyvenv.cfg").is_file():
            variables["VIRTUAL_ENV"] = str(self._prefix)
        return variables

    @property
    def identity(self) -> str:
        """Give what changes when the environment is made anew, so that what was installed into it counts no more."""
        marks = [path.stat().st_mtime_ns for path in (self._prefix / "pyvenv.cfg", self.python) if path.exists()]
        return digest(str(self.python), marks[:1])

    @property
    def _prefix(self) -> Path:
        return self.python.parent.parent

    def install(self, arguments: Sequence[str | Path], *, failure: str, remedy: str = "") -> None:
        """Install by pip (uv where the environment has none). Raises ProvisioningError with pip's last lines."""
        self.hold_versions()
        run_command(
            [*self._installer(), *arguments],
            failure=failure,
            remedy=remedy or "Correct the entry, or check the network and the disk, then start again.",
            env=self.environment(),
            timeout_s=PIP_TIMEOUT_S,
        )

    def _installer(self) -> tuple[str | Path, ...]:
        has_pip = subprocess.run([self.python, "-m", "pip", "--version"], capture_output=True, check=False)
        if has_pip.returncode == 0:
            return (self.python, "-m", "pip", "install")
        if shutil.which("uv"):
            return ("uv", "pip", "install", "--python", self.python, "--constraint", self.constraints)
        raise ProvisioningError(
            f"{self.python} has no pip, and uv is not there.", remedy=f"Run: {self.python} -m ensurepip"
        )

    def hold_versions(self) -> None:
        """Write down which torch is here, for pip to keep."""
        try:
            asked = subprocess.run(
                [self.python, "-c", ASK_VERSIONS, *HELD], capture_output=True, check=False, timeout=120
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ProvisioningError(f"{self.python} does not run: {error}", remedy="Set COMFYUI_PYTHON.") from error
        write_text_atomically(self.constraints, asked.stdout.decode())


def interpreter_of(workspace: Path, *, python: Path, env: Mapping[str, str]) -> Interpreter:
    """Describe the Python of the ComfyUI that ``workspace`` serves."""
    return Interpreter(python=python, env=env, constraints=workspace / ".provisioning" / "constraints.txt")
