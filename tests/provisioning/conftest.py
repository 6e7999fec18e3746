"""Fixtures of the provisioning tests: servers, repositories, the real ComfyUI, an environment of its own."""

import os
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from provisioning.comfyui.record import InstallRecord, read_record
from provisioning.interpreter import Interpreter, interpreter_of
from provisioning.settings import REPOSITORY
from tests.provisioning.packs import git, plant, write_pack, write_wheel
from tests.provisioning.servers import FileServer, serve


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve() as running:
        yield running


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


@pytest.fixture
def make_repository(tmp_path: Path) -> Callable[..., str]:
    """Make, or go on with, a repository of a pack; each call is a commit. Gives its URL."""

    def make(name: str, *, tag: str | None = None, **files: str) -> str:
        folder = tmp_path / "upstream" / name
        write_pack(folder, **files)
        git(folder, "init", "--quiet", "-b", "main")
        git(folder, "add", "-A")
        git(folder, "commit", "--quiet", "--allow-empty", "-m", tag or "more")
        if tag:
            git(folder, "tag", tag)
        return f"file://{folder}"

    return make


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """Give a wheel that holds the module ``tinything``."""
    return write_wheel(tmp_path, "tinything", "1.0")


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the interpreter of an environment with pip and nothing else."""
    folder = tmp_path_factory.mktemp("environment") / "env"
    venv.create(folder, with_pip=True, symlinks=True)
    return folder / "bin" / "python"


@pytest.fixture
def interpreter(environment: Path, tmp_path: Path) -> Interpreter:
    return interpreter_of(tmp_path / "workspace", python=environment, env={})
