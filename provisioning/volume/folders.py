"""Which folders of models ComfyUI knows, asked of the installed one; a list of ours where none can be asked."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioning.interpreter import Interpreter

ASK_TIMEOUT_S = 60.0
ASK = """
import json, os, folder_paths
models = folder_paths.models_dir
print("\\n" + json.dumps({
    name: [[os.path.relpath(path, models) for path in paths], sorted(extensions)]
    for name, (paths, extensions) in folder_paths.folder_names_and_paths.items()
}))
"""
WEIGHTS = frozenset({".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"})
BY_PACKS = frozenset({".gguf", ".onnx"})
"""Formats that ComfyUI itself does not list, but well-known node packs load from the same folders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelKind:
    """One entry of ComfyUI's table: its name, its folders under ``models``, the endings that it lists (empty: all)."""

    name: str
    folders: tuple[str, ...]
    endings: frozenset[str] = WEIGHTS


_OTHERS = {"text_encoders": ("text_encoders", "clip"), "diffusion_models": ("unet", "diffusion_models")}
_OTHERS |= {"controlnet": ("controlnet", "t2i_adapter")}
_NAMES = (
    *("checkpoints", "loras", "vae", "text_encoders", "diffusion_models", "clip_vision", "style_models", "embeddings"),
    *("vae_approx", "controlnet", "gligen", "upscale_models", "latent_upscale_models", "hypernetworks", "photomaker"),
    *("model_patches", "audio_encoders"),
)
USUAL = (
    *(ModelKind(name=name, folders=_OTHERS.get(name, (name,))) for name in _NAMES),
    ModelKind(name="configs", folders=("configs",), endings=frozenset({".yaml"})),
    ModelKind(name="diffusers", folders=("diffusers",), endings=frozenset()),
    ModelKind(name="classifiers", folders=("classifiers",), endings=frozenset()),
)
"""ComfyUI 0.3.75's table."""


def model_kinds(root: Path | None, interpreter: Interpreter | None) -> tuple[ModelKind, ...]:
    """Give ComfyUI's own table, or the usual one where it does not answer."""
    if root is None or interpreter is None or not (root / "folder_paths.py").is_file():
        return USUAL
    try:
        asked = subprocess.run(
            [interpreter.python, "-c", ASK],
            cwd=root,
            env={**interpreter.environment(), **interpreter.env, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            timeout=ASK_TIMEOUT_S,
            check=False,
        )
        table = json.loads(asked.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        return USUAL
    return tuple(_kinds(table))


def _kinds(table: dict[str, Any]) -> list[ModelKind]:
    kinds = []
    for name, (paths, endings) in table.items():
        folders = tuple(path for path in paths if path != "." and not path.startswith(("..", "/")))
        known = frozenset(ending for ending in endings if ending.startswith("."))
        if folders:
            kinds.append(ModelKind(name=name, folders=folders, endings=known))
    return kinds
