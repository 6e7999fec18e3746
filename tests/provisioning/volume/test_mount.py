"""The worker's ComfyUI is told of a volume, and never of one that has gone."""

from pathlib import Path

import pytest

from provisioning.volume.mount import Volume, mount
from provisioning.volume.paths import FILE_NAME
from tests.provisioning.volume.test_paths import fill


def at(volume: Path, workspace: Path) -> Volume | None:
    workspace.mkdir(exist_ok=True)
    return mount(volume, workspace=workspace, root=None, interpreter=None, each=False)


def test_file_of_paths_comes_and_goes_with_the_volume(tmp_path: Path) -> None:
    volume, workspace = fill(tmp_path / "v", "models/loras/a.pt"), tmp_path / "w"
    mounted = at(volume, workspace)
    assert mounted is not None
    assert mounted.configs == (workspace / FILE_NAME,)
    assert str(volume) in (workspace / FILE_NAME).read_text()
    assert at(tmp_path / "absent", workspace) is None
    assert not (workspace / FILE_NAME).exists()


def test_volumes_own_file_counts_unless_it_is_broken(tmp_path: Path) -> None:
    volume, workspace = fill(tmp_path / "v", "models/loras/a.pt"), tmp_path / "w"
    own = volume / "extra_model_paths.yaml"
    own.write_text("a: {loras: /x}")
    mounted = at(volume, workspace)
    assert mounted is not None
    assert mounted.configs[1:] == (own,)
    own.write_text("a: b")
    broken = at(volume, workspace)
    assert broken is not None
    assert broken.configs == (workspace / FILE_NAME,)
    assert broken.problem is not None


@pytest.mark.parametrize(("size", "held"), [(None, True), (1, True), (2, False)])
def test_a_model_of_the_volume_is_known_by_its_size(tmp_path: Path, size: int | None, held: bool) -> None:
    mounted = at(fill(tmp_path / "v", "models/loras/a.pt"), tmp_path / "w")
    assert mounted is not None
    assert mounted.holds("loras/a.pt", size_bytes=size) is held
    assert not mounted.holds("loras/b.pt", size_bytes=size)
