"""What was done for one ComfyUI's health: one log line each, and whoever counts is told. Decides nothing."""

import logging
from collections.abc import Callable

from lib.comfy.ports import CareAction

log = logging.getLogger(__name__)

CareListener = Callable[[CareAction], None]


class CareLog:
    """Tells each action once."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._listeners: list[CareListener] = []

    def on_care(self, listener: CareListener) -> None:
        """Have ``listener(action)`` called, on the event loop, after each action."""
        self._listeners.append(listener)

    def tell(self, action: CareAction, cause: str) -> None:
        """Say what was done and why."""
        facts = {"event": "engine.care", "engine": self._engine, "action": str(action), "cause": cause}
        log.warning("ComfyUI was looked after", extra=facts)
        for listener in tuple(self._listeners):
            listener(action)
