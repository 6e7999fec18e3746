"""The files of the job store: lock, key, database; opened, checked, and set aside when they can't be read."""

import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from lib.errors import StorageFailed
from lib.jobs.durable.schema import MIGRATIONS, NewerSchema, migrate
from lib.storage.vault import Unreadable, Vault

log = logging.getLogger(__name__)

DATABASE = "jobs.sqlite3"
KEY = "jobs.key"
LOCK = "jobs.lock"
CHECK = b"the key fits"
CHECK_LIMIT_S = 2.0
"""The integrity check of a large database stops there; damage further on shows when it is read."""
BUSY_S = 5.0
"""Somebody may look into the database with a tool; so long we wait for it."""
DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
PRAGMAS = (
    "PRAGMA synchronous = NORMAL",
    "PRAGMA wal_autocheckpoint = 2000",  # pages; a commit that finds more waits for the disk, for some 10 ms
    "PRAGMA journal_size_limit = 33554432",
    "PRAGMA temp_store = MEMORY",
)

Connect = Callable[[Path], sqlite3.Connection]


def connect(path: Path) -> sqlite3.Connection:
    """Open a connection that any thread may use, one at a time, and that commits each statement by itself."""
    return sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=256)


class _Damaged(Exception):
    """The file is no database, or a broken one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """Open files: one connection that writes, one that reads, the vault, and the lock that keeps others out."""

    path: Path
    vault: Vault
    writing: sqlite3.Connection
    reading: sqlite3.Connection
    lock: IO[str]

    def close(self) -> None:
        """Blocks: folds the log into the database."""
        try:
            self.reading.close()
            with suppress(sqlite3.Error):  # a full disk: the log stays, and is read at the next start
                self.writing.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self.writing.close()
        finally:
            self.lock.close()


def code_of(error: sqlite3.Error) -> int | None:
    """SQLite's primary result code (``sqlite3.SQLITE_FULL``), ``None`` where Python itself complained."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def open_database(folder: Path, *, now: datetime, connect: Connect = connect) -> Database:
    """Open what lies in ``folder``, or begin it. Blocks.

    Raises StorageFailed, with one sentence that says what to do: the folder can't be written, another worker has it,
    WAL does not work there, a newer version wrote it.
    """
    lock = _locked(folder)
    try:
        vault = Vault.open(folder / KEY)
        path = folder / DATABASE
        try:
            writing = _opened(path, vault, connect)
        except (_Damaged, Unreadable) as error:
            _set_aside(path, now=now, damaged=isinstance(error, _Damaged))
            writing = _opened(path, vault, connect)
        try:
            reading = connect(path)
            reading.execute("PRAGMA query_only = ON")
        except sqlite3.Error:
            writing.close()
            raise
    except StorageFailed:
        lock.close()
        raise
    except (OSError, sqlite3.Error, _Damaged, Unreadable) as error:
        lock.close()
        raise StorageFailed(f"STATE_DIR={folder}: the job store can't be opened: {error}.") from error
    return Database(path=path, vault=vault, writing=writing, reading=reading, lock=lock)


def _locked(folder: Path) -> IO[str]:
    path = folder / LOCK
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+")
    except OSError as error:
        raise StorageFailed(
            f"STATE_DIR={folder} can't be written ({error.strerror}): name a folder on a local disk that this user "
            "may write to, or set JOB_STORE=memory to live without."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = lock.read(20).strip() or "unknown"
        lock.close()
        raise StorageFailed(
            f"STATE_DIR={folder} is in use by another worker (process {holder}): stop that one, or give this one a "
            "STATE_DIR of its own."
        ) from error
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def _opened(path: Path, vault: Vault, connect: Connect) -> sqlite3.Connection:
    """Raises StorageFailed, _Damaged, Unreadable (written with another key), sqlite3.Error."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    path.chmod(0o600)
    connection = connect(path)
    try:
        _prepare(connection, path.parent)
        _check_key(connection, vault)
    except NewerSchema as error:
        connection.close()
        raise StorageFailed(
            f"{path} was written by a newer version (schema {error.version}, this one knows {len(MIGRATIONS)}): start "
            "that version again, or move the file away to begin anew."
        ) from error
    except sqlite3.Error as error:
        connection.close()
        if code_of(error) in DAMAGED:
            raise _Damaged(str(error)) from error
        raise
    except (StorageFailed, _Damaged, Unreadable):
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, folder: Path) -> None:
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # counts for a database without tables
    try:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    except sqlite3.OperationalError as error:
        if code_of(error) in DAMAGED:
            raise
        mode = str(error)
    if mode != "wal":
        raise StorageFailed(
            f"STATE_DIR={folder}: SQLite's write-ahead log does not work there ({mode}), as on most network file "
            "systems: name a folder on a local disk."
        )
    for pragma in PRAGMAS:
        connection.execute(pragma)
    migrate(connection)
    _check(connection)


def _check(connection: sqlite3.Connection) -> None:
    deadline = time.monotonic() + CHECK_LIMIT_S
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
    try:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if code_of(error) != sqlite3.SQLITE_INTERRUPT:
            raise
        return
    finally:
        connection.set_progress_handler(None, 0)
    if verdict != "ok":
        raise _Damaged(verdict)


def _check_key(connection: sqlite3.Connection, vault: Vault) -> None:
    row = connection.execute("SELECT value FROM facts WHERE name = 'check'").fetchone()
    if row is not None:
        vault.unseal(row[0], "facts:check")
    else:
        connection.execute("INSERT INTO facts VALUES ('check', ?)", (vault.seal(CHECK, "facts:check"),))


def _set_aside(path: Path, *, now: datetime, damaged: bool) -> None:
    aside = path.with_name(f"{path.name}.{'damaged' if damaged else 'unreadable'}-{now:%Y%m%dT%H%M%S%fZ}")
    for ending in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + ending).rename(aside.with_name(aside.name + ending))
    log.error(
        "the job store is damaged; it was set aside and a new one begun: jobs and results in it are gone"
        if damaged
        else "the job store was written with another key, which is lost or was replaced; it was set aside and a new "
        "one begun: put the key and the database back together to have its jobs again",
        extra={"event": "store.set_aside", "path": str(aside)},
    )
