"""The database file of a router alone: opened for one process only, used in one thread, a transaction an operation."""

import asyncio
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

from lib.lanes import Lane
from lib.settings import SettingsError
from lib.storage.vault import Unreadable, Vault
from router.ports import StoreDown

log = logging.getLogger(__name__)
T = TypeVar("T")

BUSY_S, STILL_BUSY_S = 5.0, 0.1
"""Somebody may look into the database with a tool; so long we wait for it, and so long again while it goes on: who
waits behind shall hear of it."""
CHECK = b"the key fits"
CHECK_LIMIT_S = 2.0
"""The integrity check of a large database stops there; damage further on shows when it is read."""
DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
VERSION = 2
SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE jobs (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    priority TEXT NOT NULL,
    state TEXT NOT NULL,
    fence INTEGER NOT NULL,
    lease_until REAL NOT NULL,
    holder TEXT NOT NULL,
    cancel_wanted INTEGER NOT NULL,
    finished_at REAL NOT NULL,
    notice_at REAL NOT NULL,
    named BLOB NOT NULL,
    keyed BLOB,
    head BLOB NOT NULL,
    result BLOB,
    body BLOB NOT NULL
);
CREATE INDEX jobs_in_line ON jobs (state, priority, place);
CREATE INDEX jobs_by_end ON jobs (finished_at) WHERE finished_at > 0;
CREATE INDEX jobs_by_name ON jobs (named, place);
CREATE UNIQUE INDEX jobs_by_key ON jobs (keyed) WHERE keyed IS NOT NULL;
PRAGMA user_version = {VERSION};
COMMIT;
"""
SINCE_1 = """
BEGIN IMMEDIATE;
ALTER TABLE jobs ADD COLUMN notice_at REAL NOT NULL DEFAULT 0;
PRAGMA user_version = 2;
COMMIT;
"""
FREED = "UPDATE jobs SET lease_until = 0 WHERE state = 'leased'"
"""Who held jobs is gone: the file is one router's at a time."""
INDEXES = (
    "CREATE INDEX IF NOT EXISTS jobs_by_tenant ON jobs (tenant, state, place)",
    "CREATE INDEX IF NOT EXISTS jobs_in_line_by_tenant ON jobs (state, priority, place, tenant)",
    "CREATE INDEX IF NOT EXISTS jobs_by_notice ON jobs (notice_at) WHERE notice_at > 0",
)


class SqliteFile:
    """An open database. ``run`` an operation in its thread; what it raises undoes what it did."""

    def __init__(self, connection: sqlite3.Connection, lock: IO[str]) -> None:
        self._connection = connection
        self._lock = lock
        self._thread = Lane(1, name="router-store")
        self._busy = False

    @classmethod
    def open(cls, path: Path, vault: Vault, *, now: datetime) -> "SqliteFile":
        """Open the file, or begin it; a damaged one is set aside. Blocks. Raises: SettingsError."""
        lock = _locked(path)
        try:
            try:
                return cls(_opened(path, vault), lock)
            except sqlite3.DatabaseError as error:
                if _code(error) not in DAMAGED:
                    raise
                _set_aside(path, now)
                return cls(_opened(path, vault), lock)
        except (OSError, sqlite3.Error) as error:
            lock.close()
            raise SettingsError(f"ROUTER_STORE: {path} can't be opened: {error}") from error
        except SettingsError:
            lock.close()
            raise

    async def run(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Do it in one transaction, and wait until that is written. Raises: StoreDown, what the operation raises."""
        try:
            return await self._thread.run(partial(self._commit, operation))
        except sqlite3.Error as error:
            raise StoreDown(f"The router's database does not work: {error}.") from error

    async def close(self) -> None:
        """Do what is under way, and fold the log into the database."""
        await asyncio.to_thread(self._close)

    def _commit(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        try:
            with _transaction(self._connection):
                answer = operation(self._connection)
        except sqlite3.OperationalError as error:
            if _code(error) == sqlite3.SQLITE_BUSY:
                self._wait_for_others(STILL_BUSY_S)
            raise
        if self._busy:
            self._wait_for_others(BUSY_S)
        return answer

    def _wait_for_others(self, limit_s: float) -> None:
        self._busy = limit_s == STILL_BUSY_S
        self._connection.execute(f"PRAGMA busy_timeout = {int(limit_s * 1000)}")

    def _close(self) -> None:
        self._thread.close()
        try:
            with suppress(sqlite3.Error):  # a full disk: the log stays, and is read at the next start
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._connection.close()
        finally:
            self._lock.close()


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _locked(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.fdopen(os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600), "r+")
    except OSError as error:
        raise SettingsError(
            f"ROUTER_STORE: {path.parent} can't be written ({error.strerror}): name a folder on a local disk, "
            "ROUTER_STATE_DIR."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise SettingsError(
            f"ROUTER_STORE: {path} is in use by another router: stop that one, give this one a ROUTER_STATE_DIR of its "
            "own, or share a Redis-protocol server (redis://host:port/0)."
        ) from error
    return lock


def _opened(path: Path, vault: Vault) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection, path)
        _check_key(connection, vault, path)
    except (sqlite3.Error, SettingsError):
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # counts for a database without tables
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise SettingsError(f"ROUTER_STORE: SQLite's write-ahead log does not work at {path}: use a local disk.")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA journal_size_limit = 33554432")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise SettingsError(f"ROUTER_STORE: a newer version wrote {path}: start that one, or move the file away.")
    if version < VERSION:
        connection.executescript(SINCE_1 if version else SCHEMA)
    for index in INDEXES:
        connection.execute(index)
    _check(connection)
    connection.execute(FREED)


def _check(connection: sqlite3.Connection) -> None:
    deadline = time.monotonic() + CHECK_LIMIT_S
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
    try:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if _code(error) != sqlite3.SQLITE_INTERRUPT:
            raise
        return
    finally:
        connection.set_progress_handler(None, 0)
    if verdict != "ok":
        damaged = sqlite3.DatabaseError(verdict)
        damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise damaged


def _check_key(connection: sqlite3.Connection, vault: Vault, path: Path) -> None:
    row = connection.execute("SELECT value FROM facts WHERE name = 'check'").fetchone()
    if row is None:
        connection.execute("INSERT INTO facts VALUES ('check', ?)", (vault.seal(CHECK, "check"),))
        return
    try:
        vault.unseal(row[0], "check")
    except Unreadable as error:
        raise SettingsError(
            f"ROUTER_STORE: {path} was written with another key: put the key back (ROUTER_STATE_KEY, or the key file "
            "in ROUTER_STATE_DIR), or move the database away; the jobs in it are lost then."
        ) from error


def _set_aside(path: Path, now: datetime) -> None:
    aside = f"{path.name}.damaged-{now:%Y%m%dT%H%M%S%fZ}"
    for ending in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + ending).rename(path.with_name(aside + ending))
    log.error(
        "the router's database is damaged; it was set aside and a new one begun: its jobs are gone",
        extra={"event": "store.set_aside", "path": str(path.with_name(aside))},
    )


def _code(error: sqlite3.Error) -> int | None:
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
