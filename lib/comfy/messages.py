"""ComfyUI's socket messages as typed values; pure.

Wire format: ComfyUI 0.3.75, ``{"type": ..., "data": {...}}`` in text frames, big-endian headers in binary
ones. Unknown types, keys and shapes are ignored, so that newer servers stay readable.
"""

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

HELLO = orjson.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}).decode()
"""Must be a client's first message; pictures on the socket then name their prompt."""

_IGNORED = tuple(f'{{"type":{space}"{kind}"' for kind in ("progress_state", "logs") for space in (" ", ""))
"""Big and frequent, and they tell nothing that the other messages, or the history, don't: not even parsed."""

_PREVIEW_WITH_METADATA = 4
_KIND = re.compile(r'\{"type": ?"([\w.-]{1,64})"')


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueChanged:
    """Broadcast at every change of ComfyUI's queue; the first message of a connection."""

    remaining: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The executor took the prompt; ``at_ms`` is ComfyUI's own clock, Unix milliseconds."""

    prompt_id: str
    at_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """Nodes that need not run again."""

    prompt_id: str
    node_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStarted:
    """A node begins to run; ``node_id`` is the one that the caller's graph shows."""

    prompt_id: str
    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeProgressed:
    """A node ticks; every tick is also a point where it can be interrupted."""

    prompt_id: str
    node_id: str | None
    value: float
    maximum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A node has told what it made, as the history will; ``shown_id`` is the node that the caller's graph shows."""

    prompt_id: str
    node_id: str
    shown_id: str
    output: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded:
    """No node failed. The history entry does not exist yet."""

    prompt_id: str
    at_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A node raised. Terminal unless ``exception_type`` is ``ExecutionBlocked``."""

    prompt_id: str
    node_id: str
    node_type: str
    exception_type: str
    message: str
    at_ms: int | None
    traceback: tuple[str, ...] = ()

    @property
    def blocked(self) -> bool:
        """A branch was switched off with a message; the prompt goes on."""
        return self.exception_type == "ExecutionBlocked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """The prompt was stopped."""

    prompt_id: str
    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """End marker, after success, error and interrupt alike; the history entry exists."""

    prompt_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An encoded image sent over the socket: a preview, or the work of a ``SaveImageWebsocket`` node."""

    prompt_id: str
    node_id: str
    mime_type: str
    data: bytes


Message = (
    QueueChanged
    | Started
    | Cached
    | NodeStarted
    | NodeProgressed
    | Reported
    | Succeeded
    | Failed
    | Interrupted
    | Ended
    | Picture
)


def kind_of(frame: object) -> str:
    """The type of a message as it came, for a trace; nothing of what it says."""
    found = _KIND.match(frame) if isinstance(frame, str) else None
    if found is not None:
        return found[1]
    return f"binary {int.from_bytes(frame[:4], 'big')}" if isinstance(frame, bytes) else "unknown"


def parse_text(text: str) -> Message | None:
    """Read a text frame; ``None`` for what we don't use or can't read."""
    if text.startswith(_IGNORED):
        return None
    try:
        frame = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None  # NaN in a third party's message
    if not isinstance(frame, dict):
        return None
    return message_of(frame.get("type"), frame.get("data"))


def message_of(kind: object, data: object) -> Message | None:
    """Type one message; the history's ``status.messages`` are pairs of the same kind and data."""
    if not isinstance(data, dict):
        return None
    if kind == "status":
        return _queue_changed(data)
    prompt_id = data.get("prompt_id")
    if not isinstance(prompt_id, str):
        return None
    if kind == "executing":
        node_id = data.get("display_node") or data.get("node")
        return Ended(prompt_id=prompt_id) if node_id is None else NodeStarted(prompt_id=prompt_id, node_id=str(node_id))
    if kind == "progress":
        return _progressed(prompt_id, data)
    if kind == "executed":
        return _reported(prompt_id, data)
    if kind == "execution_start":
        return Started(prompt_id=prompt_id, at_ms=_stamp(data))
    if kind == "execution_cached":
        nodes = data.get("nodes")
        return Cached(prompt_id=prompt_id, node_ids=tuple(map(str, nodes)) if isinstance(nodes, list) else ())
    return _outcome(kind, prompt_id, data)


def parse_picture(frame: bytes) -> Picture | None:
    """Read a binary frame; only pictures that name their prompt are of use."""
    if len(frame) < 8:
        return None
    kind, length = struct.unpack_from(">II", frame)
    if kind != _PREVIEW_WITH_METADATA or len(frame) < 8 + length:
        return None
    try:
        facts = orjson.loads(frame[8 : 8 + length])
    except orjson.JSONDecodeError:
        return None
    if not isinstance(facts, dict):
        return None
    prompt_id, node_id = facts.get("prompt_id"), facts.get("display_node_id") or facts.get("node_id")
    if not isinstance(prompt_id, str) or not isinstance(node_id, str):
        return None
    mime_type = str(facts.get("image_type") or "")
    return Picture(prompt_id=prompt_id, node_id=node_id, mime_type=mime_type, data=frame[8 + length :])


def _queue_changed(data: Mapping[str, Any]) -> QueueChanged | None:
    try:
        return QueueChanged(remaining=int(data["status"]["exec_info"]["queue_remaining"]))
    except (KeyError, TypeError, ValueError):
        return None


def _progressed(prompt_id: str, data: Mapping[str, Any]) -> NodeProgressed | None:
    value, maximum, node_id = data.get("value"), data.get("max"), data.get("node")
    if not isinstance(value, int | float) or not isinstance(maximum, int | float):
        return None
    return NodeProgressed(
        prompt_id=prompt_id, node_id=None if node_id is None else str(node_id), value=value, maximum=maximum
    )


def _reported(prompt_id: str, data: Mapping[str, Any]) -> Reported | None:
    node_id, output = data.get("node"), data.get("output")
    if not isinstance(node_id, str) or not isinstance(output, dict):
        return None  # a node without outputs of its own tells nothing
    shown_id = str(data.get("display_node") or node_id)
    return Reported(prompt_id=prompt_id, node_id=node_id, shown_id=shown_id, output=output)


def _outcome(kind: object, prompt_id: str, data: Mapping[str, Any]) -> Message | None:
    if kind == "execution_success":
        return Succeeded(prompt_id=prompt_id, at_ms=_stamp(data))
    if kind == "execution_interrupted":
        return Interrupted(prompt_id=prompt_id, node_id=str(data.get("node_id") or ""))
    if kind == "execution_error":
        return Failed(
            prompt_id=prompt_id,
            node_id=str(data.get("node_id") or ""),
            node_type=str(data.get("node_type") or ""),
            exception_type=str(data.get("exception_type") or ""),
            message=str(data.get("exception_message") or "").rstrip("\n"),
            at_ms=_stamp(data),
            traceback=_frames(data.get("traceback")),
        )
    return None


def _frames(listed: object) -> tuple[str, ...]:
    return tuple(frame for frame in listed if isinstance(frame, str)) if isinstance(listed, list) else ()


def _stamp(data: Mapping[str, Any]) -> int | None:
    value = data.get("timestamp")
    return int(value) if isinstance(value, int | float) and math.isfinite(value) else None
