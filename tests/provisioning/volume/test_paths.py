"""The file of paths, and a real ComfyUI that reads it."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from provisioning.comfyui.record import InstallRecord
from provisioning.errors import ProvisioningError
from provisioning.volume.folders import USUAL
from provisioning.volume.paths import SECTION, check_own_paths, own_paths, volume_paths

LOOK = """
import json, sys, folder_paths
from utils.extra_config import load_extra_path_config
for path in sys.argv[1:]:
    load_extra_path_config(path)
names = ("checkpoints", "diffusion_models", "text_encoders", "loras", "ipadapter", "custom_nodes")
print(json.dumps({name: folder_paths.get_filename_list(name) for name in names}))
"""


def fill(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x")
    return folder


@pytest.mark.comfyui
def test_real_comfyui_finds_every_kind_on_the_volume(installed: InstallRecord, tmp_path: Path) -> None:
    """``unet`` serves diffusion models, ``clip`` text encoders; a pack's own folder and the volume's own file count."""
    volume = fill(
        tmp_path / "volume",
        *("models/checkpoints/deep/a.safetensors", "models/unet/b.sft", "models/diffusion_models/c.safetensors"),
        *("models/clip/d.safetensors", "models/text_encoders/e.safetensors", "models/ipadapter/f.bin"),
        *("mine/g.safetensors", "custom_nodes/pack/__init__.py"),
    )
    (volume / "extra_model_paths.yaml").write_text(f"own:\n  base_path: {volume}\n  loras: mine\n")
    ours = tmp_path / "ours.yaml"
    ours.write_text(volume_paths(volume, USUAL))
    own = own_paths(volume)
    assert own is not None
    check_own_paths(own)
    command = [installed.python, "-c", LOOK, ours, own]
    done = subprocess.run(command, cwd=installed.root, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert "deep/a.safetensors" in found["checkpoints"]
    assert {"b.sft", "c.safetensors"} <= set(found["diffusion_models"])
    assert {"d.safetensors", "e.safetensors"} <= set(found["text_encoders"])
    assert found["ipadapter"] == ["f.bin"]
    assert "g.safetensors" in found["loras"]
    assert "pack/__init__.py" in found["custom_nodes"]


def test_missing_folders_are_named_but_for_custom_nodes(tmp_path: Path) -> None:
    """A volume is filled later; ComfyUI does not start with a folder of nodes that is not there."""
    section = yaml.safe_load(volume_paths(tmp_path, USUAL))[SECTION]
    assert section["checkpoints"] == "models/checkpoints"
    assert section["diffusion_models"].split() == ["models/unet", "models/diffusion_models"]
    assert "custom_nodes" not in section


def test_folders_of_well_known_packs(tmp_path: Path) -> None:
    fill(tmp_path, "models/ultralytics/bbox/face.pt")
    section = yaml.safe_load(volume_paths(tmp_path, USUAL))[SECTION]
    assert section["ultralytics_bbox"] == "models/ultralytics/bbox"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "not YAML"),
        ("- a", "holds no sections"),
        ("a: b", "section a is no table"),
        ("a: {checkpoints: [x]}", r"a\.checkpoints is no text"),
        ("a: {custom_nodes: absent}", "absent is no folder"),
    ],
)
def test_files_that_comfyui_would_not_start_with_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "extra_model_paths.yaml"
    path.write_text(text)
    with pytest.raises(ProvisioningError, match=said):
        check_own_paths(path)


def test_example_of_comfyui_itself_passes(tmp_path: Path) -> None:
    path = tmp_path / "extra_model_paths.yml"
    path.write_text("comfyui:\n  is_default: true\n  base_path: x\n  loras: |\n    a\n    b\nempty:\n")
    check_own_paths(path)
    assert own_paths(tmp_path) == path
