"""Jobs of a router alone, in SQLite."""

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, fields, replace
from typing import Any

from lib.clock import Clock
from router.model import Priority
from router.ports import JobState, LeaseLost, RelayJob
from router.store.codec import JobCodec, JobRow
from router.store.revival import revived
from router.store.sqlite_file import SqliteFile

COLUMNS = ", ".join(one.name for one in fields(JobRow))
PLACES = ", ".join("?" * len(fields(JobRow)))
SELECT = f"SELECT {COLUMNS} FROM jobs"  # noqa: S608 - our own names
INSERT = f"INSERT INTO jobs ({COLUMNS}) VALUES ({PLACES})"  # noqa: S608
WITHOUT_CONTENT = ", ".join({"body": "x''", "result": "NULL"}.get(one.name, one.name) for one in fields(JobRow))
IN_LINE = """
SELECT place FROM (
    SELECT * FROM (
        SELECT priority, place FROM jobs
        WHERE state = ? AND tenant NOT IN (SELECT value FROM json_each(?)) ORDER BY priority, place LIMIT ?
    )
    UNION ALL SELECT priority, place FROM jobs WHERE state = ? AND lease_until <= ?
) ORDER BY priority, place LIMIT ?
"""
"""``high`` comes before ``low`` in the alphabet, too."""
BURY = "UPDATE jobs SET state = ?, finished_at = ?, lease_until = 0, holder = '' WHERE job_id = ?"
PROOF = "INSERT INTO facts VALUES ('proof', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1"
FORGOTTEN_AT_ONCE = 200
OVER = tuple(state for state in JobState if state.over)


class SqliteJobs:
    """Implements ``JobStore``."""

    def __init__(self, file: SqliteFile, codec: JobCodec, *, clock: Clock) -> None:
        self._file = file
        self._codec = codec
        self._clock = clock

    async def add(self, job: RelayJob) -> RelayJob:
        def work(connection: sqlite3.Connection) -> RelayJob:
            row = self._codec.row(job)
            known = _one(connection, "job_id = ? OR keyed = ?", job.job_id, row.keyed)
            if known is not None:
                return self._codec.job(known)
            connection.execute(INSERT, astuple(row))
            return job

        return await self._file.run(work)

    async def get(self, job_id: str) -> RelayJob | None:
        return await self._find("job_id = ?", job_id)

    async def find(self, request_id: str, *, tenant: str) -> RelayJob | None:
        named = self._codec.named(request_id, tenant=tenant)
        return await self._find("named = ? ORDER BY place DESC LIMIT 1", named)

    async def lease(
        self, holder: str, *, limit: int, until: float, now: float, apart: Collection[str] = ()
    ) -> Sequence[RelayJob]:
        kept_out = json.dumps(list(apart))

        def work(connection: sqlite3.Connection) -> list[RelayJob]:
            asked = (JobState.WAITING, kept_out, limit, JobState.LEASED, now, limit)
            rows = connection.execute(IN_LINE, asked).fetchall()
            for place in rows:
                connection.execute(
                    "UPDATE jobs SET state = ?, fence = fence + 1, holder = ?, lease_until = ? WHERE place = ?",
                    (JobState.LEASED, holder, until, *place),
                )
            leased = f"SELECT {WITHOUT_CONTENT} FROM jobs WHERE place = ?"  # noqa: S608 - our own names
            taken = [_row(connection.execute(leased, place).fetchone()) for place in rows]
            jobs = self._codec.jobs(taken)
            lost = {row.job_id for row in taken} - {job.job_id for job in jobs}
            connection.executemany(BURY, [(JobState.DEAD, now, job_id) for job_id in lost])
            return jobs

        return await self._file.run(work)

    async def held(self, holder: str) -> Mapping[str, int]:
        query, asked = "SELECT job_id, fence FROM jobs WHERE state = ? AND holder = ?", (JobState.LEASED, holder)
        return dict(await self._file.run(lambda connection: connection.execute(query, asked).fetchall()))

    async def renew(self, fences: Mapping[str, int], *, until: float) -> Mapping[str, bool]:
        query = (
            "UPDATE jobs SET lease_until = ? WHERE job_id = ? AND fence = ? AND state = ? "
            "RETURNING job_id, cancel_wanted"
        )

        def work(connection: sqlite3.Connection) -> dict[str, bool]:
            held: dict[str, bool] = {}
            for job_id, fence in fences.items():
                found = connection.execute(query, (until, job_id, fence, JobState.LEASED)).fetchall()
                held.update((name, bool(wanted)) for name, wanted in found)
            return held

        return await self._file.run(work)

    async def save(self, job: RelayJob) -> None:
        if not await self._write(job, fence=job.fence, over=job.state):
            raise LeaseLost(f"Job {job.job_id} is somebody else's by now.")

    async def want_cancel(self, job_id: str) -> RelayJob | None:
        now = self._clock.now().timestamp()

        def work(connection: sqlite3.Connection) -> RelayJob | None:
            connection.execute(
                "UPDATE jobs SET cancel_wanted = 1 WHERE job_id = ? AND state IN (?, ?)",
                (job_id, JobState.WAITING, JobState.LEASED),
            )
            connection.execute(
                "UPDATE jobs SET state = ?, finished_at = ? WHERE job_id = ? AND state = ?",
                (JobState.CANCELLED, now, job_id, JobState.WAITING),
            )
            row = _one(connection, "job_id = ?", job_id)
            return None if row is None else self._codec.job(row)

        return await self._file.run(work)

    async def counts(self, *, tenant: str | None = None) -> Mapping[JobState, int]:
        whose, values = ("", ()) if tenant is None else ("WHERE tenant = ?", (tenant,))
        query = f"SELECT state, count(*) FROM jobs {whose} GROUP BY state"  # noqa: S608 - our own names
        found = dict(await self._file.run(lambda connection: connection.execute(query, values).fetchall()))
        return {state: found.get(state, 0) for state in JobState}

    async def listed(
        self, *, tenant: str | None, states: Collection[JobState] = tuple(JobState), before: str = "", limit: int
    ) -> Sequence[RelayJob]:
        query = f"""
        SELECT {WITHOUT_CONTENT} FROM jobs
        WHERE (? IS NULL OR tenant = ?) AND state IN (SELECT value FROM json_each(?))
        AND (? = '' OR place < (SELECT place FROM jobs WHERE job_id = ?)) ORDER BY place DESC LIMIT ?
        """  # noqa: S608 - our own names
        asked = (tenant, tenant, json.dumps(list(states)), before, before, limit)

        def work(connection: sqlite3.Connection) -> list[RelayJob]:
            return self._codec.jobs(map(_row, connection.execute(query, asked).fetchall()))

        return await self._file.run(work)

    async def due(self, *, before: float, limit: int) -> Sequence[RelayJob]:
        query = f"SELECT {WITHOUT_CONTENT} FROM jobs WHERE notice_at > 0 AND notice_at < ? ORDER BY notice_at LIMIT ?"  # noqa: S608 - our own names

        def work(connection: sqlite3.Connection) -> list[RelayJob]:
            return self._codec.jobs(map(_row, connection.execute(query, (before, limit)).fetchall()))

        return await self._file.run(work)

    async def prove(self) -> None:
        await self._file.run(lambda connection: connection.execute(PROOF).fetchall())

    async def dead(self, *, tenant: str | None, limit: int) -> Sequence[RelayJob]:
        where = "state = ? AND (? IS NULL OR tenant = ?) ORDER BY finished_at DESC, place DESC LIMIT ?"

        def work(connection: sqlite3.Connection) -> list[RelayJob]:
            found = connection.execute(f"{SELECT} WHERE {where}", (JobState.DEAD, tenant, tenant, limit))
            return self._codec.jobs(map(_row, found.fetchall()))

        return await self._file.run(work)

    async def revive(self, job_id: str, *, tenant: str | None, states: Collection[JobState] = (JobState.DEAD,)) -> bool:
        job = await self.get(job_id)
        if job is None or job.state not in states or tenant not in (None, job.tenant):
            return False
        return await self._write(revived(job), fence=job.fence, over=job.state)

    async def expire(self, *, older_than: float) -> int:
        total = 0
        while count := await self._file.run(lambda connection: _forget(connection, older_than)):
            total += count
        return total

    async def _find(self, where: str, *values: object) -> RelayJob | None:
        row = await self._file.run(lambda connection: _one(connection, where, *values))
        return None if row is None else self._codec.job(row)

    async def _write(self, job: RelayJob, *, fence: int, over: JobState) -> bool:
        """Write all but the body, if the job is not over, or in this state; False: it is, or ``fence`` is old."""
        revives = job.fence != fence
        if job.state.over and not job.finished_at:
            job = replace(job, finished_at=self._clock.now().timestamp())

        def work(connection: sqlite3.Connection) -> bool:
            row = self._codec.row(job, with_body=False)
            changed = (row.state, row.fence, row.lease_until, row.holder, row.finished_at, row.notice_at)
            written = connection.execute(
                "UPDATE jobs SET state = ?, fence = ?, lease_until = ?, holder = ?, finished_at = ?, notice_at = ?, "
                "head = ?, result = ?, cancel_wanted = CASE WHEN ? THEN 0 ELSE max(cancel_wanted, ?) END "
                "WHERE job_id = ? AND fence = ? AND (state NOT IN (?, ?, ?) OR state = ?)",
                (*changed, row.head, row.result, revives, row.cancel_wanted, row.job_id, fence, *OVER, over),
            )
            return written.rowcount == 1

        return await self._file.run(work)


def _one(connection: sqlite3.Connection, where: str, *values: object) -> JobRow | None:
    found = connection.execute(f"{SELECT} WHERE {where}", values).fetchone()
    return None if found is None else _row(found)


def _row(values: Sequence[Any]) -> JobRow:
    told: dict[str, Any] = dict(zip((one.name for one in fields(JobRow)), values, strict=True))
    told.update(
        priority=Priority(told["priority"]), state=JobState(told["state"]), cancel_wanted=bool(told["cancel_wanted"])
    )
    return JobRow(**told)


def _forget(connection: sqlite3.Connection, older_than: float) -> int:
    count = connection.execute(
        "DELETE FROM jobs WHERE place IN (SELECT place FROM jobs WHERE finished_at > 0 AND finished_at < ? "
        "AND state IN (?, ?, ?) LIMIT ?)",
        (older_than, *OVER, FORGOTTEN_AT_ONCE),
    ).rowcount
    connection.execute("PRAGMA incremental_vacuum(2000)").fetchall()
    return count
