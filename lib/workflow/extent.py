"""How large the pictures are that flow through a graph, found by following links; pure, and never raises.

Works on any JSON: a node that is none is left out, a value that can't be told has its usual size, one that is absurd
is clamped.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Link = tuple[str, int]

MAX_HOPS = 64
MAX_SIDE = 16384
MAX_COUNT = 65536
USUAL_PIXELS = 1024 * 1024
"""Of a picture that nobody has seen yet: a file, or what a node of an unknown pack makes."""
PIXELS_A_SECOND = 5600
"""Latent audio as if it were a picture: 47 s weigh as much as 512x512."""
MODEL_SCALE = 4.0

_SOURCES = (
    *("samples", "latent_image", "latent", "latents", "pixels", "image", "images", "samples_to", "samples1"),
    *("destination", "image1", "start_image", "init_image", "image_embeds", "input", "any", "value", "width"),
)
"""Inputs through which a picture, or its size, comes into a node."""
_FILES = ("image", "video", "file")
"""Where loaders have the name of a picture."""
_FACTORS = ("scale_by", "upscale_by", "rescale_factor", "scale_factor")
_NUMBERS = ("value", "number", "int", "float", "Value", "Number")
"""Where nodes of a single value keep it."""
_SCALE = re.compile(r"(?<![0-9])([248])x|x([248])(?![0-9])", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """``pixels`` of one frame, and how many there are: pictures of a batch, latent frames of a video."""

    pixels: float
    count: float = 1.0


class Nodes:
    """A graph's well-formed nodes: their classes, inputs, numbers and the size of what each makes."""

    __slots__ = ("_known", "inputs", "kinds")

    def __init__(self, graph: object) -> None:
        self.kinds: dict[str, str] = {}
        self.inputs: dict[str, Mapping[str, Any]] = {}
        for node_id, node in graph.items() if isinstance(graph, dict) else ():
            if isinstance(node, dict):
                kind, inputs = node.get("class_type"), node.get("inputs")
                if isinstance(node_id, str) and isinstance(kind, str) and isinstance(inputs, dict):
                    self.kinds[node_id] = kind
                    self.inputs[node_id] = inputs
        self._known: dict[str, Extent | None] = {}

    def link(self, value: object) -> Link | None:
        """The node and slot that a value links to, if that node is there."""
        if type(value) is list and len(value) == 2 and isinstance(value[0], str) and value[0] in self.inputs:
            return value[0], value[1] if type(value[1]) is int else 0
        return None

    def number(self, inputs: Mapping[str, Any], name: str, *, least: float, most: float) -> float | None:
        """A number between ``least`` and ``most``, also one that comes from a node of a single value."""
        found = _number(value := inputs.get(name))
        if found is None and (source := self.link(value)) is not None:
            linked = self.inputs[source[0]]
            found = next((held for key in _NUMBERS if (held := _number(linked.get(key))) is not None), None)
        return None if found is None else min(max(found, least), most)

    def extent(self, node_id: str, hops: int = 0) -> Extent | None:
        """The size of what a node makes; ``None`` = it makes no picture, or nobody knows."""
        if node_id in self._known:
            return self._known[node_id]
        self._known[node_id] = None  # what a circle leads back to
        if hops < MAX_HOPS:
            self._known[node_id] = self._measured(node_id, hops + 1)
        return self._known[node_id]

    def _measured(self, node_id: str, hops: int) -> Extent | None:
        inputs = self.inputs[node_id]
        source = self._source(inputs, hops)
        pixels = self._pixels(inputs, source)
        if pixels is None:
            return None
        if "upscale_model" in inputs:
            pixels *= self._model_scale(inputs) ** 2
        return Extent(pixels=min(pixels, MAX_SIDE**2), count=self._count(inputs, source.count if source else 1.0))

    def _source(self, inputs: Mapping[str, Any], hops: int) -> Extent | None:
        for name in _SOURCES:
            if (
                name in inputs
                and (source := self.link(inputs[name])) is not None
                and (found := self.extent(source[0], hops)) is not None
            ):
                return found
        return None

    def _pixels(self, inputs: Mapping[str, Any], source: Extent | None) -> float | None:
        if "width" in inputs and "height" in inputs:
            sides = [self.number(inputs, name, least=0, most=MAX_SIDE) for name in ("width", "height")]
            given = [max(side, 16.0) for side in sides if side is not None and (side or source is None)]
            if len(given) == 2:
                return math.prod(given)
            if source is None and given:  # the other one comes from who knows where
                return given[0] ** 2
        if "megapixels" in inputs:
            return (self.number(inputs, "megapixels", least=0.01, most=256) or 1.0) * USUAL_PIXELS
        if "seconds" in inputs and source is None:
            return (self.number(inputs, "seconds", least=1, most=3600) or 60.0) * PIXELS_A_SECOND
        if source is None:
            return USUAL_PIXELS if any(type(inputs.get(name)) is str for name in _FILES) else None
        factor = next((self.number(inputs, name, least=0.01, most=16) for name in _FACTORS if name in inputs), None)
        return source.pixels * (1.0 if factor is None else factor**2)

    def _count(self, inputs: Mapping[str, Any], before: float) -> float:
        if "batch_index" in inputs:
            return min(before, self.number(inputs, "length", least=1, most=MAX_COUNT) or 1.0)
        if "amount" in inputs:
            return min(before * (self.number(inputs, "amount", least=1, most=MAX_COUNT) or 1.0), MAX_COUNT)
        if not inputs.keys() & {"batch_size", "length", "video_frames", "num_frames"}:
            return before
        batch = self.number(inputs, "batch_size", least=1, most=MAX_COUNT) or 1.0
        frames = max(self.number(inputs, name, least=1, most=MAX_COUNT) or 1.0 for name in ("length", "num_frames"))
        whole = self.number(inputs, "video_frames", least=1, most=MAX_COUNT) or 1.0
        return min(batch * max(whole, 1 + (frames - 1) / 4), MAX_COUNT)  # video models squeeze four frames into one

    def _model_scale(self, inputs: Mapping[str, Any]) -> float:
        """By how much an upscaling model enlarges, as its file's name tells (``4x-...``, ``..._x2``)."""
        loader = self.link(inputs["upscale_model"])
        name = self.inputs[loader[0]].get("model_name") if loader else None
        found = _SCALE.search(name) if isinstance(name, str) else None
        return float(found[1] or found[2]) if found else MODEL_SCALE


def _number(value: object) -> float | None:
    if type(value) is int:
        return float(min(max(value, -(10**12)), 10**12))
    if type(value) is str and 0 < len(value) <= 20 and value[0] in "0123456789.+-":
        try:
            value = float(value)
        except ValueError:
            return None
    return value if type(value) is float and math.isfinite(value) else None
