"""A job while it lives: the current snapshot, who waits for it and watches it, the task that works on it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lib.errors import Draining, JobCancelled, ServiceError
from lib.jobs.mailboxes import Mailbox
from lib.jobs.model import Estimate, Job, JobStatus, JobView, OnDisconnect, Preview, Progress
from lib.jobs.requests import request_size
from lib.jobs.transitions import advance

HEAD_START = 1000
"""Changes within a job's first moment that keep its versions below ``last_version``."""


def first_version(moment: datetime) -> int:
    """Where the versions of a job start that lives from this moment on. They grow with the clock, so that they grow
    over a restart of the worker too."""
    return last_version(moment) - HEAD_START


def last_version(moment: datetime) -> int:
    """The version of a job that ended at this moment."""
    return int(moment.timestamp() * 1000)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a waiting job stands; see ``JobView``."""

    position: int
    waiting_count: int
    wait_s: float | None


class LiveJob:
    """Holds the newest snapshot of one job and tells ``publish`` of each change. Used on the event loop only."""

    __slots__ = (
        "_publish",
        "_view",
        "begun",
        "cancel_early",
        "cancel_error",
        "done",
        "ending",
        "forgotten",
        "grace",
        "job",
        "lifetime",
        "mailboxes",
        "orphaned",
        "over",
        "parked",
        "place",
        "recorded",
        "recovered",
        "refused",
        "request_bytes",
        "shown_status",
        "size",
        "task",
        "unasked",
        "version",
        "waiter_count",
        "yields",
    )

    def __init__(self, job: Job, publish: Callable[["LiveJob"], None], *, size: Estimate, version: int) -> None:
        loop = asyncio.get_running_loop()
        self.job = job
        self.size = size
        self.request_bytes = request_size(job.spec)
        """Counted for it as long as it lives."""
        self.version = version
        self._publish = publish
        self._view: JobView | None = None
        self.done: asyncio.Future[Job] = loop.create_future()
        """The terminal snapshot; Draining when the job was parked, the reason when it was refused."""
        self.recorded: asyncio.Future[None] = loop.create_future()
        self.task: asyncio.Task[None] | None = None
        self.mailboxes: list[Mailbox] = []
        self.place: Place | None = None
        self.shown_status: JobStatus | None = None
        """The status of the snapshot that was told last."""
        self.waiter_count = 0
        self.grace: asyncio.TimerHandle | None = None
        self.lifetime: asyncio.TimerHandle | None = None
        """Runs until ``job.expires_at``."""
        self.forgotten = False
        """Its time to live is over: it is there only until it is off the engine and recorded."""
        self.yields = job.spec.low_priority
        """It lets others pass, and has not had its turn yet."""
        self.recovered = False
        """It comes from an earlier life of the worker."""
        self.unasked: frozenset[str] = frozenset()
        """Names of the engines that may have its prompt from then, and could not be asked yet."""
        self.orphaned = False
        """Nobody wants it any more: only its prompt is to be removed."""
        self.begun = False
        self.ending = False
        """Cancelled, and not yet off the engine: nobody may attach any more."""
        self.parked = False
        """Put aside for the worker's next life."""
        self.refused: ServiceError | None = None
        """It could not be recorded, so it never was."""
        self.over = False
        """Its outcome is known and being recorded: too late to cancel."""
        self.cancel_early = False
        self.cancel_error: ServiceError = draining()

    # -- the snapshot ----------------------------------------------------------------------------------------------

    def note(self, **changes: Any) -> Job:
        """Replace fields other than the status; nobody is told until the next change."""
        self.job = self.job.with_(**changes)
        return self.job

    def change(self, **changes: Any) -> Job:
        """Replace fields other than the status, and tell."""
        self.job = self.job.with_(**changes)
        self.tell()
        return self.job

    def advance(self, status: JobStatus, **changes: Any) -> Job:
        """Replace the status (checked) and fields, and tell."""
        self.job = advance(self.job, status, **changes)
        self.tell()
        return self.job

    def progressed(self, progress: Progress) -> None:
        """Take news of a running prompt; the percentage never goes back."""
        if progress.percent >= self.job.progress.percent:
            self.change(progress=progress)

    def previewed(self, preview: Preview) -> None:
        """Put a preview where it was asked for; otherwise it is gone."""
        for mailbox in self.mailboxes:
            if mailbox.previews:
                self.version += 1
                self._view = None
                mailbox.preview = preview
                mailbox.tell()

    def tell(self) -> None:
        """There is a new snapshot."""
        self.version += 1
        self._publish(self)
        self.show()

    def show(self) -> None:
        """There is something new for watchers."""
        self._view = None
        for mailbox in self.mailboxes:
            mailbox.tell()

    @property
    def view(self) -> JobView:
        """What watchers see now, previews aside; the same object until something changes."""
        if self._view is None:
            place = self.place if self.waits else None
            self._view = JobView(
                job=self.job,
                version=self.version,
                position=0 if place is None else place.position,
                waiting_count=0 if place is None else place.waiting_count,
                expected_wait_s=None if place is None else place.wait_s,
            )
        return self._view

    @property
    def closing(self) -> bool:
        """Whether what watchers see next is the last they will."""
        return self.job.status.terminal or self.done.done()

    @property
    def waits(self) -> bool:
        """Whether it stands in the line for an engine."""
        return self.job.status is JobStatus.QUEUED and not self.job.stopping

    # -- its life --------------------------------------------------------------------------------------------------

    @property
    def kept(self) -> bool:
        """Whether it goes on without anybody who waits for it."""
        return self.job.spec.on_disconnect is OnDisconnect.KEEP

    async def is_recorded(self) -> bool:
        """Wait until the store has it; false when the store refused."""
        if not self.recorded.done():
            await asyncio.shield(self.recorded)
        return self.refused is None

    def stay(self) -> None:
        """Somebody is here again, or nobody is needed: no cancellation is due."""
        if self.grace is not None:
            self.grace.cancel()
            self.grace = None

    def cancel(self, error: ServiceError) -> None:
        """End it with ``error``, unless its outcome is known already; the first error counts. That its caller gave it
        up is seen at once."""
        if not self.ending and not self.over:
            self.cancel_error, self.ending = error, True
            if isinstance(error, JobCancelled):
                self.change(stopping=True, message=error.message)
        self._stop()

    def release(self) -> None:
        """It lives no longer: its timers go."""
        self.stay()
        if self.lifetime is not None:
            self.lifetime.cancel()
            self.lifetime = None

    def park(self) -> None:
        """Take it off the engine and leave it to the worker's next life, unless it ends anyway."""
        self.parked = True
        self._stop()

    def refuse(self, error: ServiceError) -> None:
        """Have it never been; who waits is told ``error``."""
        self.refused = error
        self.recorded.set_result(None)
        self.leave(error)
        self._stop()

    def leave(self, error: ServiceError) -> None:
        """It lives no longer and is not over: who waits is told ``error``, who watches sees it as it is."""
        self.done.set_exception(error)
        self.done.exception()  # seen: there may be nobody who waits
        self.version += 1
        self.show()

    def _stop(self) -> None:
        if self.task is None or self.over or self.orphaned:
            return
        if self.begun:
            self.task.cancel()
        else:  # a task that is cancelled before its first step would never run, and never record the outcome
            self.cancel_early = True


def draining() -> Draining:
    """What callers are told of a job that the worker takes no further."""
    return Draining("The worker is shutting down; send the request to another one.", retry_after_s=5)
