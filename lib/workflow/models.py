"""The large model files that a graph needs resident, by the names that its nodes use; pure.

Workers tell a router which of them are installed and resident, and the router finds in a request which ones it needs:
both by this, so that the names are the same.
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson

LARGE_INPUTS = ("ckpt_name", "unet_name")
"""Inputs that name what fills a card: checkpoints and diffusion models."""
_FILE = re.compile(r"\.(?:safetensors|sft|ckpt|pth?|bin|gguf)\Z", re.IGNORECASE)
_WRITTEN = re.compile(rb'"(?:%s)"\s*:\s*("(?:[^"\\]|\\.)*+")' % b"|".join(name.encode() for name in LARGE_INPUTS))


def is_model(value: object) -> bool:
    """Whether an input of that kind names an installed file: no link, no URL that is still to be fetched."""
    return isinstance(value, str) and "://" not in value and _FILE.search(value) is not None


def models_by_node(graph: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return which large files the nodes of a graph in API format name; those that name none are left out. Anything
    else, and any value in it, is survived."""
    found: dict[str, tuple[str, ...]] = {}
    for node_id, node in graph.items():
        inputs = node.get("inputs") if isinstance(node, dict) else None
        if isinstance(inputs, dict):
            names = tuple(inputs[name] for name in LARGE_INPUTS if is_model(inputs.get(name)))
            if names:
                found[node_id] = names
    return found


def large_models(graph: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the large files of a graph, each once."""
    return tuple(dict.fromkeys(name for names in models_by_node(graph).values() for name in names))


def large_models_of(workflow: bytes) -> tuple[str, ...]:
    """Return the same of a graph as JSON, which is looked through and not decoded: a graph takes microseconds."""
    found: dict[str, None] = {}
    for written in _WRITTEN.finditer(workflow):
        try:
            name = orjson.loads(written[1])
        except orjson.JSONDecodeError:
            continue
        if is_model(name):
            found[name] = None
    return tuple(found)
