"""What is known of a node's input: from ``/object_info`` of a ComfyUI, else from names that its nodes share."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lib.workflow.decoding import MAX_INTEGER, MIN_INTEGER
from lib.workflow.files import LOADERS
from lib.workflow.kinds import Kind
from lib.workflow.placeholders import TOKEN

Info = Mapping[str, Any]
"""The body of ``/object_info``."""
_UPLOADS = {"image_upload": Kind.IMAGE, "audio_upload": Kind.AUDIO, "video_upload": Kind.VIDEO}
_TYPES = {"INT": Kind.INTEGER, "FLOAT": Kind.NUMBER, "STRING": Kind.STRING, "BOOLEAN": Kind.BOOLEAN}
_FILES = {"LoadAudio": Kind.AUDIO, "LoadVideo": Kind.VIDEO, "Load3D": Kind.FILE, "Load3DAnimation": Kind.FILE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """An input as a caller may set it. ``listed``: the value is one of a list that ComfyUI offers."""

    kind: Kind
    minimum: float | int | None = None
    maximum: float | int | None = None
    multiple_of: int | None = None
    listed: bool = False
    random: bool = False
    description: str = ""


def _integer(minimum: int, maximum: int, *, step: int | None = None, random: bool = False) -> Fact:
    return Fact(kind=Kind.INTEGER, minimum=minimum, maximum=maximum, multiple_of=step, random=random)


def _number(minimum: float, maximum: float) -> Fact:
    return Fact(kind=Kind.NUMBER, minimum=minimum, maximum=maximum)


_SEED = _integer(0, MAX_INTEGER, random=True)
_SIDE = _integer(64, 4096, step=8)
_STRENGTH = _number(-10, 10)
_LISTED = Fact(kind=Kind.STRING, listed=True)
SENSIBLE: Mapping[str, Fact] = {
    "seed": _SEED,
    "noise_seed": _SEED,
    "steps": _integer(1, 150),
    "cfg": _number(0, 30),
    "guidance": _number(0, 30),
    "denoise": _number(0, 1),
    "width": _SIDE,
    "height": _SIDE,
    "batch_size": _integer(1, 16),
    "length": _integer(1, 1024),
    "fps": _number(1, 120),
    "frame_rate": _number(1, 120),
    "start_at_step": _integer(0, 10_000),
    "end_at_step": _integer(0, 10_000),
    "strength": _STRENGTH,
    "strength_model": _STRENGTH,
    "strength_clip": _STRENGTH,
    "sampler_name": _LISTED,
    "scheduler": _LISTED,
}
"""By input name; narrower than ComfyUI's own bounds, which let one request take the whole GPU for hours."""


def fact_of(info: Info | None, class_type: str, name: str, value: Any) -> Fact | None:
    """Return what a caller may set there, so that ``value`` itself passes; ``None``: nothing sensible is known."""
    declared = _declared(info, class_type, name)
    fact = _from_info(declared, name) if declared is not None else _from_name(class_type, name)
    return _fitted(fact, value) if fact is not None else None


def _from_name(class_type: str, name: str) -> Fact | None:
    if name in LOADERS.get(class_type, ()):
        return Fact(kind=_FILES.get(class_type, Kind.IMAGE))
    if name in SENSIBLE:
        return SENSIBLE[name]
    if "_name" in name and "load" in class_type.lower():
        return _LISTED
    return None


def _declared(info: Info | None, class_type: str, name: str) -> list[Any] | None:
    described = (info or {}).get(class_type)
    groups = described.get("input") if isinstance(described, dict) else None
    for group in ("required", "optional"):
        entry = (groups.get(group) or {}).get(name) if isinstance(groups, dict) else None
        if isinstance(entry, list) and entry:
            return entry
    return None


def _from_info(declared: list[Any], name: str) -> Fact | None:
    head = declared[0]
    config = declared[1] if len(declared) > 1 and isinstance(declared[1], dict) else {}
    text = config.get("tooltip")
    description = " ".join(text.split()) if isinstance(text, str) else ""
    for flag, kind in _UPLOADS.items():
        if config.get(flag):
            return Fact(kind=kind, description=description)
    if head == "COMBO" or isinstance(head, list):
        return Fact(kind=Kind.STRING, listed=True, description=description)
    if head not in _TYPES:
        return None
    return _bounded(Fact(kind=_TYPES[head], description=description), config, SENSIBLE.get(name))


def _bounded(fact: Fact, config: Mapping[str, Any], sensible: Fact | None) -> Fact:
    """The node's own bounds, and within them the sensible ones."""
    if fact.kind not in (Kind.INTEGER, Kind.NUMBER):
        return fact
    within = sensible or Fact(kind=fact.kind)
    lows = [low for low in (_bound(config.get("min")), within.minimum) if low is not None]
    highs = [high for high in (_bound(config.get("max")), within.maximum) if high is not None]
    step = config.get("step") if within.multiple_of else None
    return replace(
        fact,
        minimum=max(lows, default=None),
        maximum=min(highs, default=None),
        multiple_of=step if type(step) is int and step > 1 else None,
        random=within.random,
    )


def _bound(value: Any) -> float | int | None:
    """A bound that bounds: nodes write 2**63 and the like for none."""
    return value if isinstance(value, int | float) and abs(value) <= MAX_INTEGER else None


def _fitted(fact: Fact, value: Any) -> Fact | None:
    """Widen the fact until it holds the graph's own value; ``None`` where that is of another type."""
    if value == TOKEN and fact.kind is Kind.INTEGER:
        return replace(fact, random=True)
    if fact.kind in (Kind.INTEGER, Kind.NUMBER):
        return _fitted_number(fact, value)
    wanted = bool if fact.kind is Kind.BOOLEAN else str
    return fact if isinstance(value, wanted) else None


def _fitted_number(fact: Fact, value: Any) -> Fact | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    whole = float(value).is_integer() and MIN_INTEGER <= value <= MAX_INTEGER
    return replace(
        fact,
        kind=fact.kind if whole else Kind.NUMBER,
        minimum=None if fact.minimum is None else min(fact.minimum, value),
        maximum=None if fact.maximum is None else max(fact.maximum, value),
        multiple_of=fact.multiple_of if fact.multiple_of and whole and int(value) % fact.multiple_of == 0 else None,
        random=fact.random and whole,
    )
