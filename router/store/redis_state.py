"""Shared state of several routers, on a Redis-protocol server (Valkey, Redis >= 6.2)."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson

from lib.clock import Clock
from router.model import Assignment
from router.ports import News, RequestRecord, WorkerRecord
from router.store import redis_scripts as scripts
from router.store.codec import read, read_news, write
from router.store.redis_line import PREFIX, RedisLine

WORKERS = "workers"
REQUESTS = "requests"
GIVEN = "given"
NOTES = "notes"
CHANNEL = f"{PREFIX}news"


class RedisState:
    """Implements ``SharedState``."""

    def __init__(self, line: RedisLine, *, clock: Clock) -> None:
        self._line = line
        self._clock = clock

    async def next_number(self, name: str) -> int:
        return int(await self._line.call("INCR", f"{PREFIX}number:{name}"))

    async def put_worker(self, record: WorkerRecord, *, ttl_s: float) -> None:
        now = self._now()
        await self._line.run(scripts.PUT, WORKERS, record.worker, write(record), now, now + ttl_s)

    async def drop_worker(self, worker: str) -> None:
        await self._line.run(scripts.DROP, WORKERS, worker)

    async def workers(self) -> Sequence[WorkerRecord]:
        found = await self._line.run(scripts.ALL, WORKERS, self._now())
        return [read(WorkerRecord, one) for one in found]

    async def put_request(self, record: RequestRecord, *, ttl_s: float) -> None:
        now = self._now()
        await self._line.run(scripts.PUT, REQUESTS, record.request_idx, write(record), now, now + ttl_s)

    async def request(self, request_idx: int) -> RequestRecord | None:
        found = await self._line.run(scripts.ONE, REQUESTS, request_idx, self._now())
        return read(RequestRecord, found) if found else None

    async def reserve(self, assignment: Assignment, *, slots: int, ttl_s: float) -> bool:
        now, record = self._now(), write(assignment)
        asked = (assignment.request_id, assignment.worker, record, slots, now, now + ttl_s)
        return bool(await self._line.run(scripts.RESERVE, *asked))

    async def settle(self, request_id: str) -> None:
        await self._line.run(scripts.SETTLE, request_id)

    async def assignments(self) -> Sequence[Assignment]:
        found = await self._line.run(scripts.ALL, GIVEN, self._now())
        return [read(Assignment, one) for one in found]

    async def lead(self, name: str, holder: str, *, ttl_s: float) -> str:
        now = self._now()
        return bytes(await self._line.run(scripts.LEAD, name, holder, now, now + ttl_s)).decode()

    async def put_note(self, name: str, body: Mapping[str, Any], *, ttl_s: float) -> None:
        now, note = self._now(), orjson.dumps([name, body])
        await self._line.run(scripts.PUT, NOTES, name, note, now, now + ttl_s)

    async def notes(self) -> Mapping[str, Mapping[str, Any]]:
        return dict(orjson.loads(one) for one in await self._line.run(scripts.ALL, NOTES, self._now()))

    async def tell(self, news: News) -> None:
        await self._line.call("PUBLISH", CHANNEL, write(news))

    @asynccontextmanager
    async def news(self) -> AsyncIterator[AsyncIterator[News]]:
        async with self._line.listen(CHANNEL) as published:
            yield _known(published)

    def _now(self) -> float:
        return self._clock.now().timestamp()


async def _known(published: AsyncIterator[bytes]) -> AsyncIterator[News]:
    async for told in published:
        if (news := read_news(told)) is not None:
            yield news
