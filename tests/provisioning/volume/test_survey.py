"""What is found on a volume, and which mistakes are named."""

from pathlib import Path

import pytest

from provisioning.volume.folders import USUAL
from provisioning.volume.survey import survey, tell
from tests.provisioning.volume.test_paths import fill


def test_files_sizes_and_what_is_ignored(tmp_path: Path) -> None:
    fill(tmp_path, "models/checkpoints/a.safetensors", "models/checkpoints/sub/b.ckpt", "models/checkpoints/c.zip")
    fill(tmp_path, "models/checkpoints/readme.txt", "models/unet/d.gguf", "models/checkpoints/.cache/e.bin")
    report = survey(tmp_path, USUAL)
    folder = report.folders["checkpoints"]
    assert (folder.files, folder.bytes, folder.ignored) == (2, 2, ("c.zip",))
    assert report.folders["unet"].files == 1
    assert report.misplaced == ()
    assert report.models_found
    assert report.complete


@pytest.mark.parametrize(
    ("path", "wrong", "belongs"),
    [
        ("checkpoints/a.safetensors", "checkpoints", "models/checkpoints"),
        ("ComfyUI/models/loras/a.safetensors", "ComfyUI/models/loras", "models/loras"),
        ("models/a.safetensors", "models/a.safetensors", "models/<folder of its kind>"),
        ("a.gguf", "a.gguf", "models/<folder of its kind>"),
    ],
)
def test_usual_mistakes_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, wrong: str, belongs: str
) -> None:
    report = survey(fill(tmp_path, path), USUAL)
    assert [(item.path, item.belongs, item.files) for item in report.misplaced] == [(wrong, belongs, 1)]
    tell(report)
    assert f"LIKELY MISTAKE: {wrong} (1 files) is not looked at; move it to {belongs}" in capsys.readouterr().out


def test_folder_that_is_linked_to_its_place_is_no_mistake(tmp_path: Path) -> None:
    fill(tmp_path, "ComfyUI/models/loras/a.safetensors")
    (tmp_path / "models").symlink_to("ComfyUI/models")
    assert survey(tmp_path, USUAL).misplaced == ()


def test_each_file_is_said_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, "models/vae/a.pt", "models/vae/b.zip")
    survey(tmp_path, USUAL, each=True)
    said = capsys.readouterr().out
    assert "models/vae/a.pt: 0.0 MB\n" in said
    assert "models/vae/b.zip: 0.0 MB, ignored (its ending)" in said


def test_volume_without_models_says_what_belongs_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tell(survey(tmp_path, USUAL))
    assert "checkpoints belong into models/checkpoints" in capsys.readouterr().out


def test_counting_ends_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provisioning.volume.survey.LIMIT_FILES", 2)
    fill(tmp_path, *(f"models/loras/{number}.pt" for number in range(5)))
    report = survey(tmp_path, USUAL)
    assert report.folders["loras"].files == 2
    assert not report.complete


def test_node_packs_of_the_volume(tmp_path: Path) -> None:
    fill(tmp_path, "custom_nodes/a/__init__.py", "custom_nodes/b.disabled/x", "custom_nodes/__pycache__/x")
    assert survey(tmp_path, USUAL).node_packs == ("a",)
