"""Statements of the job store that touch many rows: what is listed, what has to go, what an earlier life left."""

import sqlite3
from collections.abc import Iterator, Sequence

from lib.jobs.durable.rows import text
from lib.jobs.durable.threads import Operation
from lib.jobs.model import JobFilter, JobStatus
from lib.jobs.retention import MOST_RUNS, RUN_MEMORY_S, SECOND, Kept, Retention, surplus

CHUNK = 64
"""Rows that one operation deletes; a job that comes meanwhile waits for no more."""
FREE_SHARE = 4
"""Of the file one part in so many may be empty pages before they are given back."""
FREED_PAGES = 256
FREEING_STEPS = 16
"""So many are given back in one operation, in so many operations."""
PROBE_BYTES = 64 * 1024


def conditions(asked: JobFilter) -> tuple[str, list[object]]:
    """Return a filter as a WHERE clause over ``jobs j``, and its values."""
    wanted: list[tuple[str, object]] = [
        ("j.owner = ?", None if asked.owner is None else text(asked.owner)),
        ("j.dialect = ?", asked.dialect),
        ("j.request_id = ?", None if asked.request_id is None else text(asked.request_id)),
        ("j.sequence < ?", asked.before),
    ]
    given = [(clause, value) for clause, value in wanted if value is not None]
    clauses, values = [clause for clause, _ in given], [value for _, value in given]
    if asked.statuses:
        clauses.append(f"j.status IN ({', '.join('?' * len(asked.statuses))})")
        values += sorted(status.value for status in asked.statuses)
    return " AND ".join(clauses) or "TRUE", values


def last_run(db: sqlite3.Connection, named: bytes) -> int:
    """The highest run of a name, among the jobs and those that are gone; 0 for none."""
    query = (
        "SELECT max(run) FROM (SELECT run FROM jobs WHERE named = ?1 UNION ALL SELECT run FROM runs WHERE named = ?1)"
    )
    run: int | None = db.execute(query, (named,)).fetchone()[0]
    return run or 0


def surplus_jobs(db: sqlite3.Connection, retention: Retention, *, now: int) -> list[int]:
    """The sequences of finished jobs that have to go."""
    query = """SELECT keyed IS NOT NULL, job_id, sequence, finished_at, size_bytes, status FROM jobs
        WHERE finished_at IS NOT NULL AND sequence NOT IN (SELECT sequence FROM jobs WHERE forget_at <= ?)
        ORDER BY finished_at"""
    shelves: tuple[list[Kept], list[Kept]] = ([], [])
    for keyed, job_id, sequence, finished_at, size, status in db.execute(query, (now,)):
        failed = status == JobStatus.FAILED
        kept = Kept(job_id=job_id, sequence=sequence, finished_at=finished_at, size_bytes=size, failed=failed)
        shelves[keyed].append(kept)
    total = sum(entry.size_bytes for shelf in shelves for entry in shelf)
    going = surplus(retention, loose=shelves[0], keyed=shelves[1], total_bytes=total, now=now)
    forgotten = db.execute("SELECT sequence FROM jobs WHERE forget_at <= ? AND finished_at IS NOT NULL", (now,))
    return [*(sequence for (sequence,) in forgotten), *(entry.sequence for entry in going)]


def removal(sequences: Sequence[int], *, now: int = 0) -> Operation[None]:
    """Return an operation that deletes these jobs. Runs of finished ones that a later run could write over are
    remembered, and so is the highest sequence."""
    marks = ", ".join("?" * len(sequences))
    remember = f"""INSERT INTO runs SELECT named, max(run), ? FROM jobs
        WHERE run_is_remembered AND finished_at IS NOT NULL AND sequence IN ({marks}) GROUP BY named
        ON CONFLICT (named) DO UPDATE SET run = max(run, excluded.run), until = excluded.until"""  # noqa: S608
    until = now + round(RUN_MEMORY_S * SECOND)

    def remove(db: sqlite3.Connection) -> None:
        db.execute(remember, (until, *sequences))
        db.execute("INSERT OR REPLACE INTO facts VALUES ('last_sequence', ?)", (last_sequence(db),))
        for table in ("jobs", "workflows"):
            db.execute(f"DELETE FROM {table} WHERE sequence IN ({marks})", sequences)  # noqa: S608

    return remove


def withdrawal(job_id: str) -> Operation[None]:
    """Return an operation that deletes a job which nobody was told of."""

    def withdraw(db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM workflows WHERE sequence = (SELECT sequence FROM jobs WHERE job_id = ?)", (job_id,))
        db.execute("DELETE FROM jobs WHERE job_id = ?", (job_id,))

    return withdraw


def forget_runs(now: int) -> Operation[None]:
    """Return an operation that deletes old runs, and those over the count."""

    def forget(db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM runs WHERE until <= ?", (now,))
        (count,) = db.execute("SELECT count(*) FROM runs").fetchone()
        if count > MOST_RUNS:
            oldest = "SELECT named FROM runs ORDER BY until LIMIT ?"
            db.execute(f"DELETE FROM runs WHERE named IN ({oldest})", (count - MOST_RUNS,))  # noqa: S608

    return forget


def give_back(db: sqlite3.Connection) -> bool:
    """Give some empty pages back to the disk; return whether there are many more."""
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    if free * FREE_SHARE <= pages:
        return False
    for _ in range(FREED_PAGES):  # one at a time: Python steps a statement without columns once, and so frees one page
        db.execute("PRAGMA incremental_vacuum(1)")
    return True


def probe(db: sqlite3.Connection) -> None:
    """Write something as large as a job, and take it back."""
    db.execute("INSERT OR REPLACE INTO facts VALUES ('probe', zeroblob(?))", (PROBE_BYTES,))
    db.execute("DELETE FROM facts WHERE name = 'probe'")


# -- at start ----------------------------------------------------------------------------------------------------------


def tame_future(db: sqlite3.Connection, now: int) -> None:
    """What carries a stamp from the future was written before the clock was set back: it counts as of now."""
    db.execute("UPDATE jobs SET finished_at = ?1 WHERE finished_at > ?1", (now,))
    db.execute("UPDATE outbox SET created_at = ?1, due_at = ?1 WHERE created_at > ?1", (now,))
    db.execute("UPDATE outbox SET due_at = ?1 WHERE dead = 1 AND due_at > ?1", (now,))
    longest = now + round(RUN_MEMORY_S * SECOND)
    db.execute("UPDATE runs SET until = ?1 WHERE until > ?1", (longest,))


def last_sequence(db: sqlite3.Connection) -> int:
    """The highest sequence ever recorded."""
    query = """SELECT max(sequence) FROM
        (SELECT sequence FROM jobs UNION ALL SELECT value FROM facts WHERE name = 'last_sequence')"""
    sequence: int | None = db.execute(query).fetchone()[0]
    return sequence or 0


def last_end(db: sqlite3.Connection) -> int:
    """The newest end of a job (store time)."""
    end: int | None = db.execute("SELECT max(finished_at) FROM jobs").fetchone()[0]
    return end or 0


def bulky(db: sqlite3.Connection) -> Iterator[int]:
    return (row[0] for row in db.execute("SELECT sequence FROM workflows"))


def digests(db: sqlite3.Connection) -> Iterator[bytes]:
    """All names and idempotency keys that are known."""
    query = """SELECT named FROM jobs UNION ALL SELECT keyed FROM jobs WHERE keyed IS NOT NULL
        UNION ALL SELECT named FROM runs"""
    return (row[0] for row in db.execute(query))
