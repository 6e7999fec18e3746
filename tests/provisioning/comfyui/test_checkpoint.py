"""The stand-in checkpoint of hosts without a GPU: real shapes, random weights, and marked so."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from provisioning.comfyui.checkpoint import CHECKPOINT_NAME, default_checkpoint, ensure_random_checkpoint
from provisioning.comfyui.record import Device, InstallRecord
from provisioning.errors import ProvisioningError
from provisioning.fetch import is_random_checkpoint

pytestmark = pytest.mark.comfyui


def header(path: Path) -> dict[str, dict[str, object]]:
    with path.open("rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little")))


def test_it_is_marked_and_has_the_familys_shapes(installed: InstallRecord) -> None:
    path = default_checkpoint(installed.root)
    content = header(path)
    assert is_random_checkpoint(path)
    assert content["__metadata__"]["pyworker.random_weights"] == "true"
    assert path.with_name(f"{CHECKPOINT_NAME}.RANDOM-WEIGHTS.txt").is_file()
    first = content["model.diffusion_model.input_blocks.0.0.weight"]
    assert (first["shape"], first["dtype"]) == ([320, 4, 3, 3], "F16")
    attention = content["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"]
    assert attention["shape"] == [320, 768]
    assert "first_stage_model.taesd_decoder.1.weight" in content
    assert any(name.startswith("cond_stage_model.transformer.text_model.") for name in content)


def test_comfyui_takes_it_for_sd15(installed: InstallRecord) -> None:
    """ComfyUI's own detection, in its own interpreter."""
    script = (
        "import sys; sys.path.insert(0, '.')\n"
        "from comfy.cli_args import args; args.cpu = True\n"
        "import comfy.utils, comfy.model_detection\n"
        f"sd = comfy.utils.load_torch_file('models/checkpoints/{CHECKPOINT_NAME}')\n"
        "print(type(comfy.model_detection.model_config_from_unet(sd, 'model.diffusion_model.')).__name__)\n"
    )
    done = subprocess.run(
        [installed.python, "-c", script],
        cwd=installed.root,
        env={**os.environ, **installed.env},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-1] == "SD15"


def test_a_file_of_that_name_is_never_touched(tmp_path: Path, installed: InstallRecord) -> None:
    record = installed.model_copy(update={"root": tmp_path})
    path = default_checkpoint(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a real one")
    assert ensure_random_checkpoint(record) == path
    assert path.read_bytes() == b"a real one"


def test_gpu_hosts_never_get_one(tmp_path: Path, installed: InstallRecord) -> None:
    record = installed.model_copy(update={"root": tmp_path, "device": Device.CUDA})
    with pytest.raises(ProvisioningError, match="has a GPU"):
        ensure_random_checkpoint(record)
    assert not default_checkpoint(tmp_path).exists()


def test_failure_leaves_nothing_behind(tmp_path: Path, installed: InstallRecord) -> None:
    """A folder that is no ComfyUI: the script fails, and no half file has the final name."""
    record = installed.model_copy(update={"root": tmp_path})
    default_checkpoint(tmp_path).parent.mkdir(parents=True)
    with pytest.raises(ProvisioningError, match="could not be made"):
        ensure_random_checkpoint(record)
    assert not default_checkpoint(tmp_path).exists()
