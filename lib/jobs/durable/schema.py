"""Tables of the job store, by version (``user_version``); the only way from one version to the next.

In clear: ids, names, status, order, times, sizes. Times are store time (microseconds since 1970). All else is sealed
(``lib.storage.vault``); ``named``, ``keyed`` and ``host`` are keyed digests, since an idempotency key or a webhook's
host is nobody's business.
"""

import sqlite3
from collections.abc import Sequence

FIRST = """
CREATE TABLE jobs (
    sequence INTEGER PRIMARY KEY,
    job_id TEXT NOT NULL UNIQUE,
    named BLOB NOT NULL,
    keyed BLOB,
    request_id TEXT NOT NULL,
    owner TEXT NOT NULL,
    dialect TEXT NOT NULL,
    status TEXT NOT NULL,
    run INTEGER NOT NULL,
    run_is_remembered INTEGER NOT NULL,
    finished_at INTEGER,
    size_bytes INTEGER NOT NULL,
    head BLOB NOT NULL,
    workflow BLOB,
    response BLOB
);
CREATE INDEX jobs_by_name ON jobs (named);
CREATE INDEX jobs_by_key ON jobs (keyed) WHERE keyed IS NOT NULL;
CREATE TABLE workflows (sequence INTEGER PRIMARY KEY, workflow BLOB NOT NULL);
CREATE TABLE runs (named BLOB PRIMARY KEY, run INTEGER NOT NULL, until INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX runs_by_time ON runs (until);
CREATE TABLE outbox (
    message_id TEXT NOT NULL UNIQUE,
    job_id TEXT NOT NULL,
    owner TEXT NOT NULL,
    host BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    dead INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    head BLOB NOT NULL,
    error BLOB,
    body BLOB NOT NULL
);
CREATE INDEX outbox_by_time ON outbox (dead, due_at, host);
CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
"""
FORGETTING = """
ALTER TABLE jobs ADD COLUMN forget_at INTEGER;
CREATE INDEX jobs_by_end ON jobs (forget_at) WHERE forget_at IS NOT NULL;
"""
MIGRATIONS: tuple[str, ...] = (FIRST, FORGETTING)
"""The n-th script leads from version n to n + 1."""


class NewerSchema(Exception):
    """A later version of this program wrote the database."""

    def __init__(self, version: int) -> None:
        super().__init__(version)
        self.version = version


def migrate(connection: sqlite3.Connection, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Bring the database to the newest version, each step in one transaction. Raises NewerSchema, sqlite3.Error."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise NewerSchema(version)
    for number, script in enumerate(migrations[version:], start=version + 1):
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
