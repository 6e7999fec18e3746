"""Deleting history entries that were harvested, many with one call: ComfyUI keeps whole graphs in memory otherwise."""

import asyncio
import logging

from lib.comfy.client import ComfyClient
from lib.errors import EngineUnreachable
from lib.lifecycle import Tasks

log = logging.getLogger(__name__)

BATCH = 16
DELAY_S = 1.0
CLOSE_S = 1.0


class Forgetter:
    """Collects prompt ids and deletes their entries when ``BATCH`` wait, or after ``DELAY_S`` seconds."""

    def __init__(self, client: ComfyClient, tasks: Tasks) -> None:
        self._client = client
        self._tasks = tasks
        self._waiting: list[str] = []
        self._full = asyncio.Event()
        self._busy = False

    def add(self, prompt_id: str) -> None:
        self._waiting.append(prompt_id)
        if len(self._waiting) >= BATCH:
            self._full.set()
        if not self._busy:
            self._busy = True
            self._tasks.spawn(self._drain(), name="comfy.forget")

    async def flush(self) -> None:
        """Delete what waits now. An entry that can't be deleted stays; ComfyUI drops the oldest of 10,000 itself."""
        ids, self._waiting = self._waiting, []
        self._full.clear()
        try:
            if ids:
                await self._client.forget(ids)
        except EngineUnreachable as error:
            log.debug("history was not deleted", extra={"event": "engine.forget_failed", "cause": error.message})

    async def close(self) -> None:
        """Delete what waits, if ComfyUI takes that within a second."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.flush()
        except TimeoutError:
            log.debug("history was not deleted", extra={"event": "engine.forget_failed"})

    async def _drain(self) -> None:
        try:
            while self._waiting:
                try:
                    async with asyncio.timeout(DELAY_S):
                        await self._full.wait()
                except TimeoutError:
                    pass
                await self.flush()
        finally:
            self._busy = False
