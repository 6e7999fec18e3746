"""What is brought while the worker serves already (``after_start`` of a manifest): begun, and its outcome told."""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

log = logging.getLogger(__name__)


class Bringer(Protocol):
    """Knows what there is to bring, and brings it."""

    def wanted(self, workspace: Path) -> bool:
        """Whether there is anything. Blocks."""
        ...

    async def bring(self, workspace: Path) -> str | None:
        """Bring it, beside the loop; return what went wrong."""
        ...


class AfterStart:
    """One run of it. Nothing depends on the outcome, which ``/health`` tells."""

    def __init__(self, bringer: Bringer | None, *, workspace: Path) -> None:
        self._bringer = bringer
        self._workspace = workspace
        self._state: Mapping[str, Any] | None = None

    def health(self) -> Mapping[str, Any]:
        """What the health document gets: ``after_start`` with ``done``, and ``error`` when something is missing; empty
        where there is nothing to bring."""
        return {} if self._state is None else {"after_start": self._state}

    async def run(self) -> None:
        """Do it to its end."""
        if self._bringer is None or not await asyncio.to_thread(self._bringer.wanted, self._workspace):
            return
        self._state = {"done": False}
        cause = await self._bringer.bring(self._workspace)
        if cause is None:
            self._state = {"done": True}
            log.info("what the manifest brings after the start is there", extra={"event": "after_start.done"})
        else:
            self._state = {"done": True, "error": cause}
            log.error("not all of the manifest could be brought: %s", cause, extra={"event": "after_start.failed"})
