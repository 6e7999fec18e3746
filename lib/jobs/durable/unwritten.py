"""What the store knows and the file does not yet: news that may wait a moment, and ends that the disk refused."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from lib.errors import StorageFailed
from lib.jobs.durable import queries
from lib.jobs.durable.rows import Rows, is_bulky
from lib.jobs.durable.threads import Writer
from lib.jobs.model import Job, OutboxItem

log = logging.getLogger(__name__)

LAZY_S = 0.02
"""News of a job is written so much later: jobs that are shorter need no write for it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Snapshot:
    """The newest state of a job, with its messages; ``finished_at`` (store time) if it is the last."""

    job: Job
    outbox: tuple[OutboxItem, ...]
    finished_at: int | None = None


class Unwritten:
    """Hands jobs to the writer, the newest state of each, and keeps what did not get through until it does.

    While ``trouble`` lasts, a probe every ``retry_s`` seconds finds out when it is over; ``listeners`` are told.
    """

    def __init__(
        self,
        writer: Writer,
        rows: Rows,
        *,
        retry_s: float,
        bulky: set[int],
        listeners: Sequence[Callable[[str | None], None]],
    ) -> None:
        self._writer = writer
        self._rows = rows
        self._retry_s = retry_s
        self._bulky = bulky
        self._listeners = listeners
        self._snapshots: dict[str, _Snapshot] = {}
        self._idle: dict[str, float] = {}
        """Jobs among them that the writer does not have yet, the longest waiting first: since when (event loop's time),
        0 for what was refused."""
        self._stray: tuple[OutboxItem, ...] = ()
        """Messages of a state that was refused, and is not the newest any more."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.trouble: str | None = None
        writer.on_trouble = self._troubled

    def newest(self, job_id: str) -> Job | None:
        """The state of a job that is not in the file yet."""
        snapshot = self._snapshots.get(job_id)
        return None if snapshot is None else snapshot.job

    def begin(self, job: Job) -> asyncio.Future[None]:
        """Write a new job. The future has StorageFailed when that did not work."""
        bulky = is_bulky(job)
        if bulky:
            self._bulky.add(job.sequence)
        return self._writer.submit(lambda db: self._rows.insert(db, job), single=not bulky)

    def news(self, job: Job, outbox: tuple[OutboxItem, ...]) -> None:
        """Write a job's state soon, unless a newer one comes first."""
        known = self._snapshots.get(job.job_id)
        if known is not None and known.finished_at is not None:
            return
        self._snapshots[job.job_id] = _Snapshot(job=job, outbox=self._taken_over(job) + outbox)
        self._idle.setdefault(job.job_id, asyncio.get_running_loop().time())
        self._flush_later()

    def end(self, job: Job, outbox: tuple[OutboxItem, ...], *, at: int) -> asyncio.Future[None]:
        """Write a job's last state. When the future fails with StorageFailed it is kept, and written later."""
        last = _Snapshot(job=job, outbox=self._taken_over(job) + outbox, finished_at=at)
        self._snapshots[job.job_id] = last
        self._idle.pop(job.job_id, None)
        return self._write(last)

    def flush(self) -> None:
        """Hand the writer everything that waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for job_id in tuple(self._idle):
            self.hand_over(job_id)
        self._write_stray()

    def flush_job(self, job_id: str) -> None:
        """Hand the writer what waits of one job."""
        if job_id in self._idle:
            self.hand_over(job_id)

    def flush_messages(self) -> None:
        """Hand the writer the messages that wait, with the states that they come with."""
        for job_id in [job_id for job_id in self._idle if self._snapshots[job_id].outbox]:
            self.hand_over(job_id)
        self._write_stray()

    def hand_over(self, job_id: str) -> asyncio.Future[None]:
        """Hand the writer the newest state of a job that waits."""
        self._idle.pop(job_id, None)
        return self._write(self._snapshots[job_id])

    def _write_stray(self) -> None:
        stray, self._stray = self._stray, ()
        if stray:
            written = self._writer.submit(lambda db: self._rows.add_messages(db, stray))
            written.add_done_callback(partial(self._stray_written, stray))

    def close(self) -> None:
        """Hand the writer everything, for the last time."""
        self._closed = True
        self.flush()

    def _taken_over(self, job: Job) -> tuple[OutboxItem, ...]:
        """Messages of an earlier state, which will not be written."""
        return self._snapshots[job.job_id].outbox if job.job_id in self._idle else ()

    def _write(self, snapshot: _Snapshot) -> asyncio.Future[None]:
        job, at = snapshot.job, snapshot.finished_at
        bulky = job.sequence in self._bulky

        def write(db: sqlite3.Connection) -> None:
            if at is None:
                self._rows.update(db, job)
            else:
                self._rows.finish(db, job, at=at, bulky=bulky)
            self._rows.add_messages(db, snapshot.outbox)

        single = not snapshot.outbox and (at is None or not bulky)
        written = self._writer.submit(write, single=single)
        written.add_done_callback(partial(self._written, snapshot))
        return written

    def _written(self, snapshot: _Snapshot, done: asyncio.Future[None]) -> None:
        job, error = snapshot.job, done.exception()
        is_newest = self._snapshots.get(job.job_id) is snapshot
        if isinstance(error, StorageFailed):
            self._kept(snapshot, error, is_newest=is_newest)
            return
        if error is not None:
            log.error("a job can't be stored", extra={"event": "store.refused", "job_id": job.job_id}, exc_info=error)
        if is_newest:
            del self._snapshots[job.job_id]
        if snapshot.finished_at is not None:
            self._bulky.discard(job.sequence)

    def _kept(self, snapshot: _Snapshot, error: StorageFailed, *, is_newest: bool) -> None:
        if is_newest:
            self._idle[snapshot.job.job_id] = 0.0
        else:
            self._stray += snapshot.outbox
        if self._closed or snapshot.finished_at is not None:
            log.error(
                "a job's end is lost with this process" if self._closed else "a job's end is kept in memory for now",
                extra={"event": "store.unwritten", "job_id": snapshot.job.job_id, "error": error.message},
            )
        self._flush_later(self._retry_s)

    def _stray_written(self, stray: tuple[OutboxItem, ...], done: asyncio.Future[None]) -> None:
        if done.exception() is not None:
            self._stray += stray
            self._flush_later(self._retry_s)

    def _flush_later(self, delay_s: float = LAZY_S) -> None:
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self.trouble is None:
            self._flush_old()
        else:
            self._writer.submit(queries.probe).add_done_callback(self._probed)

    def _flush_old(self) -> None:
        """Hand the writer what has waited for long enough."""
        now = asyncio.get_running_loop().time()
        for job_id in [job_id for job_id, since in self._idle.items() if since + LAZY_S <= now]:
            self.hand_over(job_id)
        self._write_stray()
        if self._idle:
            self._flush_later(next(iter(self._idle.values())) + LAZY_S - now)

    # -- trouble -------------------------------------------------------------------------------------------------------

    def _troubled(self, trouble: str) -> None:
        if self.trouble is None:
            log.error("the job store can't write", extra={"event": "store.trouble", "trouble": trouble})
        if self.trouble != trouble:
            self._tell(trouble)
        self._flush_later(self._retry_s)

    def _probed(self, done: asyncio.Future[None]) -> None:
        if done.exception() is not None:
            self._flush_later(self._retry_s)
            return
        log.info("the job store writes again", extra={"event": "store.recovered", "late": len(self._snapshots)})
        self._tell(None)
        if not self._closed:
            self.flush()

    def _tell(self, trouble: str | None) -> None:
        self.trouble = trouble
        for listener in self._listeners:
            listener(trouble)
