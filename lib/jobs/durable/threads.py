"""The two threads of the job store: one writes, many operations to a transaction; one reads."""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from lib.errors import StorageFailed
from lib.jobs.codec import CodecError
from lib.jobs.durable.database import code_of
from lib.lanes import Lane

T = TypeVar("T")

MOST_WRITES = 512
"""Operations of one transaction."""
RETRY_AFTER_S = 5.0
TROUBLES = {
    sqlite3.SQLITE_FULL: "the disk of STATE_DIR is full",
    sqlite3.SQLITE_IOERR: "the disk of STATE_DIR reports errors",
    sqlite3.SQLITE_READONLY: "STATE_DIR can't be written any more",
    sqlite3.SQLITE_CANTOPEN: "the files in STATE_DIR can't be opened any more",
    sqlite3.SQLITE_BUSY: "another program holds the job store",
    sqlite3.SQLITE_LOCKED: "another program holds the job store",
    sqlite3.SQLITE_CORRUPT: "the job store is damaged; restart the worker to begin a new one",
    sqlite3.SQLITE_NOTADB: "the job store is damaged; restart the worker to begin a new one",
}
"""What keeps every write from working, in words; any other error is one operation's own."""

Operation = Callable[[sqlite3.Connection], T]
Outcome = tuple[Any, Exception | None]


def trouble_of(error: BaseException | None) -> str | None:
    """Say what is wrong with the disk or the file, ``None`` where neither is to blame."""
    cause = error.__cause__ if isinstance(error, StorageFailed) else error
    return TROUBLES.get(code_of(cause) or 0) if isinstance(cause, sqlite3.Error) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Write:
    operation: Operation[Any]
    single: bool
    """It is one statement, which is a transaction by itself."""
    done: asyncio.Future[Any]


class Writer:
    """Runs operations in one thread, in their order; those that come while a transaction runs share the next one.

    An operation that fails takes nothing with it: the others of its transaction are done again, each by itself.
    ``on_trouble`` (set it) is told, on the event loop, of errors that keep every write from working; ``on_commit`` how
    long each transaction took, in seconds, its way to the thread and back included.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.on_trouble: Callable[[str], None] = lambda trouble: None
        self.on_commit: Callable[[float], None] = lambda seconds: None
        self._thread = Lane(1, name="job-store-writer")
        self._waiting: list[_Write] = []
        self._running: asyncio.Future[list[Outcome]] | None = None
        self._closed = False

    def submit(self, operation: Operation[T], *, single: bool = False) -> asyncio.Future[T]:
        """Have the operation done; the future is done when it is committed, or has StorageFailed or CodecError.

        Raises StorageFailed after ``close``."""
        if self._closed:
            raise StorageFailed("The job store is closed: the worker is shutting down.")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Write(operation=operation, single=single, done=done))
        if self._running is None:
            self._start()
        return done

    async def close(self) -> None:
        """Do what waits, then end the thread; the connection stays open."""
        self._closed = True
        while self._running is not None:
            await asyncio.wait([self._running])
        await asyncio.to_thread(self._thread.close)

    def _start(self) -> None:
        batch, self._waiting = self._waiting[:MOST_WRITES], self._waiting[MOST_WRITES:]
        self._running = self._thread.run(partial(self._commit, batch))
        self._running.add_done_callback(partial(self._committed, batch, time.perf_counter()))

    def _committed(self, batch: list[_Write], begun: float, ran: asyncio.Future[list[Outcome]]) -> None:
        self.on_commit(time.perf_counter() - begun)
        self._running = None
        if self._waiting:
            self._start()
        defect = ran.exception()
        outcomes = ran.result() if defect is None else [(None, defect)] * len(batch)
        for write, (value, error) in zip(batch, outcomes, strict=True):
            if (trouble := trouble_of(error)) is not None:
                self.on_trouble(trouble)
            if write.done.done():
                continue
            if error is None:
                write.done.set_result(value)
            else:
                write.done.set_exception(error)
                write.done.exception()  # nobody has to look at it

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _commit(self, batch: list[_Write]) -> list[Outcome]:
        try:
            if len(batch) == 1 and batch[0].single:
                return [(batch[0].operation(self._connection), None)]
            with self._transaction():
                return [(write.operation(self._connection), None) for write in batch]
        except (sqlite3.Error, CodecError) as error:
            if len(batch) > 1:
                return [outcome for write in batch for outcome in self._commit([write])]
            return [(None, error if isinstance(error, CodecError) else failed(error))]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


class Reader:
    """Runs queries in one thread of their own, so that they never wait for a writer's disk."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._thread = Lane(1, name="job-store-reader")

    async def read(self, query: Operation[T]) -> T:
        """Raises StorageFailed."""
        try:
            return await self._thread.run(partial(query, self._connection))
        except sqlite3.Error as error:
            raise StorageFailed(f"The job store can't be read: {error}.", retry_after_s=RETRY_AFTER_S) from error

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.close)


def failed(error: sqlite3.Error) -> StorageFailed:
    """What a caller is told of a write that did not work."""
    reason = TROUBLES.get(code_of(error) or 0, str(error))
    made = StorageFailed(f"The job could not be recorded: {reason}; try again later.", retry_after_s=RETRY_AFTER_S)
    made.retryable = True
    made.__cause__ = error
    return made
