"""Packages go into ComfyUI's interpreter, and never take its torch away."""

import shutil
import venv
from pathlib import Path

import pytest

from provisioning.errors import ProvisioningError
from provisioning.interpreter import interpreter_of
from tests.provisioning.packs import imports_here, write_wheel


def test_another_torch_is_refused_and_other_packages_arrive(environment: Path, tmp_path: Path) -> None:
    shutil.copytree(environment.parent.parent, tmp_path / "env", symlinks=True)
    interpreter = interpreter_of(tmp_path, python=tmp_path / "env/bin/python", env={})
    interpreter.install([write_wheel(tmp_path, "torch", "1.0")], failure="no")
    with pytest.raises(ProvisioningError, match=r"not here(.|\n)*torch"):
        interpreter.install([write_wheel(tmp_path, "torch", "2.0")], failure="not here")
    interpreter.install([write_wheel(tmp_path, "tinything", "1.0")], failure="no")
    assert interpreter.constraints.read_text() == "torch==1.0\n"
    assert imports_here(interpreter, "tinything")


def test_programs_see_comfyuis_environment_and_no_secret_of_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"S3_SECRET_ACCESS_KEY": "s", "CONDA_PREFIX": "/conda", "PYTHONPATH": "/p"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "env/bin").mkdir(parents=True)
    (tmp_path / "env/pyvenv.cfg").touch()
    variables = interpreter_of(tmp_path, python=tmp_path / "env/bin/python", env={}).environment()
    assert variables["VIRTUAL_ENV"] == str(tmp_path / "env")
    assert variables["PATH"].startswith(f"{tmp_path}/env/bin:")
    assert not {"S3_SECRET_ACCESS_KEY", "CONDA_PREFIX", "PYTHONPATH"} & variables.keys()


def test_new_environment_has_a_new_identity(tmp_path: Path) -> None:
    """What was installed into the old one has to be installed again."""
    python = tmp_path / "env/bin/python"
    venv.create(tmp_path / "env", symlinks=True)
    first = interpreter_of(tmp_path, python=python, env={}).identity
    assert interpreter_of(tmp_path, python=python, env={}).identity == first
    venv.create(tmp_path / "env", symlinks=True, clear=True)
    assert interpreter_of(tmp_path, python=python, env={}).identity != first
