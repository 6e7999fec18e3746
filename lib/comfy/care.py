"""Keeping one ComfyUI in shape between jobs: what memory and the number of jobs ask for, and doing it.

Short memory is answered by ``/free`` first and by a restart then; a restart waits until nothing runs. After so many
jobs it is restarted, or unloaded by ``/free`` where it is not ours to restart, before one more is posted. What is
broken (dead executor, GPU, stuck node) is restarted where it is seen, by ``follow``, ``engine`` and ``link``.
"""

import asyncio
import logging
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from lib.clock import Clock
from lib.comfy.client import ComfyClient
from lib.comfy.link import Fault, Link
from lib.comfy.memory import Reading
from lib.comfy.ports import CareAction, Server
from lib.comfy.session import PromptSession
from lib.errors import EngineUnreachable
from lib.jobs.ports import Withdrawn
from lib.lifecycle import Tasks, every
from lib.settings import EngineSettings

log = logging.getLogger(__name__)

PAUSE_S = 5.0
"""Memory is read after jobs, at most so often."""
TICK_PAUSES = 5
"""And, without jobs, after so many more pauses."""
SETTLE_S = 30.0
"""A ``/free`` has so long to show."""
MEMORY_GUARD_S = 600.0
"""Memory asks for one restart in this time: where restarts don't help, they would be all that still happens."""
OUT_OF_MEMORY_LIMIT = 4
"""So many jobs in a row that ran out of memory, models having been unloaded after each, are ComfyUI's fault."""
COLLECT_S = 600.0
"""What ended is waited for so long to be collected."""
FOREIGN_S = 60.0
"""Prompts of other people are waited for so long; if they go on, the restart is given up."""


class Meter(Protocol):
    """``lib.comfy.memory.Gauge`` is one."""

    def read(self, pid: int | None, *, tree: bool) -> Reading: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What to do now, and why."""

    action: CareAction
    cause: str


class Keeper:
    """Decides, from readings and counts; pure but for what it remembers. Times are a monotonic clock's seconds."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._jobs = 0
        self._out_of_memory = 0
        self._freed_at: float | None = None
        self._guarded_until = self._postponed_until = -math.inf
        self._guard_told = True

    @property
    def wants_tree(self) -> bool:
        """Whether the size of ComfyUI's process matters."""
        return self._settings.max_rss_bytes is not None

    def job_ended(self, *, out_of_memory: bool = False) -> None:
        """Count a prompt that ran."""
        self._jobs += 1
        self._out_of_memory = self._out_of_memory + 1 if out_of_memory else 0

    @property
    def counts(self) -> bool:
        """Whether the number of jobs matters."""
        return self._settings.recycle_after_jobs is not None

    def quota(self, now: float, *, more: int = 0) -> str | None:
        """Say why it is to be renewed, if so many jobs ran that it is, or will be after so many ``more``."""
        limit = self._settings.recycle_after_jobs
        if limit is None or self._jobs + more < limit or now < self._postponed_until:
            return None
        return f"{self._jobs} jobs since its start (COMFYUI_RECYCLE_AFTER_JOBS={limit})"

    def counted_anew(self) -> None:
        """Its models are unloaded, which is as good as it gets where it can't be restarted."""
        self._jobs = 0

    def renewed(self) -> None:
        """It is a new process."""
        self._jobs = self._out_of_memory = 0
        self._freed_at = None

    def recycled(self, now: float) -> None:
        """The restart was made."""
        self.renewed()
        self._guarded_until, self._guard_told = now + MEMORY_GUARD_S, False

    def postponed(self, now: float) -> None:
        """The restart could not be made: ask again later."""
        self._postponed_until, self._freed_at = now + MEMORY_GUARD_S, None

    def step(self, reading: Reading, now: float) -> Step | None:
        """Return what memory asks for."""
        if now < self._postponed_until:
            return None
        cause = self._memory_cause(reading)
        if cause is None:
            self._freed_at = None
        elif not self._guarded(now, cause):
            return self._memory_step(reading, cause, now)
        return None

    def _memory_cause(self, reading: Reading) -> str | None:
        limit, share = self._settings.max_rss_bytes, reading.free_share
        if limit is not None and reading.rss_bytes is not None and reading.rss_bytes > limit:
            return f"its process takes {reading.rss_bytes >> 20} MiB (COMFYUI_MAX_RSS_BYTES={limit})"
        if share is not None and share < self._settings.min_free_memory:
            return f"{share:.1%} of memory is free (COMFYUI_MIN_FREE_MEMORY={self._settings.min_free_memory:g})"
        if self._out_of_memory >= OUT_OF_MEMORY_LIMIT:
            return f"{self._out_of_memory} jobs in a row ran out of memory although models were unloaded after each"
        return None

    def _memory_step(self, reading: Reading, cause: str, now: float) -> Step | None:
        """Where the host is short of memory, unloading models may be enough."""
        share = reading.free_share
        if share is not None and share < self._settings.min_free_memory:
            if self._freed_at is None:
                self._freed_at = now
                return Step(action=CareAction.FREED, cause=cause)
            if now - self._freed_at < SETTLE_S:
                return None
        return Step(action=CareAction.RECYCLED, cause=cause)

    def _guarded(self, now: float, cause: str) -> bool:
        """Whether there was a restart lately, so that memory has to wait for another; says so once."""
        if now >= self._guarded_until:
            return False
        if not self._guard_told:
            self._guard_told = True
            facts = {"event": "engine.care_guarded", "cause": cause, "left_s": round(self._guarded_until - now)}
            log.warning("memory is still short after a restart of ComfyUI; the next one has to wait", extra=facts)
        return True


class Carer:
    """Does what a ``Keeper`` decides, for one ComfyUI. ``uncollected`` are prompts whose history is still needed."""

    def __init__(
        self,
        *,
        link: Link,
        client: ComfyClient,
        server: Server,
        keeper: Keeper,
        meter: Meter,
        clock: Clock,
        tasks: Tasks,
        uncollected: Collection[str],
        pause_s: float = PAUSE_S,
    ) -> None:
        self._link = link
        self._client = client
        self._server = server
        self._keeper = keeper
        self._meter = meter
        self._clock = clock
        self._tasks = tasks
        self._uncollected = uncollected
        self._pause_s = pause_s
        self._generation = server.generation
        self._changed = asyncio.Event()
        self._due = asyncio.Event()
        """Set from the last job before a renewal until that is made, or given up."""
        self._drain: Fault | None = None
        self._held: set[PromptSession] = set()
        link.on_health(lambda _: self._stir())

    @property
    def _full(self) -> bool:
        """Whether as many prompts are with ComfyUI as may come before it is renewed."""
        self._look_for_a_start()
        with_it = len(self._link.sessions)
        if not with_it and not self._due.is_set():
            return False
        return self._keeper.quota(self._clock.monotonic(), more=with_it) is not None

    async def admit(self, session: PromptSession, *, withdraw: asyncio.Event) -> None:
        """Wait until a prompt may be posted: behind the last one before a renewal it would run at once.

        Raises: Withdrawn (it was asked back, or the renewal is under way)."""
        if not self._full:
            return
        watcher = self._tasks.spawn(withdraw.wait(), name="comfy.withdraw")
        watcher.add_done_callback(lambda _: session.wake())
        self._held.add(session)
        try:
            while self._full and self._link.healthy and not withdraw.is_set():
                await session.news(None)
        finally:
            self._held.discard(session)
            watcher.cancel()
        if withdraw.is_set() or self._link.recycling:
            raise Withdrawn

    def left(self, *, ran: bool, out_of_memory: bool) -> None:
        """A prompt is not with ComfyUI any more."""
        self._look_for_a_start()
        if ran:
            self._keeper.job_ended(out_of_memory=out_of_memory)
        cause = self._keeper.quota(self._clock.monotonic())
        if cause is not None and not self._due.is_set():
            self._due.set()
            if self._server.restartable and self._link.healthy:
                self._drain = self._link.drain(cause)
        self._stir()

    def _stir(self) -> None:
        self._changed.set()
        for session in self._held:
            session.wake()

    def _look_for_a_start(self) -> None:
        if self._server.generation != self._generation:
            self._generation = self._server.generation
            self._keeper.renewed()

    def collected(self) -> None:
        """A prompt's outputs were collected, or given up."""
        self._changed.set()

    async def run(self) -> None:
        """Look after it for ever: after jobs, and on a slow tick."""
        async with asyncio.TaskGroup() as group:
            group.create_task(every(self._pause_s, self._round, name="comfy.care", clock=self._clock))
            if self._keeper.counts:
                group.create_task(every(0.0, self._renew, name="comfy.renew", clock=self._clock))

    async def _renew(self) -> None:
        """Once so many jobs ran: have it restarted, or as clean as it gets."""
        await self._due.wait()
        try:
            cause = self._keeper.quota(self._clock.monotonic())
            if cause is None or not (self._link.healthy or self._drain is not None):
                return
            if self._server.restartable:
                await self._recycle(cause, drain=self._drain)
            else:
                await self._link.free(f"{cause}; it is not ours to restart")
                self._keeper.counted_anew()
        finally:
            if self._drain is not None:
                self._link.resume(self._drain)
            self._drain = None
            self._due.clear()
            self._stir()

    async def _round(self) -> None:
        await self._news()
        self._look_for_a_start()
        if not self._link.healthy:
            return
        try:
            reading = await self._reading()
        except EngineUnreachable as error:
            self._link.failed(error)
            return
        step = self._keeper.step(reading, self._clock.monotonic())
        if step is not None and step.action is CareAction.FREED:
            await self._link.free(step.cause)
        elif step is not None:
            await self._recycle(step.cause)

    async def _news(self) -> None:
        """Wait until a prompt left, or for the next tick."""
        try:
            async with asyncio.timeout(TICK_PAUSES * self._pause_s):
                await self._changed.wait()
        except TimeoutError:
            return
        self._changed.clear()

    async def _reading(self) -> Reading:
        """Of a ComfyUI that is not ours only its host's memory is known, by what it tells itself."""
        if self._server.pid is not None:
            return await asyncio.to_thread(self._meter.read, self._server.pid, tree=self._keeper.wants_tree)
        system = (await self._client.system_stats()).get("system")
        total, free = (system.get("ram_total"), system.get("ram_free")) if isinstance(system, dict) else (None, None)
        if not isinstance(total, int) or not isinstance(free, int) or total <= 0:
            return Reading()
        return Reading(free_share=free / total)

    async def _recycle(self, cause: str, *, drain: Fault | None = None) -> None:
        """Take no more prompts (as with ``drain`` already), let what runs end, restart. Nothing that runs is ever
        stopped for this."""
        if not self._server.restartable:
            self._postpone(cause, "it is not ours to restart; set COMFYUI_RESTART_CMD or restart it by hand")
            return
        if drain is None or not self._link.holds(drain):
            drain = self._link.drain(cause)
        try:
            idle = await self._idle()
            if self._link.holds(drain):
                if idle and await self._link.restart(cause, action=CareAction.RECYCLED):
                    self._keeper.recycled(self._clock.monotonic())
                else:
                    self._postpone(cause, "somebody else's prompts run there" if not idle else "the restart failed")
        finally:
            self._link.resume(drain)

    def _postpone(self, cause: str, why_not: str) -> None:
        self._keeper.postponed(self._clock.monotonic())
        facts = {"event": "engine.care_postponed", "cause": cause, "why_not": why_not}
        log.warning("ComfyUI should be restarted and is not", extra=facts)

    async def _idle(self) -> bool:
        """Wait until ComfyUI has nothing to do; false = it goes on, for others."""
        while self._link.sessions:
            await self._news()
        ended_at = self._clock.monotonic()
        while self._uncollected and self._clock.monotonic() < ended_at + COLLECT_S:
            await self._news()
        try:
            async with asyncio.timeout(FOREIGN_S):
                await self._link.empty.wait()
        except TimeoutError:
            pass  # a deaf socket tells nothing either
        try:
            return await self._client.remaining() == 0
        except EngineUnreachable as error:
            self._link.failed(error)
            return False
