"""How much work a workflow looks like, before it ever ran; pure, quick, and never raises.

``units`` is a prior: 100 for Stable Diffusion 1.5, 512x512, 20 steps, batch 1. ``shape`` is the key under which what
such workflows took is remembered: node classes, model files, and size, count and steps in coarse buckets; texts and
seeds are not part of it.
"""

import math
import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from lib.jobs.model import Estimate
from lib.workflow.extent import USUAL_PIXELS, Extent, Nodes
from lib.workflow.sampling import is_sampler, latent_weight, step_weight, steps_of

MAX_UNITS = 1e9
REFERENCE_PIXELS = 512 * 512
REFERENCE_STEPS = 20
SAMPLING_UNITS = 95.0
"""Of the reference job's 100; the rest is its decoding and saving, and the running of its seven nodes."""
PICTURE_UNITS = 4.0
NODE_UNITS = 1.0 / 7
UPSCALING_UNITS = 30.0
"""An upscaling model, for each 512x512 that goes in."""

_MODEL_FILE = re.compile(r"\.(?:safetensors|sft|ckpt|pth?|bin|onnx|gguf)\Z", re.IGNORECASE)
_UNKNOWN = Extent(pixels=USUAL_PIXELS)


def measure(graph: Mapping[str, Any]) -> Estimate:
    """Estimate a graph in API format. Anything else, and any value in it, is survived."""
    nodes = Nodes(graph)
    units, marks = len(nodes.kinds) * NODE_UNITS, []
    otherwise = 0.0
    for node_id, kind in nodes.kinds.items():
        inputs = nodes.inputs[node_id]
        if is_sampler(kind, inputs):
            extent = nodes.extent(node_id) or _UNKNOWN
            otherwise = otherwise or latent_weight(nodes.kinds)
            work = steps_of(nodes, inputs) * step_weight(nodes, inputs, otherwise=otherwise) / REFERENCE_STEPS
            units += _areas(extent) * (SAMPLING_UNITS * work + PICTURE_UNITS)
            marks.append((_bucket(extent.pixels), _bucket(extent.count), _bucket(work)))
        elif "upscale_model" in inputs and (source := nodes.link(inputs.get("image"))) is not None:
            units += UPSCALING_UNITS * _areas(nodes.extent(source[0]) or _UNKNOWN)
    if not marks:  # nothing samples: the largest picture is what there is to do
        pictures = (node_id for node_id, kind in nodes.kinds.items() if "Latent" not in kind)
        extents = filter(None, map(nodes.extent, pictures))
        largest = max(extents, key=_areas, default=Extent(pixels=0.0))
        units += PICTURE_UNITS * _areas(largest)
        marks.append((_bucket(largest.pixels), _bucket(largest.count), 0))
    return Estimate(units=min(max(units, NODE_UNITS), MAX_UNITS), shape=_shape(nodes, marks))


def _areas(extent: Extent) -> float:
    return extent.pixels * extent.count / REFERENCE_PIXELS


def _bucket(value: float) -> int:
    """Quarters of a doubling."""
    return round(4 * math.log2(value)) if value > 0 else -1000


def _shape(nodes: Nodes, marks: list[tuple[int, int, int]]) -> str:
    models = {
        value
        for inputs in nodes.inputs.values()
        for value in inputs.values()
        if type(value) is str and len(value) < 512 and _MODEL_FILE.search(value, len(value) - 12)
    }
    parts = [*sorted(nodes.kinds.values()), "", *sorted(models), "", *map(str, sorted(marks))]
    return blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=12).hexdigest()
