"""A store that replicas of the router share, in memory; it can be down, and held."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from router.model import Assignment
from router.ports import News, RequestRecord, StoreDown, WorkerRecord


@dataclass
class FakeStore:
    """Implements ``router.ports.SharedState``; one object for all replicas. ``calls`` counts by name."""

    down: bool = False
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Reservations wait while it is not set (it is, at first)."""
    calls: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    known_workers: dict[str, WorkerRecord] = field(default_factory=dict)
    requests: dict[int, RequestRecord] = field(default_factory=dict)
    held: dict[str, Assignment] = field(default_factory=dict)
    leaders: dict[str, str] = field(default_factory=dict)
    left: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    listeners: list[asyncio.Queue[News | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    def fail(self) -> None:
        """Be down from now on; whoever listens is cut off."""
        self.down = True
        for listener in self.listeners:
            listener.put_nowait(None)

    async def next_number(self, name: str) -> int:
        self._call("next_number")
        self.numbers[name] = self.numbers.get(name, 0) + 1
        return self.numbers[name]

    async def put_worker(self, record: WorkerRecord, *, ttl_s: float) -> None:
        self._call("put_worker")
        self.known_workers[record.worker] = record

    async def drop_worker(self, worker: str) -> None:
        self._call("drop_worker")
        self.known_workers.pop(worker, None)

    async def workers(self) -> list[WorkerRecord]:
        self._call("workers")
        return list(self.known_workers.values())

    async def put_request(self, record: RequestRecord, *, ttl_s: float) -> None:
        self._call("put_request")
        self.requests[record.request_idx] = record

    async def request(self, request_idx: int) -> RequestRecord | None:
        self._call("request")
        return self.requests.get(request_idx)

    async def reserve(self, assignment: Assignment, *, slots: int, ttl_s: float) -> bool:
        self._call("reserve")
        await self.gate.wait()
        known = self.held.get(assignment.request_id)
        if known is not None and known.worker == assignment.worker:
            return True
        if sum(one.worker == assignment.worker for one in self.held.values()) >= slots:
            return False
        self.held[assignment.request_id] = assignment
        return True

    async def settle(self, request_id: str) -> None:
        self._call("settle")
        self.held.pop(request_id, None)

    async def assignments(self) -> list[Assignment]:
        self._call("assignments")
        return list(self.held.values())

    async def lead(self, name: str, holder: str, *, ttl_s: float) -> str:
        """For ever, unless it is given up."""
        self._call("lead")
        leader = self.leaders.setdefault(name, holder)
        if leader == holder and ttl_s <= 0:
            del self.leaders[name]
        return leader

    async def put_note(self, name: str, body: Mapping[str, Any], *, ttl_s: float) -> None:
        self._call("put_note")
        self.left[name] = body

    async def notes(self) -> Mapping[str, Mapping[str, Any]]:
        self._call("notes")
        return dict(self.left)

    async def tell(self, news: News) -> None:
        self._call("tell")
        for listener in self.listeners:
            listener.put_nowait(news)

    @asynccontextmanager
    async def news(self) -> AsyncIterator[AsyncIterator[News]]:
        self._call("news")
        queue: asyncio.Queue[News | None] = asyncio.Queue()
        self.listeners.append(queue)
        try:
            yield self._read(queue)
        finally:
            self.listeners.remove(queue)

    async def _read(self, queue: asyncio.Queue[News | None]) -> AsyncIterator[News]:
        while (one := await queue.get()) is not None:
            yield one
        raise StoreDown("The store went away.")

    def _call(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        if self.down:
            raise StoreDown("The store is down.")


def counts(store: FakeStore) -> Mapping[str, int]:
    """How many requests each worker holds, as the store sees it."""
    found: dict[str, int] = {}
    for assignment in store.held.values():
        found[assignment.worker] = found.get(assignment.worker, 0) + 1
    return found
