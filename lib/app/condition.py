"""Whether this worker takes jobs, and if not, why: the one answer behind admission, probes and reports."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

from lib.clock import Clock

log = logging.getLogger(__name__)
DRAIN = "drain"


class Condition:
    """Starts closed. ``opened`` admits jobs; troubles close it again until they are cleared.

    A *phase* is where the start is ("starting ComfyUI"); a *trouble* is something wrong, by name, and is what the
    autoscaler is told. ``loadtime_s`` is seconds from process start to the first opening, 0.0 before; ``was_ready``
    stays true from then on.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._begun = clock.monotonic()
        self._troubles: dict[str, str] = {}
        self._listeners: list[Callable[[], None]] = []
        self.started_at: datetime = clock.now()
        self.phase = "starting"
        self.open = False
        self.was_ready = False
        self.draining = False
        self.loadtime_s = 0.0
        self.ready = asyncio.Event()

    def listen(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called on each change."""
        self._listeners.append(listener)

    @property
    def reason(self) -> str | None:
        """Why jobs are not taken now; ``None`` when they are."""
        if self._troubles:
            return "; ".join(self._troubles.values())
        return None if self.open else self.phase

    @property
    def starting(self) -> bool:
        """The worker comes up, and nothing is wrong so far."""
        return not self.open and not self._troubles

    @property
    def error(self) -> str:
        """What is wrong, for the autoscaler; empty while all is well or merely starting."""
        return "; ".join(self._troubles.values())

    @property
    def fault(self) -> str:
        """The same without the drain, which is nothing wrong."""
        return "; ".join(text for name, text in self._troubles.items() if name != DRAIN)

    @property
    def uptime_s(self) -> float:
        return self._clock.monotonic() - self._begun

    def enter(self, phase: str) -> None:
        """The start has come to ``phase``."""
        self.phase = phase
        log.info("%s", phase, extra={"event": "worker.phase"})
        self._changed()

    def opened(self) -> None:
        """Engines answer and are warm: jobs may come in."""
        self.open = self.was_ready = True
        self.phase = "ready"
        if not self.loadtime_s:
            self.loadtime_s = self.uptime_s
        self._changed()

    def drain(self) -> None:
        """The worker is going away."""
        self.draining = True
        self._troubles.setdefault(DRAIN, "the worker is shutting down")
        self._changed()

    def trouble(self, name: str, text: str) -> None:
        """Something is wrong; jobs are refused until ``cleared(name)``."""
        if self._troubles.get(name) == text:
            return
        self._troubles[name] = text
        log.error("%s", text, extra={"event": "worker.trouble", "trouble": name})
        self._changed()

    def cleared(self, name: str) -> None:
        """It is well again."""
        if self._troubles.pop(name, None) is not None:
            log.info("recovered", extra={"event": "worker.recovered", "trouble": name})
            self._changed()

    def _changed(self) -> None:
        if self.reason is None:
            self.ready.set()
        else:
            self.ready.clear()
        for listener in self._listeners:
            listener()
