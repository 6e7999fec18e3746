"""Runs in ComfyUI's interpreter: writes a small checkpoint with random weights in Stable Diffusion 1.5's shapes.

``python random_checkpoint.py COMFYUI_ROOT TARGET``. The shapes come from ComfyUI's own classes, so that it takes the
file for SD 1.5 (``model_channels`` 320 and ``context_dim`` 768 decide that); the widths are the least that it accepts.
The pictures are noise, the same on every host: the seed is fixed. The file's header says so.
"""

import math
import sys
from collections.abc import Iterator
from typing import Any

SEED = 15
METADATA = {
    "format": "pt",
    "pyworker.random_weights": "true",
    "pyworker.note": "Random weights in the shapes of Stable Diffusion 1.5, made to run the default workflow on a "
    "host without a GPU. Not a trained model: its pictures are noise. Made by: python -m provisioning checkpoint",
}
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 1],
    "transformer_depth": [1, 0],
    "transformer_depth_output": [1, 1, 0, 0],
    "transformer_depth_middle": -1,
    "num_heads": 8,
    "context_dim": 768,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "legacy": False,
}


def shapes() -> Iterator[tuple[str, Any]]:
    """Give each tensor of the checkpoint by its name in the file."""
    from comfy.cli_args import args  # type: ignore[import-not-found]  # ComfyUI's own, in its environment

    args.cpu = True
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # type: ignore[import-not-found]
    from comfy.sd1_clip import SD1ClipModel  # type: ignore[import-not-found]
    from comfy.taesd.taesd import TAESD  # type: ignore[import-not-found]

    for name, tensor in UNetModel(**UNET).state_dict().items():
        yield f"model.diffusion_model.{name}", tensor
    for name, tensor in TAESD().state_dict().items():
        yield f"first_stage_model.{name}", tensor
    for name, tensor in SD1ClipModel().state_dict().items():
        if name.startswith("clip_l.transformer.") and "text_projection" not in name:
            yield name.replace("clip_l.", "cond_stage_model.", 1), tensor


def weights() -> dict[str, Any]:
    """Fill the shapes: scales and norms 1, biases and shifts 0, matrices N(0, 1 / fan in), all float16."""
    import torch  # type: ignore[import-not-found]

    generator = torch.Generator().manual_seed(SEED)

    def fill(name: str, shape: Any) -> Any:
        if len(shape) < 2:
            return torch.zeros(shape) if name.endswith(("bias", "shift")) else torch.ones(shape)
        return torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))

    return {name: fill(name, tensor.shape).to(torch.float16).contiguous() for name, tensor in shapes()}


def main(root: str, target: str) -> None:
    """Write the checkpoint to ``target``; the caller renames it when it is whole."""
    sys.path.insert(0, root)
    from safetensors.torch import save_file  # type: ignore[import-not-found]

    save_file(weights(), target, metadata=METADATA)


if __name__ == "__main__":
    main(*sys.argv[1:])
