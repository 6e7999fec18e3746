"""lib.fleet.salad: the metadata service hears how many jobs are unfinished. It is a real server on loopback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

import aiohttp
import pytest
from aiohttp import web

from lib.fleet.salad import DeletionCost
from lib.jobs.model import Job, JobSpec, JobStatus, Timings
from lib.lifecycle import Tasks
from tests.fakes.clock import FakeClock


@dataclass
class Metadata:
    """SaladCloud's metadata service; ``status`` is what it answers."""

    status: int = 200
    told: asyncio.Queue[tuple[dict[str, int], str | None]] = field(default_factory=asyncio.Queue)
    url: str = ""
    _runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_put("/v1/deletion-cost", self._put)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _put(self, request: web.Request) -> web.Response:
        self.told.put_nowait((await request.json(), request.headers.get("Metadata")))
        return web.Response(status=self.status)

    async def cost(self) -> int:
        """The next one that it is told."""
        async with asyncio.timeout(60):
            body, header = await self.told.get()
        assert header == "true" and list(body) == ["deletion_cost"]
        return body["deletion_cost"]


class Clock(FakeClock):
    """Says when somebody sleeps."""

    def __init__(self) -> None:
        super().__init__()
        self._asleep = asyncio.Event()

    async def sleep(self, delay_s: float) -> None:
        self._asleep.set()
        await super().sleep(delay_s)

    async def until_sleeping(self) -> None:
        async with asyncio.timeout(60):
            await self._asleep.wait()
        self._asleep.clear()


def job(name: str, status: JobStatus = JobStatus.QUEUED) -> Job:
    spec = JobSpec(request_id=name, dialect="salad", workflow=b"{}")
    timings = Timings(accepted_at=datetime(2026, 1, 1, tzinfo=UTC))
    return Job(job_id=name, spec=spec, sequence=1, cost=1.0, timings=timings, status=status)


@asynccontextmanager
async def telling(metadata: Metadata, clock: Clock, *, in_flight: int = 1000) -> AsyncIterator[DeletionCost]:
    async with aiohttp.ClientSession() as http, Tasks() as tasks:
        cost = DeletionCost(metadata.url, http=http, in_flight=lambda: in_flight, clock=clock)
        tasks.spawn(cost.run(), name="cost")
        yield cost


@pytest.fixture
async def metadata() -> AsyncIterator[Metadata]:
    async with Metadata() as service:
        yield service


async def test_each_change_is_told_and_several_together(metadata: Metadata) -> None:
    """Jobs count from acceptance to their end; what changes within a second is one call."""
    clock = Clock()
    async with telling(metadata, clock) as cost:
        cost.changed(job("a"))
        cost.changed(job("b"))
        cost.changed(job("b", JobStatus.RUNNING))
        assert await metadata.cost() == 2
        await clock.until_sleeping()
        cost.changed(job("a", JobStatus.COMPLETED))
        cost.changed(job("b", JobStatus.FAILED))
        await clock.advance(1.0)
        assert await metadata.cost() == 0
        assert metadata.told.empty()


async def test_what_could_not_be_told_is_told_with_the_next_change(metadata: Metadata) -> None:
    """An error is ignored, and the number is not believed to be known."""
    clock = Clock()
    metadata.status = 500
    async with telling(metadata, clock) as cost:
        cost.changed(job("a"))
        assert await metadata.cost() == 1
        await clock.until_sleeping()
        metadata.status = 200
        cost.changed(job("b"))
        cost.changed(job("b", JobStatus.CANCELLED))
        await clock.advance(1.0)
        assert await metadata.cost() == 1


async def test_jobs_that_vanished_do_not_count(metadata: Metadata) -> None:
    """A job that was refused by the store never ends: the worker holds none then."""
    clock = Clock()
    async with telling(metadata, clock, in_flight=0) as cost:
        cost.changed(job("a"))
        assert await metadata.cost() == 0
