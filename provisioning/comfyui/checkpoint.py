"""The checkpoint of the default workflow on hosts without a GPU: small, random, and marked as such."""

import os
from pathlib import Path

from provisioning.comfyui.record import Device, InstallRecord
from provisioning.errors import ProvisioningError
from provisioning.steps import exclusive, run_command, say, write_text_atomically

CHECKPOINT_NAME = "v1-5-pruned-emaonly-fp16.safetensors"
SCRIPT = Path(__file__).with_name("random_checkpoint.py")
NOTE = (
    f"{CHECKPOINT_NAME} in this folder has RANDOM weights in the shapes of Stable Diffusion 1.5: its pictures are "
    "noise.\nIt was made because this host has no GPU and no checkpoint of that name, so that the default workflow "
    "runs.\nReplace it with the real file whenever you like.\n"
)


def default_checkpoint(root: Path) -> Path:
    """Give the place where the default workflow's checkpoint belongs."""
    return root / "models" / "checkpoints" / CHECKPOINT_NAME


def ensure_random_checkpoint(record: InstallRecord) -> Path:
    """Make the checkpoint unless a file of its name is there; refuses on a host with a GPU.

    The header's metadata has ``pyworker.random_weights`` = ``true``, and a text file beside it says so too.
    Raises ProvisioningError.
    """
    target = default_checkpoint(record.root)
    if target.exists():
        say(f"Checkpoint {CHECKPOINT_NAME} is there")
        return target
    if record.device is not Device.CPU:
        raise ProvisioningError(
            f"This host has a GPU; random weights are for hosts without one, and {target} is missing.",
            remedy="Run: python -m provisioning apply (it downloads the real checkpoint).",
        )
    with exclusive(target.parent / ".pyworker-lock"):
        if not target.exists():
            _make(target, record=record)
    return target


def _make(target: Path, *, record: InstallRecord) -> None:
    say(f"Making a small checkpoint with random weights for the default workflow: {target} (320 MB)")
    partial = target.with_name(f".{target.name}.part")
    run_command(
        [record.python, SCRIPT, record.root, partial],
        failure="The random checkpoint could not be made.",
        remedy="See that the disk has 1 GB free, then start again.",
        env={**os.environ, **record.env},
        cwd=record.root,
    )
    write_text_atomically(target.with_name(f"{target.name}.RANDOM-WEIGHTS.txt"), NOTE)
    partial.chmod(0o644)
    partial.replace(target)
