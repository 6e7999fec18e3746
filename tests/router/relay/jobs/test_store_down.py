"""What callers are told while the store is away, and what goes on: everything that needs no record."""

import asyncio
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from router.ports import JobState, JobStore, RelayJob, StoreDown
from router.store import DATABASE
from tests.fakes.job_worker import workflow
from tests.fakes.router_world import ACCOUNT
from tests.router.relay.jobs.conftest import JobsWorld, Start
from tests.router.store.redis_server import REDIS_SERVER, RedisServer

STATE_KEY = "ab" * 32
SILENT = "the connection broke off"


class Unheard:
    """A store whose answer to ``add`` is lost; ``writes``: the job was recorded before, ``reads``: it tells of it."""

    def __init__(self, jobs: JobStore, *, writes: bool, reads: bool) -> None:
        self._jobs = jobs
        self._writes = writes
        self.reads = reads

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jobs, name)

    async def add(self, job: RelayJob) -> RelayJob:
        if self._writes:
            await self._jobs.add(job)
        raise StoreDown(SILENT)

    async def get(self, job_id: str) -> RelayJob | None:
        if not self.reads:
            raise StoreDown(SILENT)
        return await self._jobs.get(job_id)


async def health(world: JobsWorld) -> Any:
    status, told = await world.get("/health", key=ACCOUNT)
    assert status == 200
    return told


async def is_healthy_again(world: JobsWorld) -> None:
    back = asyncio.Event()
    world.ground.core.link.listen(lambda trouble: back.set() if trouble is None else None)
    if (await health(world))["status"] != "healthy":
        await back.wait()
    assert (await health(world))["status"] == "healthy"


async def nothing_is_accepted(world: JobsWorld) -> None:
    """Each API's clients are told to come again in their own words, and nothing has ended for them."""
    told = await world.submit("lost", status=503)
    assert (told["status"], told["retryable"], world.headers["Retry-After"]) == ("failed", True, "5")
    for path in ("run", "runsync"):
        status, told = await world.call(f"/v2/ep/{path}", {"input": {"workflow": workflow("lost")}})
        assert status == 503 and "status" not in told and isinstance(told["error"], str)
    asked = {"prompt": workflow("lost"), "webhook": "https://example.com/hook"}
    status, told = await world.call("/prompt", asked)
    assert (status, told["statusCode"], told["error"]) == (503, 503, "Service Unavailable")
    assert (await health(world))["status"] == "degraded"
    _, metrics = await world.text("/metrics", key=ACCOUNT)
    assert "pyrouter_store_up 0.0" in metrics


@pytest.mark.skipif(REDIS_SERVER is None, reason="redis-server is not installed (Debian: apt-get install redis-server)")
async def test_a_server_that_is_away(start: Start, tmp_path: Path) -> None:
    """No job seems to have ended; when it is back, each ends as it did."""
    redis = RedisServer(tmp_path, fsync="always")
    redis.start()
    try:
        world = await start(store=redis.url, state_key=STATE_KEY)
        book = await world.join()
        done = await world.submit("a")
        assert (await world.result(done))[0] == 200
        runpod = (await world.call("/v2/ep/run", {"input": {"workflow": workflow("b")}}))[1]["id"]
        book.hold()
        live = await world.submit("c")
        redis.kill()
        await nothing_is_accepted(world)
        for job in (done, live):
            status, told = await world.result(job)
            assert (status, told["status"], world.headers["Retry-After"]) == (503, "pending", "5")
            status, told = await world.call(f"/cancel/{job['job_id']}")
            assert (status, told["status"]) == (503, "pending")
        for path in ("status", "status-sync", "stream"):
            status, told = await world.get(f"/v2/ep/{path}/{runpod}?wait=1000")
            assert (status, told["id"], told["status"]) == (503, runpod, "IN_QUEUE")
        redis.start()
        book.let.set()
        await is_healthy_again(world)
        assert {(await world.result(job))[0] for job in (done, live)} == {200}
        assert (await world.get(f"/v2/ep/status-sync/{runpod}"))[1]["status"] == "COMPLETED"
        assert sorted(book.done) == ["a", "b", "c"]
    finally:
        redis.stop()


async def test_a_database_that_cannot_be_written(start: Start, tmp_path: Path) -> None:
    """Somebody holds it: whoever waits behind the first hears of it at once, and work that is begun goes on."""
    world = await start()
    book = await world.join()
    done = await world.submit("a")
    assert (await world.result(done))[0] == 200
    with closing(sqlite3.connect(tmp_path / "state" / DATABASE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(40):  # five seconds for the first; for each of them it would be seventy
            await nothing_is_accepted(world)
            for _ in range(10):
                assert (await world.result(done))[0] == 503
        other.execute("ROLLBACK")
    await is_healthy_again(world)
    assert (await world.result(done))[0] == 200
    again = await world.submit("b")
    assert (await world.result(again))[0] == 200 and book.done == ["a", "b"]


async def test_a_record_that_is_damaged_is_an_end(start: Start, tmp_path: Path) -> None:
    """Its caller does not wait for what can't come back; others are served."""
    world = await start()
    lost = [await world.submit("a"), (await world.call("/v2/ep/run", {"input": {"workflow": workflow("b")}}))[1]]
    with closing(sqlite3.connect(tmp_path / "state" / DATABASE)) as other, other:
        other.execute("UPDATE jobs SET body = x'00'")
    await world.join()
    job = await world.submit("c")
    assert (await world.result(job))[0] == 200
    status, told = await world.result(lost[0])
    assert (status, told["status"], told["error"]) == (502, "failed", "storage_failed")
    kept = await world.ground.jobs.listed(tenant="ep/", states=(JobState.DEAD,), limit=9)
    assert len(kept) == 2
    status, told = await world.get(f"/v2/ep/status/{lost[1]['id']}")
    assert (status, told["id"], told["status"]) == (502, lost[1]["id"], "FAILED")


async def test_a_job_whose_record_is_not_confirmed_is_looked_up(start: Start) -> None:
    """What is recorded is accepted, and done once; what is not is refused, and never done."""
    world = await start("one", jobs=lambda jobs: Unheard(jobs, writes=True, reads=True))
    book = await world.join()
    job = await world.submit("a")
    assert (await world.result(job))[0] == 200
    name = (await world.call("/v2/ep/run", {"input": {"workflow": workflow("b")}}))[1]["id"]
    assert (await world.get(f"/v2/ep/status-sync/{name}"))[1]["status"] == "COMPLETED"
    assert book.done == ["a", "b"]
    other = await start("other", jobs=lambda jobs: Unheard(jobs, writes=False, reads=True))
    told = await other.submit("c", status=503)
    assert (told["message"], "details" in told) == ("Jobs can't be recorded now; send it again.", False)
    assert (await other.get("/jobs"))[1] == {"jobs": []}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"input": {"workflow_json": workflow("a")}}),
        ("/v2/ep/run", {"input": {"workflow": workflow("a")}}),
        ("/prompt", {"prompt": workflow("a"), "webhook": "https://example.com/hook"}),
    ],
)
async def test_a_job_of_which_nobody_knows_is_named(start: Start, path: str, body: dict[str, Any]) -> None:
    """Each API's caller can ask for it when the store is back, and find it there."""
    stores: list[Unheard] = []
    world = await start(jobs=lambda jobs: stores.append(Unheard(jobs, writes=True, reads=False)) or stores[0])
    status, told = await world.call(path, body)
    text = told["error"] if path.startswith("/v2") else told["message"]
    found = re.fullmatch(
        r"The store fell silent: job (\S+) may be recorded. Ask for it before you send it again.", text
    )
    assert (status, world.headers["Retry-After"]) == (503, "5") and found is not None
    stores[0].reads = True
    asked = "/v2/ep/status/" if path.startswith("/v2") else "/result/"
    status, told = await world.get(asked + found[1])
    assert (status, told["status"]) in ((200, "pending"), (200, "IN_QUEUE"), (200, "queued"))
