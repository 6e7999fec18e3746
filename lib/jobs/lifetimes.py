"""The ends of jobs that live for a limited time: one timer for each, nothing is polled."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

from lib.clock import Clock
from lib.errors import JobCancelled, ServiceError
from lib.jobs.live import LiveJob

OUTLIVED = "The job's time to live is over."


class Lifetimes:
    """Cancels jobs whose time is over. Until they are off the engine they are there, but not to be found."""

    def __init__(self, *, clock: Clock, cancel: Callable[[LiveJob, ServiceError], None]) -> None:
        self._clock = clock
        self._cancel = cancel

    def begin(self, live: LiveJob) -> None:
        """Start the timer of a job that is at work, if its time is limited; its acceptance may be long ago."""
        job = live.job
        if job.expires_at is None:
            return
        whole_s = (job.expires_at - job.timings.accepted_at).total_seconds()
        left_s = (job.expires_at - self._clock.now()).total_seconds()
        if left_s > 0:
            self._end_in(live, min(left_s, whole_s))  # the clock may have been set back
        else:
            self._end(live)

    def shorten(self, live: LiveJob, ttl_s: float) -> None:
        """Have it end so many seconds from now at the latest."""
        if live.lifetime is not None and live.lifetime.when() <= asyncio.get_running_loop().time() + ttl_s:
            return
        live.change(expires_at=self._clock.now() + timedelta(seconds=ttl_s))
        self._end_in(live, ttl_s)

    def _end_in(self, live: LiveJob, seconds: float) -> None:
        if live.lifetime is not None:
            live.lifetime.cancel()
        live.lifetime = asyncio.get_running_loop().call_later(max(seconds, 0.0), self._end, live)

    def _end(self, live: LiveJob) -> None:
        live.forgotten = True
        self._cancel(live, JobCancelled(OUTLIVED))
