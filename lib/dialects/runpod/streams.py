"""What each job's readers were told by ``/stream``: every piece once, progress not too often, the end as a whole.

RunPod's JavaScript and Go clients ask again without a pause: a request that has nothing to tell is held. What was told
is the worker's memory, bounded; a job that fell out of it tells its end once more.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

from lib.clock import Clock
from lib.dialects.runpod.render import progress, shown
from lib.jobs.model import Job, Progress
from lib.jobs.service import JobService

MOST_JOBS = 10_000
"""About 200 bytes each."""
EARLY_S = 0.001
"""Timers may go off so much too early."""


@dataclass(slots=True)
class _Told:
    progress: Progress | None = None
    at: float = 0.0
    ended: bool = False


class Streams:
    """Says what is new of a job. ``interval_s``: shortest time between two pieces of its progress."""

    def __init__(self, *, jobs: JobService, clock: Clock, interval_s: float, most_jobs: int = MOST_JOBS) -> None:
        self._jobs = jobs
        self._clock = clock
        self._interval_s = interval_s
        self._most_jobs = most_jobs
        self._told: OrderedDict[str, _Told] = OrderedDict()

    async def news(self, job: Job, wait_s: float) -> Job:
        """Return the job once it is over or there is progress to tell, or as it is after ``wait_s`` seconds.

        Raises: JobNotFound."""
        try:
            async with asyncio.timeout(wait_s), aclosing(self._jobs.watch(job.job_id)) as views:
                async for view in views:
                    job = view.job
                    if shown(job).final:
                        return job
                    if self._is_news(job):
                        return await self._in_time(job)
                await self._clock.sleep(wait_s)  # it is not taken up yet, so nothing happens to it
        except TimeoutError:
            pass
        return job

    def take(self, job: Job) -> dict[str, Any] | None:
        """Return the progress that was not told yet, told from now on."""
        told = self._of(job)
        if not self._is_news(job) or self._pause_s(told) > 0:
            return None
        told.progress, told.at = job.progress, self._clock.monotonic()
        return progress(job)

    @contextmanager
    def ending(self, job: Job) -> Iterator[bool]:
        """Yield whether the end of a job is still to be told. Who is told that and fails leaves it to the next one."""
        told = self._of(job)
        with ExitStack() as undo:
            if first := not told.ended:
                told.ended = True
                undo.callback(setattr, told, "ended", False)
            yield first
            undo.pop_all()

    async def _in_time(self, job: Job) -> Job:
        pause_s = self._pause_s(self._of(job))
        return await self._jobs.wait_for(job.job_id, pause_s) if pause_s > 0 else job

    def _is_news(self, job: Job) -> bool:
        told = self._told.get(job.job_id)
        return progress(job) is not None and (told is None or told.progress != job.progress)

    def _pause_s(self, told: _Told) -> float:
        if told.progress is None:
            return 0.0
        left_s = self._interval_s - (self._clock.monotonic() - told.at)
        return left_s if left_s > EARLY_S else 0.0

    def _of(self, job: Job) -> _Told:
        told = self._told.setdefault(job.job_id, _Told())
        self._told.move_to_end(job.job_id)
        while len(self._told) > self._most_jobs:
            self._told.popitem(last=False)
        return told
