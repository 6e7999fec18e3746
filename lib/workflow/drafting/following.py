"""Where a graph's values come from: constants behind links, and the texts that a sampler is guided by; pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lib.workflow.graph import is_link

Graph = Mapping[str, Any]
VALUE_NAMES = ("value", "int", "float", "number", "string", "text", "seed", "Value")
"""What nodes that only hold a constant call it."""
TEXT_NAMES = (
    *("text", "text_g", "text_l", "clip_l", "clip_g", "t5xxl", "llama", "qwen2_5_7b", "prompt", "positive_prompt"),
    *("tags", "lyrics", "string", "value"),
)
"""What nodes that encode or hold a text call it."""
_CONDITIONS = ("conditioning", "cond", "positive", "negative", "guider", "prompt", "text")
_STARTS = {"positive": ("positive", "cond1", "cond2"), "negative": ("negative",)}
_NOTHING = "ConditioningZeroOut"
MAX_HOPS = 64


@dataclass(frozen=True, slots=True)
class Spot:
    """One constant of a graph."""

    node_id: str
    name: str
    value: Any

    @property
    def target(self) -> str:
        return f"{self.node_id}.{self.name}"


def spot(graph: Graph, node_id: str, name: str) -> Spot | None:
    """Return the constant that an input has or is linked to; ``None`` where it is calculated."""
    for _ in range(MAX_HOPS):
        value = graph[node_id]["inputs"].get(name)
        if not is_link(value):
            return None if value is None or isinstance(value, list | dict) else Spot(node_id, name, value)
        node_id, held = value[0], graph[value[0]]["inputs"]
        names = [candidate for candidate in VALUE_NAMES if candidate in held]
        if len(names) != 1:
            return None
        name = names[0]
    return None


def guiding_texts(graph: Graph, side: str) -> list[Spot]:
    """Return the texts that reach an input ``positive`` or ``negative`` (``side``) of any node, each once."""
    found: dict[str, Spot] = {}
    for node in graph.values():
        names = _STARTS[side]
        if side == "positive" and "guider" in node["class_type"].lower():
            names = (*names, "conditioning")
        for name in names:
            if is_link(node["inputs"].get(name)):
                found |= {text.target: text for text in _above(graph, node["inputs"][name][0], side)}
    return list(found.values())


def _above(graph: Graph, node_id: str, side: str) -> Iterator[Spot]:
    waiting, seen = [node_id], set[str]()
    while waiting:
        here = waiting.pop()
        if here in seen or graph[here]["class_type"] == _NOTHING:
            continue
        seen.add(here)
        texts = [text for name in TEXT_NAMES if (text := spot(graph, here, name)) and isinstance(text.value, str)]
        if texts:
            yield from texts
        else:
            waiting.extend(reversed(_conditions(graph[here]["inputs"], side)))


def _conditions(inputs: Mapping[str, Any], side: str) -> list[str]:
    """Where a node has its conditioning from; of two sides only the one that is followed."""
    links = {name: value[0] for name, value in inputs.items() if is_link(value)}
    if side in links:
        return [links[side]]
    return [source for name, source in links.items() if name.startswith(_CONDITIONS)]
