"""lib.app.boot: the benchmark's way into the service."""

import pytest

from lib.app.boot import ServiceRunner
from lib.errors import JobTimeout
from tests.fakes.clock import settle
from tests.fakes.engine import FakeEngine
from tests.fakes.jobs import build_jobs


async def test_a_run_on_an_engine_that_went_down_ends_in_time() -> None:
    """The other engine is healthy, so nobody fails the waiting run; the start must not hang on it."""
    engines = [FakeEngine("gpu0"), FakeEngine("gpu1")]
    world = build_jobs(engines)
    engines[1].healthy = False
    runner = ServiceRunner(world.service, engines, clock=world.clock)  # type: ignore[arg-type]
    with pytest.raises(JobTimeout):
        await runner.run(b"{}", engine="gpu1", timeout_s=0.05)
    await settle()
    assert world.service.in_flight_count == 0
