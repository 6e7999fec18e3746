"""The durable job store: SQLite in the state folder. What ``add`` and ``finish`` acknowledged survives the process.

Why it is quick: operations that arrive while a transaction runs share the next one, and the log is not synced at each
commit (``synchronous = NORMAL``: a crash of the process loses nothing, one of the machine the last moments).
"""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

from lib.clock import Clock
from lib.errors import StorageFailed
from lib.jobs.codec import CodecError
from lib.jobs.durable import queries
from lib.jobs.durable.database import Connect, connect, open_database
from lib.jobs.durable.outbox import SqliteOutbox
from lib.jobs.durable.rows import SLIM, VISIBLE, WHOLE, Rows, Seen
from lib.jobs.durable.threads import Reader, Writer
from lib.jobs.durable.unwritten import Unwritten
from lib.jobs.model import Idempotency, Job, JobFilter, OutboxItem
from lib.jobs.requests import is_repeatable, remains, without_request
from lib.jobs.retention import SECOND, Retention, StoreTime
from lib.storage.vault import Vault


class SqliteJobStore(SqliteOutbox):
    """Implements the ports ``JobStore`` and ``Outbox``; an async context manager.

    Entering raises StorageFailed, with what to do: the folder can't be used, or another worker has it. When the disk
    is full or broken, ``trouble`` says so in words until a probe (every ``retry_s``) succeeds, and listeners of
    ``on_trouble`` are told: ``add`` raises StorageFailed meanwhile, ``finish`` returns and writes later.
    """

    vault: Vault
    """For further keys (``derive``); there once the store is entered."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock,
        retention: Retention,
        retry_s: float = 1.0,
        connect: Connect = connect,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._retention = retention
        self._retry_s = retry_s
        self._connect = connect
        self._listeners: list[Callable[[str | None], None]] = []
        self._seen = Seen()
        self._last_sequence = 0
        self._finished_at = 0
        """Store time of the newest end; each job has its own, so that it is an order."""

    async def __aenter__(self) -> Self:
        self._time = StoreTime(self._clock)
        now = self._clock.now()
        self._database = await asyncio.to_thread(open_database, self._folder, now=now, connect=self._connect)
        self.vault = self._database.vault
        self._rows = Rows(self.vault, self._time)
        try:
            bulky = await asyncio.to_thread(self._load)
        except sqlite3.Error as error:
            await asyncio.to_thread(self._database.close)
            raise StorageFailed(f"STATE_DIR={self._folder}: the job store can't be used: {error}.") from error
        self._writer = Writer(self._database.writing)
        self._reader = Reader(self._database.reading)
        self._unwritten = Unwritten(
            self._writer, self._rows, retry_s=self._retry_s, bulky=bulky, listeners=self._listeners
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._unwritten.close()
        await self._writer.close()
        await self._reader.close()
        await asyncio.to_thread(self._database.close)

    @property
    def trouble(self) -> str | None:
        """What keeps the store from writing, in words; ``None`` when all is well."""
        return self._unwritten.trouble

    @property
    def healthy(self) -> bool:
        return self.trouble is None

    def on_trouble(self, listener: Callable[[str | None], None]) -> None:
        """Have ``listener`` called, on the event loop, with what is wrong, and with ``None`` when it is over."""
        self._listeners.append(listener)

    def on_commit(self, listener: Callable[[float], None]) -> None:
        """Have ``listener`` called, on the event loop, with the seconds that each transaction took."""
        self._writer.on_commit = listener

    def _hand_over(self) -> None:
        self._unwritten.flush_messages()

    # -- writing -------------------------------------------------------------------------------------------------------

    async def add(self, job: Job) -> None:
        """Raises StorageFailed. An ``add`` that is cancelled leaves no job behind."""
        self._see(job)
        written = self._unwritten.begin(job)
        try:
            await written
        except asyncio.CancelledError:
            with suppress(StorageFailed):  # closed: it was done before, or never will be
                self._writer.submit(queries.withdrawal(job.job_id))
            raise

    def update(self, job: Job, outbox: tuple[OutboxItem, ...] = ()) -> None:
        self._unwritten.news(job, outbox)

    async def write(self, job: Job) -> None:
        """Write the state; returns also when that can't be done now, and tries on, as ``finish``."""
        self._unwritten.news(job, ())
        with suppress(StorageFailed, CodecError):  # logged where it is kept for later
            await asyncio.shield(self._unwritten.hand_over(job.job_id))

    async def finish(self, job: Job, outbox: tuple[OutboxItem, ...] = ()) -> None:
        """Write the terminal state; returns also when that can't be done now, and tries on until it works."""
        self._see(job)  # it may never have been added
        self._finished_at = max(self._time.now(), self._finished_at + 1)
        written = self._unwritten.end(remains(job), outbox, at=self._finished_at)
        with suppress(StorageFailed, CodecError):  # logged where it is kept for later
            await asyncio.shield(written)

    async def shorten(self, job_id: str, ttl_s: float) -> Job | None:
        """Raises StorageFailed."""
        self._unwritten.flush_job(job_id)
        at, horizon = self._time.now() + round(ttl_s * SECOND), self._horizon()
        return await self._writer.submit(lambda db: self._rows.shorten(db, job_id, at=at, horizon=horizon))

    def _see(self, job: Job) -> None:
        self._seen.add(self._rows.named(job.spec.request_id, job.spec.owner))
        if job.spec.idempotency is not None:
            self._seen.add(self._rows.keyed(job.spec.idempotency))
        self._last_sequence = max(self._last_sequence, job.sequence)

    # -- reading -------------------------------------------------------------------------------------------------------

    async def get(self, job_id: str) -> Job | None:
        unwritten = self._unwritten.newest(job_id)
        if unwritten is not None and unwritten.expires_at is None and not is_repeatable(unwritten):
            return unwritten
        return await self._one(f"{WHOLE} WHERE j.job_id = ? AND {VISIBLE}", job_id, *self._horizon())

    async def latest(self, request_id: str, *, owner: str = "") -> Job | None:
        """The newest run of a request id of this owner's."""
        named = self._rows.named(request_id, owner)
        if named not in self._seen:
            return None
        query = f"{WHOLE} WHERE j.named = ? AND {VISIBLE} ORDER BY j.sequence DESC LIMIT 1"
        return await self._one(query, named, *self._horizon())

    async def run_number(self, request_id: str, *, owner: str = "") -> int:
        """Which run of this request id a new job would be, from 1. Runs whose files went to a storage are remembered
        a week longer than their result, others as long as it."""
        named = self._rows.named(request_id, owner)
        if named not in self._seen:
            return 1
        return await self._reader.read(lambda db: queries.last_run(db, named)) + 1

    async def keyed(self, key: Idempotency) -> Job | None:
        """The job that was accepted under an idempotency key and did not end longer ago than keys are remembered."""
        keyed = self._rows.keyed(key)
        if keyed not in self._seen:
            return None
        oldest = self._time.now() - round(self._retention.idempotency_ttl_s * SECOND)
        query = f"{WHOLE} WHERE j.keyed = ? AND {VISIBLE} ORDER BY j.sequence DESC LIMIT 1"
        return await self._one(query, keyed, oldest, oldest, self._time.now())

    async def listed(self, asked: JobFilter) -> list[Job]:
        """Jobs that fit, newest first, without workflow and response."""
        where, values = queries.conditions(asked)
        query = f"{SLIM} WHERE {where} AND {VISIBLE} ORDER BY j.sequence DESC LIMIT ?"
        found = await self._many(query, *values, *self._horizon(), asked.limit)
        newest = [without_request(self._newest(job)).with_(response={}) for job in found]
        return [job for job in newest if not asked.statuses or job.status in asked.statuses]

    async def unfinished(self) -> list[Job]:
        """Jobs that are not over, in the order of acceptance, complete with workflow and secrets."""
        return await self._many(f"{WHOLE} WHERE j.finished_at IS NULL ORDER BY j.sequence")

    async def last_sequence(self) -> int:
        """The highest ``Job.sequence`` ever recorded, 0 for none."""
        return self._last_sequence

    async def _one(self, query: str, *values: object) -> Job | None:
        found = await self._many(query, *values)
        return self._newest(found[0]) if found else None

    async def _many(self, query: str, *values: object) -> list[Job]:
        return await self._reader.read(lambda db: self._rows.jobs(db.execute(query, values)))

    def _newest(self, job: Job) -> Job:
        newest = self._unwritten.newest(job.job_id) or job
        if newest is not job and is_repeatable(newest):
            return newest.with_(spec=replace(newest.spec, workflow=job.spec.workflow, files=job.spec.files))
        return newest

    def _horizon(self) -> tuple[int, int, int]:
        """Since when a result must have been there to be too old: any, and under an idempotency key; and the time."""
        now = self._time.now()
        return now - round(self._retention.ttl_s * SECOND), now - round(self._retention.keyed_ttl_s * SECOND), now

    # -- bounds --------------------------------------------------------------------------------------------------------

    async def expire(self) -> None:
        """Forget what is past its time or over the bounds; in small steps, so that no job waits for it."""
        now = self._time.now()
        going = await self._reader.read(lambda db: queries.surplus_jobs(db, self._retention, now=now))
        for start in range(0, len(going), queries.CHUNK):
            await self._writer.submit(queries.removal(going[start : start + queries.CHUNK], now=now))
        await self._expire_messages()
        await self._writer.submit(queries.forget_runs(now))
        for _ in range(queries.FREEING_STEPS):
            if not await self._writer.submit(queries.give_back):
                break

    def _load(self) -> set[int]:
        """Blocks. Read what is kept in memory; a stamp from the future (the clock was set back) counts as now.
        Return the jobs whose workflow has a row of its own."""
        db, now = self._database.writing, self._time.now()
        queries.tame_future(db, now)
        self._last_sequence, self._finished_at = queries.last_sequence(db), queries.last_end(db)
        self._seen = Seen(queries.digests(db))
        return set(queries.bulky(db))
