"""lib.jobs.store: what is remembered of finished jobs (``test_rules`` has how long)."""

import gc
from datetime import UTC, datetime
from typing import Any

import pytest

from lib.jobs.model import Job, JobSpec, Timings
from lib.jobs.store import MemoryJobStore
from tests.fakes.clock import FakeClock


async def finished(response: dict[str, Any]) -> MemoryJobStore:
    """A store with one finished job, ``j``."""
    store = MemoryJobStore(clock=FakeClock(), ttl_s=60, max_results=2)
    job = Job(
        job_id="j",
        spec=JobSpec(request_id="r", dialect="test", workflow=b"{}"),
        sequence=1,
        cost=100.0,
        timings=Timings(accepted_at=datetime.now(UTC)),
        response=response,
    )
    await store.add(job)
    await store.finish(job)
    return store


@pytest.mark.parametrize("value", ["text", 2**70, float("1e300"), "\ud800", [{"a": None}]])
async def test_a_response_comes_back_as_it_was(value: Any) -> None:
    """Also what only Python's own JSON encoder takes."""
    store = await finished({"p": {"outputs": value}})
    for found in (await store.get("j"), await store.latest("r")):
        assert found is not None and found.response == {"p": {"outputs": value}}


async def test_a_response_is_not_kept_as_objects() -> None:
    """A graph as objects takes ten times its JSON, for hours."""
    mark = "a key of this test"
    store = await finished({"p": {mark: [[]]}})
    gc.collect()
    assert await store.get("j") is not None
    assert not [found for found in gc.get_objects() if type(found) is dict and mark in found]
