"""Raw messages of ComfyUI's socket for whoever wants them, with callers' own ids where ComfyUI has prompt ids."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from lib.comfy.client import loads
from lib.comfy.messages import kind_of

Named = Callable[[str], str | None]
"""Gives the ``request_id`` of one of our prompts; ``None`` for anybody else's."""


class Tap(Protocol):
    """Hears messages on the event loop, as they come in; must not block."""

    def wants(self, kind: str) -> bool:
        """Whether messages of this type (``progress``) are wanted: others are not even parsed."""
        ...

    def heard(self, kind: str, message: dict[str, Any]) -> None:
        """Take one, ``{"type": ..., "data": {...}}``; it is nobody else's."""
        ...


def pass_on(tap: Tap, frame: str, named: Named) -> None:
    """Give a text frame to ``tap``, if it wants it and it can be read."""
    kind = kind_of(frame)
    if not tap.wants(kind):
        return
    message = loads(frame.encode())
    if isinstance(message, dict) and isinstance(data := message.get("data"), dict):
        _rename(data, named)
        tap.heard(kind, message)


def _rename(data: dict[str, Any], named: Named) -> None:
    """The prompt's id, and that of each node in ``progress_state``; other lists of nodes hold none."""
    nodes = data.get("nodes")
    for part in (data, *(nodes.values() if isinstance(nodes, Mapping) else ())):
        if isinstance(part, dict) and isinstance(prompt_id := part.get("prompt_id"), str):
            part["prompt_id"] = named(prompt_id) or prompt_id
