"""A job while it lives: the current snapshot, who waits for it, the task that works on it."""

import asyncio
from collections.abc import Callable
from typing import Any

from lib.errors import JobCancelled, ServiceError
from lib.jobs.model import Job, JobStatus, Progress
from lib.jobs.transitions import advance


class LiveJob:
    """Holds the newest snapshot of one job and tells ``publish`` of each change. Used on the event loop only."""

    __slots__ = (
        "_publish",
        "begun",
        "cancel_early",
        "cancel_error",
        "done",
        "ending",
        "grace",
        "job",
        "task",
        "waiter_count",
    )

    def __init__(self, job: Job, publish: Callable[[Job], None]) -> None:
        self.job = job
        self._publish = publish
        self.done: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        self.waiter_count = 0
        self.grace: asyncio.TimerHandle | None = None
        self.begun = False
        self.ending = False
        """Cancelled, and not yet off the engine: nobody may attach any more."""
        self.cancel_early = False
        self.cancel_error: ServiceError = JobCancelled("Request cancelled")

    def change(self, **changes: Any) -> Job:
        """Replace fields other than the status."""
        self.job = self.job.with_(**changes)
        self._publish(self.job)
        return self.job

    def advance(self, status: JobStatus, **changes: Any) -> Job:
        """Replace the status (checked) and fields."""
        self.job = advance(self.job, status, **changes)
        self._publish(self.job)
        return self.job

    def progressed(self, progress: Progress) -> None:
        """Take news of a running prompt; the percentage never goes back."""
        if progress.percent >= self.job.progress.percent:
            self.change(progress=progress)
