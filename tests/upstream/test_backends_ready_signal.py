"""The words in the log by which Vast's images know that the backends are there, or won't be."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest

from lib.app.condition import Condition
from lib.app.engines import EngineWatch
from lib.telemetry.metrics import WorkerMetrics
from tests.fakes.clock import FakeClock
from tests.fakes.engine_world import until
from tests.fakes.jobs import build_jobs
from tests.upstream.stand_ins import Lines, StubEngine

READY, LATE, LOST = "BACKENDS_READY", "BACKENDS_READY_TIMEOUT", "BACKEND_UNRECOVERABLE"


Watch = Callable[[Sequence[StubEngine], float], EngineWatch]


@pytest.fixture
def watch() -> Watch:
    """What judges the engines; the seconds are its patience."""
    metrics = WorkerMetrics()

    def made(engines: Sequence[StubEngine], patience_s: float) -> EngineWatch:
        jobs = build_jobs()
        return EngineWatch(
            engines,  # type: ignore[arg-type]
            servers=engines,  # type: ignore[arg-type]
            condition=Condition(clock=FakeClock()),
            queue=jobs.queue,
            service=jobs.service,
            metrics=metrics,
            tasks=jobs.tasks,
            clock=jobs.clock,
            patience_s=patience_s,
            retry_s=1.0,
        )

    return made


async def test_ready_is_said_when_all_backends_answer(watch: Watch, logged: Lines) -> None:
    """Once, and not the word for being late."""
    await watch([StubEngine("a"), StubEngine("b")], 5).wait_ready()
    assert (logged.count(READY), logged.count(LATE)) == (1, 0)
    assert "BACKENDS_READY: 2 backend(s) reachable, ready to serve" in logged.lines


async def test_backends_that_never_come_are_late_and_never_ready(watch: Watch, logged: Lines) -> None:
    """Said once; the worker goes on waiting."""
    waiting = asyncio.create_task(watch([StubEngine(healthy=False)], 0.02).wait_ready())

    async def said() -> bool:
        return logged.count(LATE) > 0

    await until(said)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    assert (logged.count(READY), logged.count(LATE)) == (0, 1)


async def test_a_backend_that_comes_late_is_ready_once(watch: Watch, logged: Lines) -> None:
    """All must be there: one of two is not enough while there is patience."""
    early, late = StubEngine("a"), StubEngine("b", healthy=False)
    waiting = asyncio.create_task(watch([early, late], 30).wait_ready())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert logged.count(READY) == 0
    late.turn(True)
    await asyncio.wait_for(waiting, 60)
    late.turn(False, "it hiccups")
    late.turn(True)
    assert (logged.count(READY), logged.count(LATE)) == (1, 0)


async def test_a_backend_that_stays_away_is_called_unrecoverable(watch: Watch, logged: Lines) -> None:
    """With the reason, after the same patience; without a known one it says so (upstream: ``unspecified``)."""
    for reason in ("illegal memory access", None):
        engine = StubEngine()
        watching = watch([engine], 0.02)
        await watching.wait_ready()
        engine.turn(False, reason)
        expected = f"{LOST}: {reason or 'unknown'}"

        async def said(expected: str = expected) -> bool:
            return expected in logged.lines

        await until(said)
        engine.turn(True)
