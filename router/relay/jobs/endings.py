"""Waits for ends of jobs, whichever router brings them about: by their news, and rarely by looking."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from lib.clock import Clock
from router.ports import RelayJob

LOOK_S = 10.0
"""News may be lost with a store that fails; so often who waits looks for himself."""


class Endings:
    """Who waits for which job."""

    def __init__(self, get: Callable[[str], Awaitable[RelayJob | None]], *, clock: Clock) -> None:
        self._get = get
        self._clock = clock
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def tell(self, job_id: str) -> None:
        """Something happened to this job."""
        for event in self._waiting.get(job_id, ()):
            event.set()

    def tell_all(self) -> None:
        """Something may have happened to any job."""
        for job_id in tuple(self._waiting):
            self.tell(job_id)

    async def of(self, job: RelayJob, wait_s: float, *, or_begun: bool = False) -> RelayJob:
        """The job when it is over (or is to be cancelled, or a worker has it), or as it is after ``wait_s``."""
        until, event = self._clock.monotonic() + wait_s, asyncio.Event()
        events = self._waiting.setdefault(job.job_id, set())
        events.add(event)
        try:
            while True:
                event.clear()
                job = await self._get(job.job_id) or job
                left_s = until - self._clock.monotonic()
                if job.state.over or job.cancel_wanted or left_s <= 0 or (or_begun and job.remote_id):
                    return job
                job = replace(job, body=b"")
                await self._either(event, min(left_s, LOOK_S))
        finally:
            events.discard(event)
            if not events and self._waiting.get(job.job_id) is events:
                del self._waiting[job.job_id]

    async def _either(self, event: asyncio.Event, delay_s: float) -> None:
        async with asyncio.TaskGroup() as group:
            either = {group.create_task(event.wait()), group.create_task(self._clock.sleep(delay_s))}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            for task in either:
                task.cancel()
