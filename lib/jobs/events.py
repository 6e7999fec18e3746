"""Who watches which job: each watcher pulls the newest view when it is ready for one, so nothing queues up.

Positions in the line are computed for all watchers in one pass, when the line moved, at most every ``interval_s``.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import replace
from operator import attrgetter

from lib.jobs.ahead import Ahead
from lib.jobs.live import LiveJob, Place, last_version
from lib.jobs.mailboxes import Handing, Mailbox, Reader
from lib.jobs.model import Job, JobStatus, JobView, Stage

REFRESH_S = 5.0
"""While somebody watches a job that waits, its expected wait is looked at again so often, moved or not."""
WORTH_TELLING_S = 1.0
"""An expected wait that changed by less is no news."""


class Watchers:
    """All watchers of all live jobs. ``line`` gives the jobs that are not finished."""

    def __init__(self, *, line: Callable[[], Iterable[LiveJob]], ahead: Ahead, interval_s: float) -> None:
        self._line = line
        self._ahead = ahead
        self._interval_s = interval_s
        self._handing = Handing()
        self._count = 0
        self._waiting_count = 0
        self._passed_at = -interval_s
        self._timer: asyncio.TimerHandle | None = None

    @property
    def count(self) -> int:
        return self._count

    async def watch(
        self, live: LiveJob, *, previews: bool, reader: Reader | None = None
    ) -> AsyncGenerator[JobView, None]:
        """Yield the newest view, then each change that the reader is in time for, the last one always. What a
        ``reader`` takes is not yielded."""
        mailbox = Mailbox(
            previews=previews, handing=self._handing, newest=lambda: None if live.closing else live.view, reader=reader
        )
        live.mailboxes.append(mailbox)
        self._count += 1
        self._find_place(live)
        try:
            while True:
                await mailbox.news()
                view, preview = live.view, mailbox.preview
                mailbox.preview = None
                yield view if preview is None else replace(view, preview=preview)
                if view.job.status.terminal or (live.done.done() and live.view is view):
                    return
        finally:
            live.mailboxes.remove(mailbox)
            self._count -= 1
            if not self._count and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def moved(self) -> None:
        """A job came into the line, went, or started."""
        if self._count:
            self._pass_in(self._interval_s)

    def _find_place(self, live: LiveJob) -> None:
        if not live.waits:
            return
        if asyncio.get_running_loop().time() - self._passed_at >= self._interval_s:
            self._pass()
            return
        if live.place is None:  # it came after the last pass, so behind all that were there
            self._waiting_count += 1
            live.place = Place(self._waiting_count, self._waiting_count, live.job.expected_wait_s)
        self._pass_in(self._interval_s)

    def _pass_in(self, interval_s: float) -> None:
        loop = asyncio.get_running_loop()
        at = max(self._passed_at + interval_s, loop.time())
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at, self._pass)

    def _pass(self) -> None:
        """Give every waiting job its place, and tell who watches one whose place is another now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._passed_at = asyncio.get_running_loop().time()
        jobs = list(self._line())
        waiting = [live for live in jobs if live.waits]
        waiting.sort(key=attrgetter("job.spec.low_priority", "job.sequence"))
        self._waiting_count = len(waiting)
        waits = self._ahead.waits_s((live.size for live in jobs if _runs(live.job)), (live.size for live in waiting))
        watched = False
        for position, (live, wait_s) in enumerate(zip(waiting, waits, strict=True), start=1):
            before, live.place = live.place, Place(position, len(waiting), wait_s)
            if live.mailboxes:
                watched = True
                if _differ(before, live.place):
                    live.version += 1
                    live.show()
                else:
                    live.place = before
        if watched:
            self._pass_in(max(REFRESH_S, self._interval_s))


def _runs(job: Job) -> bool:
    return job.status is JobStatus.RUNNING and job.stage is not Stage.DELIVER


def _differ(before: Place | None, now: Place) -> bool:
    if before is None or (before.position, before.waiting_count) != (now.position, now.waiting_count):
        return True
    if before.wait_s is None or now.wait_s is None:
        return before.wait_s is not now.wait_s
    return abs(before.wait_s - now.wait_s) >= WORTH_TELLING_S


def last_view(job: Job) -> JobView:
    """The one view of a job that nobody works on."""
    moment = job.timings.finished_at or job.timings.accepted_at
    return JobView(job=job, version=last_version(moment))
