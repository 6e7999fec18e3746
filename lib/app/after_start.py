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

    def __init__(self, bringer: Bringer, *, workspace: Path) -> None:
        self._bringer = bringer
        self._workspace = workspace
        self._state: Mapping[str, str] | None = None

    def health(self) -> Mapping[str, Any]:
        """What the health document gets: nothing where there is nothing to bring."""
        return {} if self._state is None else {"after_start": self._state}

    async def run(self) -> None:
        """Do it to its end."""
        if not await asyncio.to_thread(self._bringer.wanted, self._workspace):
            return
        self._state = {"status": "running"}
        cause = await self._bringer.bring(self._workspace)
        if cause is None:
            self._state = {"status": "done"}
            log.info("what the manifest brings after the start is there", extra={"event": "after_start.done"})
        else:
            self._state = {"status": "failed", "error": cause}
            log.error("not all of the manifest could be brought: %s", cause, extra={"event": "after_start.failed"})
