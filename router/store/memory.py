"""Shared state of a router alone: in memory, but for the counters, which go on after a restart."""

import asyncio
import heapq
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from lib.clock import Clock
from router.model import Assignment
from router.ports import News, RequestRecord, StoreDown, WorkerRecord
from router.store.sqlite_file import SqliteFile

Value = TypeVar("Value")

NUMBERS_AT_ONCE = 1000
"""So many numbers are written down as used before the first of them is given out; a crash skips what is left."""

LONGEST_S = 3.0
"""Numbers that are not there by then are taken from elsewhere: ``/route/`` has to be answered within 10 s."""
SPARE = 100
"""Ends of what was put again or taken away, over as many as there are values, before they are thrown out."""


class Kept(Generic[Value]):
    """Values by name, each until a moment (epoch seconds)."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[float, Value]] = {}
        self._ends: list[tuple[float, str]] = []

    def put(self, name: str, value: Value, *, until: float, now: float) -> None:
        """Keep it; what is over is forgotten on the way."""
        self._values[name] = (until, value)
        heapq.heappush(self._ends, (until, name))
        if len(self._ends) > 2 * len(self._values) + SPARE:
            self._ends = sorted((until, name) for name, (until, _) in self._values.items())
        while self._ends and self._ends[0][0] <= now:
            self._forget_ended(heapq.heappop(self._ends)[1], now)

    def get(self, name: str, now: float) -> Value | None:
        """None: it was not kept, or is over."""
        until, value = self._values.get(name, (0.0, None))
        return value if until > now else None

    def pop(self, name: str) -> Value | None:
        """Forget it."""
        return self._values.pop(name, (0.0, None))[1]

    def values(self, now: float) -> Iterator[Value]:
        """All that are not over."""
        return (value for until, value in self._values.values() if until > now)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def spent(self) -> int:
        """How many ends are remembered, of values that are there or not."""
        return len(self._ends)

    def _forget_ended(self, name: str, now: float) -> None:
        if name in self._values and self._values[name][0] <= now:
            del self._values[name]


@dataclass(slots=True)
class _Block:
    """Numbers of one counter that are written down as used."""

    last: int
    end: int


class MemoryState:
    """Implements ``SharedState`` for one process."""

    def __init__(self, file: SqliteFile, *, clock: Clock, longest_s: float = LONGEST_S) -> None:
        self._file = file
        self._clock = clock
        self._longest_s = longest_s
        self._blocks: dict[str, _Block] = {}
        self._next_block = asyncio.Lock()
        self._workers: Kept[WorkerRecord] = Kept()
        self._requests: Kept[RequestRecord] = Kept()
        self._given: Kept[Assignment] = Kept()
        self._leaders: Kept[str] = Kept()
        self._notes: Kept[tuple[str, Mapping[str, Any]]] = Kept()
        self._held: dict[str, set[str]] = {}
        self._listeners: set[asyncio.Queue[News]] = set()

    async def next_number(self, name: str) -> int:
        block = self._blocks.get(name)
        while block is None or block.last >= block.end:
            block = await self._new_block(name)
        block.last += 1
        return block.last

    async def _new_block(self, name: str) -> _Block:
        """Whoever waits for it, waits so long at most: a disk may stand still. Raises: StoreDown."""
        try:
            async with asyncio.timeout(self._longest_s), self._next_block:
                block = self._blocks.get(name)
                if block is None or block.last >= block.end:
                    block = self._blocks[name] = await self._file.run(lambda open_file: _take(open_file, name))
                return block
        except TimeoutError as error:
            raise StoreDown("The router's database does not answer in time.") from error

    async def close(self) -> None:
        """Give numbers back that nobody got."""
        numbers = [(block.last, name) for name, block in self._blocks.items()]
        update = "UPDATE counters SET value = ? WHERE name = ?"
        with suppress(StoreDown):  # they are skipped
            await self._file.run(lambda connection: connection.executemany(update, numbers))

    async def put_worker(self, record: WorkerRecord, *, ttl_s: float) -> None:
        now = self._now()
        self._workers.put(record.worker, record, until=now + ttl_s, now=now)

    async def drop_worker(self, worker: str) -> None:
        self._workers.pop(worker)
        if not self._held_count(worker, self._now()):
            self._held.pop(worker, None)

    async def workers(self) -> Sequence[WorkerRecord]:
        return tuple(self._workers.values(self._now()))

    async def put_request(self, record: RequestRecord, *, ttl_s: float) -> None:
        now = self._now()
        self._requests.put(str(record.request_idx), record, until=now + ttl_s, now=now)

    async def request(self, request_idx: int) -> RequestRecord | None:
        return self._requests.get(str(request_idx), self._now())

    async def reserve(self, assignment: Assignment, *, slots: int, ttl_s: float) -> bool:
        now, request_id, worker = self._now(), assignment.request_id, assignment.worker
        before = self._given.get(request_id, now)
        if before is not None and before.worker == worker:
            assignment = before
        elif self._held_count(worker, now) >= slots:
            return False
        elif before is not None:
            self._release(before)
        until = now + ttl_s
        self._given.put(request_id, assignment, until=until, now=now)
        self._held.setdefault(worker, set()).add(request_id)
        return True

    async def settle(self, request_id: str) -> None:
        before = self._given.pop(request_id)
        if before is not None:
            self._release(before)

    async def assignments(self) -> Sequence[Assignment]:
        return tuple(self._given.values(self._now()))

    async def lead(self, name: str, holder: str, *, ttl_s: float) -> str:
        now = self._now()
        leader = self._leaders.get(name, now) or holder
        if leader == holder:
            self._leaders.put(name, holder, until=now + ttl_s, now=now)
        return leader

    async def put_note(self, name: str, body: Mapping[str, Any], *, ttl_s: float) -> None:
        now = self._now()
        self._notes.put(name, (name, body), until=now + ttl_s, now=now)

    async def notes(self) -> Mapping[str, Mapping[str, Any]]:
        return dict(self._notes.values(self._now()))

    async def tell(self, news: News) -> None:
        for listener in self._listeners:
            listener.put_nowait(news)

    @asynccontextmanager
    async def news(self) -> AsyncIterator[AsyncIterator[News]]:
        queue: asyncio.Queue[News] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            yield _each(queue)
        finally:
            self._listeners.discard(queue)

    def _held_count(self, worker: str, now: float) -> int:
        held = self._held.get(worker, set())
        held -= {request_id for request_id in held if self._given.get(request_id, now) is None}
        return len(held)

    def _release(self, assignment: Assignment) -> None:
        self._held.get(assignment.worker, set()).discard(assignment.request_id)

    def _now(self) -> float:
        return self._clock.now().timestamp()


async def _each(queue: "asyncio.Queue[News]") -> AsyncIterator[News]:
    while True:
        yield await queue.get()


def _take(connection: sqlite3.Connection, name: str) -> _Block:
    row = connection.execute(
        "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + ? RETURNING value",
        (name, NUMBERS_AT_ONCE, NUMBERS_AT_ONCE),
    ).fetchone()
    return _Block(last=row[0] - NUMBERS_AT_ONCE, end=row[0])
