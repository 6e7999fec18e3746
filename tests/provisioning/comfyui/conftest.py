"""A git repository that looks like ComfyUI's, and the real installation that ``make test`` made."""

import os
import subprocess
from pathlib import Path

import pytest

from provisioning.comfyui.record import InstallRecord, read_record
from provisioning.settings import REPOSITORY


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-C", folder, *arguments],
        check=True,
        capture_output=True,
    )


def plant(folder: Path, version: str) -> None:
    """Lay down what makes a folder a ComfyUI."""
    (folder / "comfy").mkdir(parents=True, exist_ok=True)
    (folder / "comfy" / "__init__.py").touch()
    (folder / "main.py").write_text("print('ComfyUI')\n")
    (folder / "requirements.txt").write_text("# none\n")
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two tags, ``v0.3.75`` and ``v9.9.9``."""
    folder = tmp_path / "upstream"
    folder.mkdir()
    git(folder, "init", "--quiet")
    for version in ("0.3.75", "9.9.9"):
        plant(folder, version)
        git(folder, "add", "-A")
        git(folder, "commit", "--quiet", "-m", version)
        git(folder, "tag", f"v{version}")
    return folder


@pytest.fixture(scope="session")
def installed() -> InstallRecord:
    """The real ComfyUI; its absence is a failure, since ``make test`` installs it."""
    record = read_record(Path(os.environ.get("COMFYUI_TEST_DIR") or REPOSITORY / ".comfyui"))
    assert record is not None, "No ComfyUI for the tests; run: make test"
    return record
