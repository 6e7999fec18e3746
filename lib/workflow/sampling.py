"""How much sampling a node does: steps, what a step costs with its sampler and guidance, and which model runs; pure.

Weights of models are relative to Stable Diffusion 1.5 with guidance, a pixel and a step; orders of magnitude from
public timings. What such graphs took here before corrects them (``lib.jobs``).
"""

import re
from collections.abc import Mapping
from typing import Any

from lib.workflow.extent import MAX_HOPS, Link, Nodes

USUAL_STEPS = 20.0
MAX_STEPS = 10_000
"""ComfyUI's own limit."""

_SAMPLER = re.compile(r"sampler|detailer|upscale", re.IGNORECASE)
_TWICE = frozenset(
    {
        *("heun", "heunpp2", "dpm_2", "dpm_2_ancestral", "dpmpp_sde", "dpmpp_sde_gpu", "dpmpp_2s_ancestral"),
        *("dpmpp_2s_ancestral_cfg_pp", "seeds_2", "sa_solver_pece"),
    }
)
"""Samplers that run the model twice a step."""
_SHORTENED = frozenset({"AlignYourStepsScheduler", "GITSScheduler", "OptimalStepsScheduler"})
"""Schedulers that take steps away by ``denoise``; all others make as many steps from a later start."""
_FAMILIES = tuple(
    (re.compile(pattern, re.IGNORECASE), weight)
    for pattern, weight in (
        (r"(?<![a-z])wan.*14b|wan2.?2.*(high|low).?noise", 15.0),
        (r"(?<![a-z])wan.*5b", 2.0),
        (r"(?<![a-z])wan[_.-]?[0-9v]", 3.0),
        (r"hunyuan.?video|mochi", 15.0),
        (r"ltx", 0.25),
        (r"cosmos", 8.0),
        (r"flux.?2", 20.0),
        (r"qwen|hidream|hunyuan.?image", 12.0),
        (r"flux|chroma", 7.5),
        (r"z.?image", 4.0),
        (r"sd3\.5.?large|sd35.?large|aura.?flow", 5.0),
        (r"sd3|lumina|omnigen", 2.5),
        (r"svd|stable.?video", 1.3),
        (r"xl|pony|illustrious|noob|kolors|playground", 1.3),
    )
)
_LATENTS: Mapping[str, float] = {
    "EmptySD3LatentImage": 5.0,
    "EmptyFlux2LatentImage": 20.0,
    "EmptyHunyuanImageLatent": 12.0,
    "EmptyHunyuanLatentVideo": 12.0,
    "EmptyMochiLatentVideo": 15.0,
    "EmptyCosmosLatentVideo": 8.0,
    "EmptyLTXVLatentVideo": 0.25,
}
"""What the latent tells of a model whose name tells nothing."""
_MODEL_NAMES = ("unet_name", "ckpt_name", "model_name", "model")


def is_sampler(kind: str, inputs: Mapping[str, Any]) -> bool:
    """Whether a node samples: ComfyUI's own samplers, and those of packs that are named alike."""
    return ("steps" in inputs or "sigmas" in inputs) and _SAMPLER.search(kind) is not None


def latent_weight(kinds: Mapping[str, str]) -> float:
    """The weight of models that this graph's latents are made for."""
    return max((_LATENTS[kind] for kind in kinds.values() if kind in _LATENTS), default=1.0)


def steps_of(nodes: Nodes, inputs: Mapping[str, Any]) -> float:
    """Steps that a sampler makes."""
    if "sigmas" in inputs:
        return _sigma_steps(nodes, nodes.link(inputs["sigmas"]))
    steps = _steps(nodes, inputs)
    if "start_at_step" in inputs or "end_at_step" in inputs:
        end = nodes.number(inputs, "end_at_step", least=0, most=MAX_STEPS)
        start = nodes.number(inputs, "start_at_step", least=0, most=MAX_STEPS) or 0.0
        return max(0.0, min(steps, steps if end is None else end) - start)
    return 0.0 if nodes.number(inputs, "denoise", least=0, most=1) == 0 else steps


def step_weight(nodes: Nodes, inputs: Mapping[str, Any], *, otherwise: float) -> float:
    """What one step costs a pixel; ``otherwise`` is the weight of a model whose name tells nothing."""
    twice = 2.0 if _sampler_name(nodes, inputs) in _TWICE else 1.0
    return twice * _passes(nodes, inputs) * _family(nodes, inputs, otherwise)


def _steps(nodes: Nodes, inputs: Mapping[str, Any]) -> float:
    found = nodes.number(inputs, "steps", least=0, most=MAX_STEPS)
    return USUAL_STEPS if found is None else found


def _sigma_steps(nodes: Nodes, link: Link | None) -> float:
    """Steps of a schedule: what its node says, cut by the nodes on the way."""
    cuts: list[tuple[Mapping[str, Any], int]] = []
    for _ in range(MAX_HOPS):
        if link is None:
            return USUAL_STEPS
        inputs, kind = nodes.inputs[link[0]], nodes.kinds[link[0]]
        if "sigmas" not in inputs:
            break
        if kind in ("SplitSigmas", "SplitSigmasDenoise"):
            cuts.append((inputs, link[1]))
        link = nodes.link(inputs["sigmas"])
    denoise = nodes.number(inputs, "denoise", least=0, most=1)
    steps = _steps(nodes, inputs) * (1.0 if denoise is None or kind not in _SHORTENED else denoise)
    for cut, slot in reversed(cuts):
        steps = _part(nodes, cut, slot, 0.0 if denoise == 0 else steps)
    return 0.0 if denoise == 0 else steps


def _part(nodes: Nodes, inputs: Mapping[str, Any], slot: int, steps: float) -> float:
    if "denoise" in inputs:
        kept = nodes.number(inputs, "denoise", least=0, most=1)
        low = steps * (1.0 if kept is None else kept)
        return low if slot else steps - low
    at = min(nodes.number(inputs, "step", least=0, most=MAX_STEPS) or 0.0, steps)
    return steps - at if slot else at


def _sampler_name(nodes: Nodes, inputs: Mapping[str, Any]) -> object:
    if (link := nodes.link(inputs.get("sampler"))) is None:
        name = inputs.get("sampler_name")
    else:
        fallback = nodes.kinds[link[0]].lower().removeprefix("sampler")
        name = nodes.inputs[link[0]].get("sampler_name", fallback)
    return name if isinstance(name, str) else ""


def _passes(nodes: Nodes, inputs: Mapping[str, Any]) -> float:
    """1 for guidance by a negative prompt, which runs the model twice; half of it without."""
    if (link := nodes.link(inputs.get("guider"))) is not None:
        if nodes.kinds[link[0]] == "BasicGuider":
            return 0.5
        if nodes.kinds[link[0]] == "DualCFGGuider":
            return 1.5
        inputs = nodes.inputs[link[0]]
    return 0.5 if nodes.number(inputs, "cfg", least=0, most=100) == 1 else 1.0


def _family(nodes: Nodes, inputs: Mapping[str, Any], otherwise: float) -> float:
    """The weight of the model, by the file that its loader names."""
    for _ in range(MAX_HOPS):
        link = nodes.link(inputs.get("guider")) or nodes.link(inputs.get("model"))
        if link is None:
            break
        inputs = nodes.inputs[link[0]]
    names = " ".join(value[-200:] for key in _MODEL_NAMES if isinstance(value := inputs.get(key), str))
    return next((weight for pattern, weight in _FAMILIES if pattern.search(names)), otherwise) if names else otherwise
