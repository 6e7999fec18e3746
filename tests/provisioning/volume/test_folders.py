"""ComfyUI's own table of model folders is what counts."""

from pathlib import Path

import pytest

from provisioning.comfyui.record import InstallRecord
from provisioning.interpreter import interpreter_of
from provisioning.volume.folders import USUAL, model_kinds


@pytest.mark.comfyui
def test_our_list_is_that_of_the_real_comfyui(installed: InstallRecord, tmp_path: Path) -> None:
    """When this fails for a newer ComfyUI, our list is old."""
    interpreter = interpreter_of(tmp_path, python=installed.python, env=installed.env)
    asked = {kind.name: (set(kind.folders), kind.endings) for kind in model_kinds(installed.root, interpreter)}
    assert asked == {kind.name: (set(kind.folders), kind.endings) for kind in USUAL}


def test_unknown_or_broken_comfyui_gets_our_list(tmp_path: Path) -> None:
    assert model_kinds(None, None) == USUAL
    (tmp_path / "folder_paths.py").write_text("raise SystemExit(1)")
    interpreter = interpreter_of(tmp_path, python=Path("/usr/bin/env"), env={})
    assert model_kinds(tmp_path, interpreter) == USUAL


def test_everything_that_worker_comfyui_maps_is_mapped() -> None:
    folders = {folder for kind in USUAL for folder in kind.folders}
    upstream = "checkpoints clip clip_vision configs controlnet embeddings loras upscale_models vae unet"
    missing_there = "text_encoders diffusion_models audio_encoders model_patches style_models"
    assert {*upstream.split(), *missing_there.split()} <= folders
