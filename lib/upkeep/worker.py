"""The clean-up inside the worker: one tick of it, run by ``lib.lifecycle.every`` with a ``CronClock``."""

import asyncio
from collections.abc import Callable, Collection

from lib.clock import Clock, SystemClock
from lib.errors import NotReady
from lib.lifecycle import every
from lib.settings import StorageSettings, UpkeepSettings
from lib.upkeep.retention import Live
from lib.upkeep.sweep import Areas, Limits, Report, sweep


def limits_of(upkeep: UpkeepSettings, storage: StorageSettings) -> Limits:
    return Limits(
        max_age_s=upkeep.max_age_s,
        min_free_bytes=upkeep.min_free_bytes,
        input_quota_bytes=storage.input_cache_bytes,
    )


class Upkeep:
    """``areas`` and ``live`` are asked at each tick, on the event loop; ``live`` names paths that must stay, and knows
    them all when ``run`` is called: jobs of an earlier life of the worker are among them then."""

    def __init__(
        self,
        *,
        limits: Limits,
        areas: Callable[[], Areas],
        live: Callable[[], Collection[str]],
        clock: Clock | None = None,
    ) -> None:
        self._limits = limits
        self._areas = areas
        self._live = live
        self._clock = clock or SystemClock()
        self._informed = False

    async def run(self, schedule: Clock) -> None:
        """Clean up whenever ``schedule`` has slept, for ever."""
        self._informed = True
        await every(0.0, self.tick, name="upkeep", clock=schedule)

    async def tick(self) -> Report:
        areas, live, now_s = self._areas(), Live.of(self._live()), self._clock.now().timestamp()
        return await asyncio.to_thread(sweep, areas, self._limits, live=live, now_s=now_s)

    def answer(self) -> dict[str, object]:
        """What ``GET /internal/live`` answers to the cron process (``lib.upkeep.ask``). Raises: NotReady."""
        if not self._informed:
            raise NotReady("The jobs of an earlier life are not taken up yet.", retry_after_s=5)
        areas = self._areas()
        folders = {"output": areas.outputs, "input": areas.inputs, "temp": areas.temps}
        return {
            "paths": sorted(self._live()),
            "folders": {kind: [str(folder) for folder in found] for kind, found in folders.items()},
        }
