"""Snapshots of ComfyUI-Manager: all that can be restored is, and the rest is named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from provisioning.errors import ProvisioningError
from provisioning.nodes.install import NodesHost
from provisioning.nodes.snapshot import Snapshot, find_snapshot, read_snapshot, restore
from tests.provisioning.packs import commit_of, git, imports_here

Make = Callable[..., str]


def write(path: Path, **content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def test_git_packs_come_at_their_commits_and_disabled_ones_are_off(
    make_repository: Make, nodes_host: NodesHost, tmp_path: Path
) -> None:
    one, two = make_repository("one", tag="then"), make_repository("two")
    then = commit_of(tmp_path / "upstream/one")
    make_repository("one", later_txt="x")
    restore(Snapshot.model_validate({"git_custom_nodes": {two: {"hash": None}}}), nodes_host)
    wanted = {one: {"hash": then, "disabled": False}, two: {"hash": None, "disabled": True}}
    for _ in range(2):
        restored = restore(Snapshot.model_validate({"git_custom_nodes": wanted}), nodes_host)
        assert restored.problems == []
        assert sorted(path.name for path in nodes_host.folder.iterdir()) == ["one", "two.disabled"]
    assert [pack.version for pack in restored.packs] == [then]


def test_everything_that_can_not_be_restored_is_named(nodes_host: NodesHost, make_repository: Make) -> None:
    good = make_repository("good")
    snapshot = Snapshot.model_validate(
        {
            "comfyui": "0" * 40,
            "git_custom_nodes": {"file:///absent/pack": {"hash": "1" * 40}, good: {"hash": "2" * 40}},
            "cnr_custom_nodes": {"unknown-pack": "1.0"},
            "file_custom_nodes": [{"filename": "lost.py", "disabled": False}],
            "pips": {"absent @ file:///absent.whl": "", "nvidia-cublas==1": "", "torch==2.4.0+cu121": ""},
        }
    )
    problems = "\n".join(restore(snapshot, nodes_host).problems)
    for named in ("ComfyUI 000", "file:///absent/pack", good, "unknown-pack", "lost.py", "absent @ file:///absent.whl"):
        assert named in problems
    assert "nvidia" not in problems
    assert "torch" not in problems


def test_files_are_switched_on_and_off(nodes_host: NodesHost) -> None:
    nodes_host.folder.mkdir()
    (nodes_host.folder / "a.py").touch()
    (nodes_host.folder / "b.py.disabled").touch()
    files = [{"filename": "a.py", "disabled": True}, {"filename": "b.py", "disabled": False}]
    assert restore(Snapshot.model_validate({"file_custom_nodes": files}), nodes_host).problems == []
    assert sorted(path.name for path in nodes_host.folder.iterdir()) == ["a.py.disabled", "b.py"]


def test_pips_go_into_comfyuis_interpreter(nodes_host: NodesHost, wheel: Path) -> None:
    snapshot = Snapshot.model_validate({"pips": {"tinything": f"file://{wheel}"}})
    assert restore(snapshot, nodes_host).problems == []
    assert imports_here(nodes_host.interpreter, "tinything")


def test_comfyui_goes_to_the_commit_unless_work_would_be_lost(
    nodes_host: NodesHost,
    repository: Path,
) -> None:
    old = commit_of(repository, "v0.3.75")
    git(nodes_host.root, "clone", "--quiet", f"file://{repository}", ".")
    (nodes_host.root / "main.py").write_text("# mine")
    assert "local changes" in restore(Snapshot(comfyui=old), nodes_host).problems[0]
    git(nodes_host.root, "checkout", "main.py")
    restore(Snapshot(comfyui=old), nodes_host)
    assert commit_of(nodes_host.root) == old


@pytest.mark.parametrize("wrap", [False, True])
def test_json_and_the_managers_yaml(tmp_path: Path, wrap: bool) -> None:
    content = {"git_custom_nodes": [], "cnr_custom_nodes": {"pack": "1.0"}, "pips": None, "custom": 1}
    location = write(tmp_path / "s.json", **({"custom_nodes": content} if wrap else content))
    assert read_snapshot(location).cnr_custom_nodes == {"pack": "1.0"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "no snapshot"),
        ('{"git_custom_nodes": {"u": 1}}', "git_custom_nodes"),
        ('{"file_custom_nodes": [{"filename": "../x.py"}]}', "filename"),
        ("{", "neither JSON nor YAML"),
    ],
)
def test_what_is_no_snapshot_is_said(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(ProvisioningError, match=said):
        read_snapshot(str(tmp_path / "s.json"))


def test_the_volumes_snapshot_comes_before_the_workspaces(tmp_path: Path) -> None:
    volume, workspace = tmp_path / "volume", tmp_path / "workspace"
    workspace.mkdir()
    assert find_snapshot((volume, workspace)) is None
    (workspace / "my_snapshot.json").touch()
    assert find_snapshot((volume, workspace)) == workspace / "my_snapshot.json"
    volume.mkdir()
    (volume / "2026-01-01_snapshot.json").touch()
    assert find_snapshot((volume, workspace)) == volume / "2026-01-01_snapshot.json"
    (volume / "2026-02-01_snapshot.json").touch()
    with pytest.raises(ProvisioningError, match=r"several snapshots: 2026-01-01_snapshot\.json, 2026-02"):
        find_snapshot((volume, workspace))
