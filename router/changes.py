"""What happens in the router, told to who shows or counts it: the page, the metrics, the relay, the scaling."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class ChangeKind(StrEnum):
    """What kind of thing changed."""

    WORKER = "worker"
    """A worker reported, or we think otherwise of it."""
    GONE = "gone"
    WAITING = "waiting"
    ASSIGNED = "assigned"
    SETTLED = "settled"
    ENDPOINTS = "endpoints"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change; ids are "" where they say nothing."""

    kind: ChangeKind
    endpoint: str = ""
    worker: str = ""
    request_id: str = ""


Listener = Callable[[Change], None]


class Changes:
    """Fan-out without memory. Listeners must be quick, and may not fail."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell this one from now on; call the answer to stop."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def tell(self, change: Change) -> None:
        """Tell everybody."""
        for listener in tuple(self._listeners):
            listener(change)
