"""Keeps engines' catalogues up to date with the models that come in: read anew soon after, for many changes once."""

import logging
from collections.abc import Sequence
from typing import Protocol

from lib.errors import EngineUnreachable
from lib.lifecycle import Tasks

log = logging.getLogger(__name__)


class Learner(Protocol):
    """What can be told to read its catalogue anew; ``lib.comfy.engine.ComfyEngine`` is one."""

    @property
    def name(self) -> str: ...

    @property
    def healthy(self) -> bool: ...

    async def relearn(self) -> None: ...


class Relearning:
    """ComfyUI itself takes a new model at once; only what we tell of it (choices, the nearest name) would be old."""

    def __init__(self, engines: Sequence[Learner], *, tasks: Tasks) -> None:
        self._engines = tuple(engines)
        self._tasks = tasks
        self._wanted = False
        self._running = False

    def changed(self) -> None:
        """There is another model."""
        self._wanted = True
        if not self._running:
            self._running = True
            self._tasks.spawn(self._run(), name="comfy.relearn")

    async def _run(self) -> None:
        try:
            while self._wanted:
                self._wanted = False
                for engine in self._engines:
                    await self._relearn(engine)
        finally:
            self._running = False

    async def _relearn(self, engine: Learner) -> None:
        if not engine.healthy:  # it learns when it comes back
            return
        try:
            await engine.relearn()
        except (EngineUnreachable, ValueError) as error:
            log.info(
                "catalogue not read anew", extra={"event": "catalog.stale", "engine": engine.name, "cause": str(error)}
            )
