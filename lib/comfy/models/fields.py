"""Which inputs of a graph name a model, and in which of ComfyUI's model folders it is looked for; pure.

Known are ComfyUI's own loaders. Of any other class an input is one if its list is that of a model folder, or, where
such a list is empty, if it has the name that inputs of this kind usually have.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lib.comfy.fields import Path, is_url
from lib.jobs.model import Workflow

SCHEMES = ("http://", "https://", "s3://")

_TEXT = "text_encoders"
_DIFFUSION = "diffusion_models"
LOADERS: Mapping[str, Mapping[str, str]] = {
    "CheckpointLoader": {"config_name": "configs", "ckpt_name": "checkpoints"},
    "CheckpointLoaderSimple": {"ckpt_name": "checkpoints"},
    "unCLIPCheckpointLoader": {"ckpt_name": "checkpoints"},
    "ImageOnlyCheckpointLoader": {"ckpt_name": "checkpoints"},
    "LoraLoader": {"lora_name": "loras"},
    "LoraLoaderModelOnly": {"lora_name": "loras"},
    "CreateHookLora": {"lora_name": "loras"},
    "CreateHookLoraModelOnly": {"lora_name": "loras"},
    "CreateHookModelAsLora": {"ckpt_name": "checkpoints"},
    "CreateHookModelAsLoraModelOnly": {"ckpt_name": "checkpoints"},
    "VAELoader": {"vae_name": "vae"},
    "ControlNetLoader": {"control_net_name": "controlnet"},
    "DiffControlNetLoader": {"control_net_name": "controlnet"},
    "UNETLoader": {"unet_name": _DIFFUSION},
    "UnetLoaderGGUF": {"unet_name": _DIFFUSION},
    "UnetLoaderGGUFAdvanced": {"unet_name": _DIFFUSION},
    "CLIPLoader": {"clip_name": _TEXT},
    "CLIPLoaderGGUF": {"clip_name": _TEXT},
    "CLIPVisionLoader": {"clip_name": "clip_vision"},
    "DualCLIPLoader": {"clip_name1": _TEXT, "clip_name2": _TEXT},
    "DualCLIPLoaderGGUF": {"clip_name1": _TEXT, "clip_name2": _TEXT},
    "TripleCLIPLoader": {"clip_name1": _TEXT, "clip_name2": _TEXT, "clip_name3": _TEXT},
    "TripleCLIPLoaderGGUF": {"clip_name1": _TEXT, "clip_name2": _TEXT, "clip_name3": _TEXT},
    "QuadrupleCLIPLoader": {"clip_name1": _TEXT, "clip_name2": _TEXT, "clip_name3": _TEXT, "clip_name4": _TEXT},
    "QuadrupleCLIPLoaderGGUF": {"clip_name1": _TEXT, "clip_name2": _TEXT, "clip_name3": _TEXT, "clip_name4": _TEXT},
    "StyleModelLoader": {"style_model_name": "style_models"},
    "GLIGENLoader": {"gligen_name": "gligen"},
    "UpscaleModelLoader": {"model_name": "upscale_models"},
    "LatentUpscaleModelLoader": {"model_name": "latent_upscale_models"},
    "HypernetworkLoader": {"hypernetwork_name": "hypernetworks"},
    "PhotoMakerLoader": {"photomaker_model_name": "photomaker"},
    "ModelPatchLoader": {"name": "model_patches"},
    "AudioEncoderLoader": {"audio_encoder_name": "audio_encoders"},
}
"""Model inputs by node class: ComfyUI 0.3.75's loaders, and those of the GGUF pack, whose folders are the same."""
REPOSITORIES: Mapping[str, str] = {"DiffusersLoader": "model_path"}
"""These want a folder of files."""

_USUAL = (
    (re.compile(r"ckpt(_name)?(_?\d+)?|checkpoint(_name)?"), "checkpoints"),
    (re.compile(r"lora(_name)?(_?\d+)?"), "loras"),
    (re.compile(r"vae(_name)?"), "vae"),
    (re.compile(r"control_?net(_name)?(_?\d+)?"), "controlnet"),
    (re.compile(r"unet(_name)?|diffusion_model(_name)?"), _DIFFUSION),
    (re.compile(r"clip_vision(_name)?"), "clip_vision"),
    (re.compile(r"clip(_name)?_?\d*|text_encoder(_name)?\d*"), _TEXT),
    (re.compile(r"style_model(_name)?"), "style_models"),
    (re.compile(r"gligen(_name)?"), "gligen"),
    (re.compile(r"upscale_model(_name)?|upscaler?(_name)?"), "upscale_models"),
    (re.compile(r"hypernetwork(_name)?"), "hypernetworks"),
    (re.compile(r"photomaker(_model)?(_name)?"), "photomaker"),
    (re.compile(r"config(_name)?"), "configs"),
)
_NESTED = "lora"
"""Packs have rows such as ``{"on": true, "lora": <name>, "strength": 1}`` as inputs of their own making."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSite:
    """A URL where a node may want a model's name. ``field`` is the input, or the key inside one."""

    path: Path
    value: str
    class_type: str
    field: str

    @property
    def label(self) -> str:
        """Its place, for messages: ``workflow.4.inputs.ckpt_name``."""
        return ".".join(("workflow", *map(str, self.path)))

    @property
    def node_id(self) -> str:
        return str(self.path[0])

    @property
    def nested(self) -> bool:
        """Whether it is inside an input that no list is declared for."""
        return len(self.path) > 3


def url_sites(graph: Workflow) -> Iterator[ModelSite]:
    """Find the inputs that are URLs, and those of rows. Malformed nodes are left for others to refuse."""
    for node_id, node in graph.items():
        inputs = node.get("inputs") if isinstance(node, dict) else None
        class_type = node.get("class_type") if isinstance(node, dict) else None
        if not isinstance(inputs, dict) or not isinstance(class_type, str):
            continue
        for name, value in inputs.items():
            path: Path = (node_id, "inputs", name)
            if isinstance(value, dict):
                name, value, path = _NESTED, value.get(_NESTED), (*path, _NESTED)
            if isinstance(value, str) and is_model_url(value):
                yield ModelSite(path=path, value=value, class_type=class_type, field=name)


def is_model_url(value: str) -> bool:
    """Whether a text is a URL of a kind that models come from."""
    return "://" in value[:16] and value[:16].lstrip().lower().startswith(SCHEMES) and is_url(value)


def known_folder(class_type: str, field: str) -> str | None:
    """The folder of an input of a class that we know."""
    return LOADERS.get(class_type, {}).get(field)


def usual_folder(field: str) -> str | None:
    """The folder that inputs of this name usually mean."""
    return next((folder for pattern, folder in _USUAL if pattern.fullmatch(field.lower())), None)


def listed_folder(field: str, choices: Collection[str], lists: Mapping[str, Sequence[str]]) -> str | None:
    """The folder whose files an input lists, all of them, perhaps with further choices (``None``, ``taesd``).

    Of several that fit the largest counts, then the one that the name speaks for, then the first."""
    found = set(choices)
    fitting = [folder for folder, names in lists.items() if names and found.issuperset(names)]
    usual = usual_folder(field)
    if not fitting:
        return usual if not found or (usual is not None and lists.get(usual) == []) else None
    return min(fitting, key=lambda folder: (-len(lists[folder]), folder != usual, folder))


def declared_choices(info: Any, class_type: str, field: str) -> tuple[str, ...] | None:
    """The choices of a list input, by ComfyUI's answer to ``/object_info/<class>``; ``None``: it is no list."""
    facts = info.get(class_type) if isinstance(info, Mapping) else None
    groups = facts.get("input") if isinstance(facts, Mapping) else None
    for group in ("required", "optional"):
        declared = (groups.get(group) or {}).get(field) if isinstance(groups, Mapping) else None
        if isinstance(declared, list) and declared:
            config = declared[1] if len(declared) > 1 and isinstance(declared[1], Mapping) else {}
            listed = config.get("options") if declared[0] == "COMBO" else declared[0]
            return tuple(str(one) for one in listed) if isinstance(listed, list) else None
    return None
