"""Which inputs of a graph a caller would want to set, and under which names; pure."""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lib.workflow.drafting.facts import Fact, Info, fact_of
from lib.workflow.drafting.following import TEXT_NAMES, Graph, Spot, guiding_texts, spot
from lib.workflow.kinds import FILES, Kind

PROMPT, NEGATIVE = "prompt", "negative_prompt"
DESCRIPTIONS: Mapping[str, str] = {
    PROMPT: "What the result shows.",
    NEGATIVE: "What it must not show.",
    "width": "Pixels.",
    "height": "Pixels.",
    "batch_size": "How many results are made at once.",
    "seed": "Start of the noise; random when not given.",
    "steps": "Sampling steps.",
    "cfg_scale": "How closely the prompt is followed.",
    "denoise": "How much is made anew.",
}
NAMES: Mapping[str, str] = {
    **{name: name for name in ("width", "height", "batch_size", "length", "fps", "frame_rate", "seed", "steps")},
    "noise_seed": "seed",
    "cfg": "cfg_scale",
    **{name: name for name in ("guidance", "sampler_name", "scheduler", "denoise")},
    "start_at_step": "start_step",
    "end_at_step": "end_step",
    "ckpt_name": "checkpoint",
    "unet_name": "diffusion_model",
    "lora_name": "lora",
    "strength_model": "lora_strength",
    "strength_clip": "lora_clip_strength",
}
"""Our name of an input, in the order in which they are proposed; ``x_name`` of other loaders becomes ``x``."""
_APART = frozenset({"lora", "lora_strength", "lora_clip_strength"})
"""Not joined with others of the same value: each node has its own."""
_UNUSED_SEED = {"add_noise": "disable"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One constant that somebody may want to set. ``source``: class and input that take it, perhaps behind a link."""

    role: str
    found: Spot
    fact: Fact
    source: tuple[str, str]


@dataclass(slots=True, kw_only=True)
class Proposal:
    """One input to expose. All its targets have the same value in the graph."""

    name: str
    wish: Wish
    title: str
    targets: list[str]

    @property
    def description(self) -> str:
        return DESCRIPTIONS.get(self.wish.role, "") or self.wish.fact.description


def propose(graph: Graph, info: Info | None = None) -> list[Proposal]:
    """Return what is worth exposing of a well-formed graph, most wanted first; no target comes twice."""
    proposals: list[Proposal] = []
    taken: set[str] = set()
    for wish in _wishes(graph, info):
        target = wish.found.target
        if target in taken:
            continue
        taken.add(target)
        joined = next((item for item in proposals if _joins(item.wish, wish)), None)
        if joined is not None:
            joined.targets.append(target)
            continue
        name = _free(wish.role, {item.name for item in proposals})
        title = "" if wish.role in DESCRIPTIONS else _title(graph[wish.found.node_id])
        proposals.append(Proposal(name=name, wish=wish, title=title, targets=[target]))
    return proposals


def _wishes(graph: Graph, info: Info | None) -> Iterator[Wish]:
    yield from _files(graph, info)
    for role, side in ((PROMPT, "positive"), (NEGATIVE, "negative")):
        for found in guiding_texts(graph, side):
            yield Wish(role=role, found=found, fact=Fact(kind=Kind.STRING), source=("", ""))
    yield from _other_texts(graph, info)
    order = list(dict.fromkeys(NAMES.values()))
    named = list(_named(graph, info))
    yield from sorted(named, key=lambda wish: order.index(wish.role) if wish.role in order else len(order))


def _files(graph: Graph, info: Info | None) -> Iterator[Wish]:
    for node_id, node in graph.items():
        for name, value in node["inputs"].items():
            fact = fact_of(info, node["class_type"], name, value)
            if fact is not None and fact.kind in FILES:
                yield Wish(role=str(fact.kind), found=Spot(node_id, name, value), fact=fact, source=("", ""))


def _other_texts(graph: Graph, info: Info | None) -> Iterator[Wish]:
    """Texts that no sampler's link leads to: prompts by their name, and those of nodes that somebody gave a title."""
    for node_id, node in graph.items():
        for name in (NEGATIVE, *TEXT_NAMES):
            value = node["inputs"].get(name)
            fact = fact_of(info, node["class_type"], name, value) or Fact(kind=Kind.STRING)
            if not isinstance(value, str) or fact.kind is not Kind.STRING or fact.listed:
                continue
            prompt = NEGATIVE if name == NEGATIVE else PROMPT
            if role := prompt if name.endswith(PROMPT) else _slug(_title(node)):
                yield Wish(role=role, found=Spot(node_id, name, value), fact=fact, source=("", ""))


def _named(graph: Graph, info: Info | None) -> Iterator[Wish]:
    for node_id, node in graph.items():
        for name in node["inputs"]:
            role = NAMES.get(name) or _loaded(node["class_type"], name)
            if role is None or (role == "seed" and _UNUSED_SEED.items() <= _plain(node["inputs"]).items()):
                continue
            if (found := spot(graph, node_id, name)) is not None:
                fact = fact_of(info, node["class_type"], name, found.value)
                if fact is not None:
                    yield Wish(role=role, found=found, fact=fact, source=(node["class_type"], name))


def _plain(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if isinstance(value, str)}


def _loaded(class_type: str, name: str) -> str | None:
    """``vae_name`` of a VAELoader is ``vae``."""
    if "load" not in class_type.lower() or "_name" not in name:
        return None
    return name.replace("_name", "", 1) or None


def _joins(one: Wish, other: Wish) -> bool:
    """Whether one input of the endpoint may set both."""
    alone = one.role in _APART or one.fact.kind in FILES
    alike = one.role == other.role and one.fact.kind == other.fact.kind and one.source[1:] == other.source[1:]
    return alike and not alone and one.found.value == other.found.value


def _free(role: str, names: set[str]) -> str:
    count, name = 1, role
    while name in names:
        count += 1
        name = f"{role}_{count}"
    return name


def _title(node: Mapping[str, Any]) -> str:
    title = (node.get("_meta") or {}).get("title")
    return " ".join(title.split())[:80] if isinstance(title, str) else ""


def _slug(title: str) -> str:
    return re.sub(r"\W+", "_", unicodedata.normalize("NFKC", title).lower()).strip("_")[:40]
