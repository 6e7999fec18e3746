"""The in-memory outbox: webhook messages until they are delivered, or dead for their time."""

from collections import OrderedDict
from dataclasses import replace
from datetime import datetime

from lib.clock import Clock
from lib.jobs.model import OutboxItem
from lib.jobs.ports import DUE_BYTES, NOTHING_BUSY, Busy, OutboxState
from lib.jobs.retention import Message, Retention, StoreTime, surplus_messages, within


class MemoryOutbox:
    """Implements the port ``Outbox``; what is due is kept in store time, which no clock jump moves."""

    def __init__(self, *, clock: Clock, retention: Retention) -> None:
        self._retention = retention
        self._time = StoreTime(clock)
        self._pending: dict[str, OutboxItem] = {}
        self._due: dict[str, int] = {}
        self._dead: OrderedDict[str, tuple[OutboxItem, int]] = OrderedDict()

    async def due(self, now: datetime, *, limit: int, busy: Busy = NOTHING_BUSY) -> list[OutboxItem]:
        latest = self._time.of(now)
        ready = sorted((at, message_id) for message_id, at in self._free(busy) if at <= latest)
        items = [self._shown(message_id) for _, message_id in ready[:limit]]
        return list(within(items, lambda item: len(item.body), DUE_BYTES))

    async def next_due(self, *, busy: Busy = NOTHING_BUSY) -> datetime | None:
        first = min((at for _, at in self._free(busy)), default=None)
        return None if first is None else self._time.wall(first)

    async def delivered(self, message_id: str) -> None:
        self._take(message_id)

    async def postpone(self, message_id: str, *, next_at: datetime, error: str) -> None:
        if (item := self._pending.get(message_id)) is not None:
            self._pending[message_id] = replace(item, attempts=item.attempts + 1, last_error=error)
            self._due[message_id] = self._time.of(next_at)

    async def bury(self, message_id: str, *, error: str) -> None:
        if (item := self._take(message_id)) is not None:
            dead = replace(item, attempts=item.attempts + 1, last_error=error, dead=True)
            self._dead[message_id] = dead, self._time.now()

    async def revive(self, message_id: str, *, owner: str | None, now: datetime) -> bool:
        item, _ = self._dead.get(message_id, (None, 0))
        if item is None or owner not in (None, item.owner):
            return False
        del self._dead[message_id]
        self._pending[message_id] = replace(item, attempts=0, dead=False)
        self._due[message_id] = self._time.of(now)
        return True

    async def dead(self, *, owner: str | None, limit: int) -> list[OutboxItem]:
        found = [item for item, _ in reversed(self._dead.values()) if owner in (None, item.owner)]
        return found[:limit]

    async def state(self) -> OutboxState:
        oldest = min((item.created_at for item in self._pending.values()), default=None)
        return OutboxState(pending_count=len(self._pending), oldest_at=oldest, dead_count=len(self._dead))

    def _keep(self, items: tuple[OutboxItem, ...]) -> None:
        for item in items:
            self._pending[item.message_id] = item
            self._due[item.message_id] = self._time.of(item.next_at)

    def _expire_messages(self) -> None:
        pending = [
            Message(key=item.message_id, dead=False, at=0, size_bytes=len(item.body)) for item in self._pending.values()
        ]
        dead = [
            Message(key=item.message_id, dead=True, at=at, size_bytes=len(item.body))
            for item, at in self._dead.values()
        ]
        for message in list(
            surplus_messages(self._retention, [*reversed(pending), *reversed(dead)], now=self._time.now())
        ):
            self._take(message.key)
            self._dead.pop(message.key, None)

    def _free(self, busy: Busy) -> list[tuple[str, int]]:
        return [
            (message_id, at)
            for message_id, at in self._due.items()
            if message_id not in busy.message_ids and self._pending[message_id].host not in busy.hosts
        ]

    def _shown(self, message_id: str) -> OutboxItem:
        return replace(self._pending[message_id], next_at=self._time.wall(self._due[message_id]))

    def _take(self, message_id: str) -> OutboxItem | None:
        self._due.pop(message_id, None)
        return self._pending.pop(message_id, None)
