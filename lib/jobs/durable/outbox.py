"""The durable outbox: webhook messages in the job store's database."""

import logging
import sqlite3
from collections.abc import Callable
from datetime import datetime

from lib.jobs.durable.queries import CHUNK
from lib.jobs.durable.rows import MESSAGE, Rows, text
from lib.jobs.durable.threads import RETRY_AFTER_S, Operation, Reader, Writer
from lib.jobs.model import OutboxItem
from lib.jobs.ports import DUE_BYTES, NOTHING_BUSY, Busy, OutboxState
from lib.jobs.retention import SECOND, Message, Retention, StoreTime, surplus_messages, within

log = logging.getLogger(__name__)


class SqliteOutbox:
    """Implements the port ``Outbox``. While the store is in trouble nothing is due: the outcome of an attempt could
    not be recorded, and the message would go out again and again."""

    _retention: Retention
    _time: StoreTime
    _rows: Rows
    _writer: Writer
    _reader: Reader

    @property
    def trouble(self) -> str | None:
        """What keeps the store from writing."""
        raise NotImplementedError

    def _hand_over(self) -> None:
        """Have the writer take the messages that wait to be written."""
        raise NotImplementedError

    async def due(self, now: datetime, *, limit: int, busy: Busy = NOTHING_BUSY) -> list[OutboxItem]:
        if self.trouble is not None:
            return []
        latest, (free, values) = self._time.of(now), self._free(busy)
        query = f"{MESSAGE} WHERE dead = 0 AND due_at <= ? {free} ORDER BY due_at, rowid LIMIT ?"

        def read(db: sqlite3.Connection) -> list[OutboxItem]:
            found = db.execute(query, (latest, *values, limit))
            return self._rows.messages(within(found, lambda row: len(row[-1]), DUE_BYTES))

        return await self._reader.read(read)

    async def next_due(self, *, busy: Busy = NOTHING_BUSY) -> datetime | None:
        free, values = self._free(busy)
        query = f"SELECT due_at FROM outbox WHERE dead = 0 {free} ORDER BY due_at LIMIT 1"  # noqa: S608
        row = await self._reader.read(lambda db: db.execute(query, values).fetchone())
        if row is None:
            return None
        soonest = self._time.now() + round(RETRY_AFTER_S * SECOND) if self.trouble is not None else 0
        return self._time.wall(max(row[0], soonest))

    async def delivered(self, message_id: str) -> None:
        await self._change("DELETE FROM outbox WHERE message_id = ?", lambda: (message_id,))

    async def postpone(self, message_id: str, *, next_at: datetime, error: str) -> None:
        due = self._time.of(next_at)
        await self._change(
            "UPDATE outbox SET attempts = attempts + 1, due_at = ?, error = ? WHERE message_id = ? AND dead = 0",
            lambda: (due, self._rows.error(message_id, error), message_id),
        )

    async def bury(self, message_id: str, *, error: str) -> None:
        buried = self._time.now()
        await self._change(
            "UPDATE outbox SET dead = 1, attempts = attempts + 1, due_at = ?, error = ? "
            "WHERE message_id = ? AND dead = 0",
            lambda: (buried, self._rows.error(message_id, error), message_id),
        )

    async def revive(self, message_id: str, *, owner: str | None, now: datetime) -> bool:
        due = self._time.of(now)
        query = "UPDATE outbox SET dead = 0, attempts = 0, due_at = ? WHERE message_id = ? AND dead = 1"
        whose, values = _of_owner(owner)
        return await self._change(query + whose, lambda: (due, message_id, *values)) > 0

    async def dead(self, *, owner: str | None, limit: int) -> list[OutboxItem]:
        whose, values = _of_owner(owner)
        query = f"{MESSAGE} WHERE dead = 1 {whose} ORDER BY due_at DESC, rowid DESC LIMIT ?"
        return await self._reader.read(lambda db: self._rows.messages(db.execute(query, (*values, limit))))

    async def state(self) -> OutboxState:
        query = "SELECT count(*) FILTER (WHERE dead = 0), min(created_at) FILTER (WHERE dead = 0), count(*) FROM outbox"
        pending, oldest, total = await self._reader.read(lambda db: db.execute(query).fetchone())
        oldest_at = None if oldest is None else self._time.wall(oldest)
        return OutboxState(pending_count=pending, oldest_at=oldest_at, dead_count=total - pending)

    async def _expire_messages(self) -> None:
        """Drop dead messages past their time or over the count, and the oldest of all where they are too many bytes."""
        query = "SELECT rowid, dead, due_at, size_bytes FROM outbox ORDER BY dead, rowid DESC"
        now = self._time.now()

        def find(db: sqlite3.Connection) -> list[Message[int]]:
            rows = (Message(key=row[0], dead=bool(row[1]), at=row[2], size_bytes=row[3]) for row in db.execute(query))
            return list(surplus_messages(self._retention, rows, now=now))

        going = await self._reader.read(find)
        if lost := sum(not message.dead for message in going):
            log.error(
                "webhook messages were given up undelivered: too many bytes of them wait",
                extra={"event": "store.outbox_full", "count": lost},
            )
        for start in range(0, len(going), CHUNK):
            keys = [(message.key,) for message in going[start : start + CHUNK]]
            await self._writer.submit(_deletion(keys))

    async def _change(self, query: str, values: Callable[[], tuple[object, ...]]) -> int:
        """A message is sent as soon as the store knows it, so its change must not overtake its row."""
        self._hand_over()
        return await self._writer.submit(lambda db: db.execute(query, values()).rowcount, single=True)

    def _free(self, busy: Busy) -> tuple[str, tuple[object, ...]]:
        hosts = [self._rows.host(host) for host in busy.hosts]
        clauses = ""
        if busy.message_ids:
            clauses += f" AND message_id NOT IN ({_marks(len(busy.message_ids))})"
        if hosts:
            clauses += f" AND host NOT IN ({_marks(len(hosts))})"
        return clauses, (*busy.message_ids, *hosts)


def _deletion(keys: list[tuple[int]]) -> Operation[object]:
    return lambda db: db.executemany("DELETE FROM outbox WHERE rowid = ?", keys)


def _marks(count: int) -> str:
    return ", ".join("?" * count)


def _of_owner(owner: str | None) -> tuple[str, tuple[str, ...]]:
    return ("", ()) if owner is None else (" AND owner = ?", (text(owner),))
