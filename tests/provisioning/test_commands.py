"""The commands for node packs, as an image's build calls them: exit statuses, and who is named."""

from collections.abc import Callable
from pathlib import Path

import pytest

from provisioning.__main__ import main
from provisioning.comfyui.record import Device, InstallRecord, Source, write_record
from provisioning.interpreter import Interpreter
from tests.provisioning.test_packages import COMFYUI

Make = Callable[..., str]


@pytest.fixture
def workspace(tmp_path: Path, interpreter: Interpreter) -> Path:
    """Give a workspace whose recorded ComfyUI loads packs and nothing else."""
    root = tmp_path / "ComfyUI"
    (root / "comfy").mkdir(parents=True)
    (root / "comfy/cli_args.py").write_text('"--whitelist-custom-nodes"')
    (root / "main.py").write_text(COMFYUI)
    record = InstallRecord(
        python=interpreter.python, root=root, env={}, version="1", source=Source.GIT, device=Device.CPU, key="k"
    )
    write_record(tmp_path / "workspace", record)
    return tmp_path / "workspace"


def run(workspace: Path, *arguments: str) -> int:
    return main([*arguments, "--workspace", str(workspace)])


def test_node_install_names_each_pack_that_failed(
    workspace: Path,
    make_repository: Make,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good, bad = make_repository("good"), make_repository("bad", __init___py="import absent_module")
    absent = f"file://{workspace}/absent"
    assert run(workspace, "node-install", good, bad, absent, "owner/pack") == 1
    said = capsys.readouterr().err
    assert f"Not installed: {absent}, owner/pack, {bad}\n" in said
    assert "No module named 'absent_module'" in said
    assert run(workspace, "node-install", good) == 0
    assert "Installed: good (" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["node-install"], ["manager-mode"], ["manager-mode", "sometimes"]])
def test_wrong_use_is_64_as_in_worker_comfyui(workspace: Path, arguments: list[str]) -> None:
    assert run(workspace, *arguments) == 64


def test_a_folder_that_cannot_be_written_ends_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file" / "workspace", "comfyui") == 1
    cause, remedy = capsys.readouterr().err.strip().splitlines()
    assert cause.startswith("FAILED: ") and str(tmp_path / "file") in cause
    assert "WORKSPACE_DIR" in remedy


def test_manager_mode_writes_the_named_file(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workspace / "config.ini"
    monkeypatch.setenv("COMFYUI_MANAGER_CONFIG", str(path))
    assert run(workspace, "manager-mode", "offline") == 0
    assert "network_mode = offline" in path.read_text()


def test_restore_snapshot_fails_loudly(
    workspace: Path,
    make_repository: Make,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = workspace / "snapshot.json"
    path.write_text(f'{{"git_custom_nodes": {{"{make_repository("pack")}": {{}}}}}}')
    assert run(workspace, "restore-snapshot", str(path)) == 0
    path.write_text('{"file_custom_nodes": [{"filename": "lost.py"}]}')
    assert run(workspace, "restore-snapshot", str(path)) == 1
    assert "Not restored: lost.py" in capsys.readouterr().err
