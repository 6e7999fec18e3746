"""Finding or installing ComfyUI, and the record that the worker reads."""

import json
import threading
from pathlib import Path

import pytest

from provisioning.comfyui.install import ensure_comfyui
from provisioning.comfyui.record import FILE_NAME, Device, InstallRecord, Source, read_record
from provisioning.errors import ProvisioningError
from provisioning.settings import InstallSettings
from tests.provisioning.packs import plant

pytestmark = pytest.mark.comfyui


def existing(root: Path, installed: InstallRecord) -> InstallSettings:
    return InstallSettings(install_path=root, python=installed.python)


def test_installed_one_is_used_as_it_is(tmp_path: Path, installed: InstallRecord) -> None:
    root = tmp_path / "mine"
    plant(root, "1.2.3")
    record = ensure_comfyui(tmp_path / "w", settings=existing(root, installed))
    assert (record.root, record.python, record.source) == (root, installed.python, Source.EXISTING)
    written = json.loads((tmp_path / "w" / FILE_NAME).read_text())
    assert written["version"] == "1.2.3"
    assert set(written) == {"python", "root", "env", "version", "source", "device", "key", "extra_model_paths"}
    assert not (tmp_path / "w" / "ComfyUI").exists()


def test_one_that_we_installed_elsewhere_keeps_its_stand_ins(tmp_path: Path, installed: InstallRecord) -> None:
    """Named from another workspace, it still needs what its own record adds to its environment."""
    record = ensure_comfyui(tmp_path / "w", settings=InstallSettings(install_path=installed.root))
    assert (record.python, record.env, record.source) == (installed.python, installed.env, Source.EXISTING)


def test_device_can_be_named_where_a_build_has_no_driver(tmp_path: Path, installed: InstallRecord) -> None:
    """The same start on a host with that device finds the record as it is."""
    root = tmp_path / "mine"
    plant(root, "1.2.3")
    named = existing(root, installed).model_copy(update={"device": Device.CUDA})
    record = ensure_comfyui(tmp_path / "w", settings=named)
    assert record.device is Device.CUDA
    assert ensure_comfyui(tmp_path / "w", settings=existing(root, installed)).key != record.key
    assert ensure_comfyui(tmp_path / "w", settings=named).key == record.key


def test_second_run_changes_nothing(
    tmp_path: Path, installed: InstallRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "mine"
    plant(root, "1.2.3")
    first = ensure_comfyui(tmp_path / "w", settings=existing(root, installed))
    stamp = (tmp_path / "w" / FILE_NAME).stat().st_mtime_ns
    assert ensure_comfyui(tmp_path / "w", settings=existing(root, installed)) == first
    assert (tmp_path / "w" / FILE_NAME).stat().st_mtime_ns == stamp
    assert "is there" in capsys.readouterr().out


def test_record_of_something_gone_is_no_record(tmp_path: Path, installed: InstallRecord) -> None:
    root = tmp_path / "mine"
    plant(root, "1.2.3")
    ensure_comfyui(tmp_path / "w", settings=existing(root, installed))
    (root / "main.py").unlink()
    assert read_record(tmp_path / "w") is None
    (tmp_path / "w" / FILE_NAME).write_text("{")
    assert read_record(tmp_path / "w") is None


def test_wrong_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProvisioningError, match=r"COMFYUI_INSTALL_PATH=.* has no main\.py"):
        ensure_comfyui(tmp_path / "w", settings=InstallSettings(install_path=tmp_path))


def test_wrong_interpreter_is_named(tmp_path: Path) -> None:
    plant(tmp_path / "mine", "1.2.3")
    settings = InstallSettings(install_path=tmp_path / "mine", python=Path("/bin/true"))
    plant_python = tmp_path / "python"
    plant_python.write_text("#!/bin/sh\nexit 1\n")
    plant_python.chmod(0o755)
    with pytest.raises(ProvisioningError, match="COMFYUI_PYTHON"):
        ensure_comfyui(tmp_path / "w", settings=settings.model_copy(update={"python": plant_python}))


def test_several_at_once_agree(tmp_path: Path, installed: InstallRecord) -> None:
    """The file lock lets one work and the others find its outcome."""
    root = tmp_path / "mine"
    plant(root, "1.2.3")
    records: list[InstallRecord] = []

    def work() -> None:
        records.append(ensure_comfyui(tmp_path / "w", settings=existing(root, installed)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(records) == 4
    assert len({record.model_dump_json() for record in records}) == 1


def test_the_tests_own_installation_is_complete(installed: InstallRecord) -> None:
    assert (installed.root / "comfy" / "sd.py").is_file()
    assert installed.version == "0.3.75" or installed.source is Source.GIT
