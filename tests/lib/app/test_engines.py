"""lib.app.engines: what engines' health means, and that one that was started anew is warm before it works."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from lib.app.boot import ServiceRunner
from lib.app.condition import Condition
from lib.app.engines import WARMING, EngineWatch
from lib.errors import ExecutionFailed
from lib.jobs.model import JobStatus
from lib.lifecycle import Tasks
from lib.telemetry.metrics import WorkerMetrics
from tests.fakes.clock import FakeClock, settle
from tests.fakes.engine import FakeEngine
from tests.fakes.jobs import JobWorld, build_jobs, spec

RETRY_S = 5.0


@pytest.fixture
def metrics() -> WorkerMetrics:
    """It reads of the host, which no event loop may wait for."""
    return WorkerMetrics()


class Watched(FakeEngine):
    """Tells who listens of its health, as ``ComfyEngine`` does, and is the process that it counts."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.recycling = False
        self.generation = 1
        self.down_reason: str | None = None
        self._listeners: list[Callable[[bool], None]] = []

    def on_health(self, listener: Callable[[bool], None]) -> None:
        self._listeners.append(listener)

    async def wait_ready(self) -> None:
        assert self.healthy

    def turned(self, *, healthy: bool, recycling: bool = False) -> None:
        self.healthy, self.recycling = healthy, recycling
        self.down_reason = None if healthy else "exit code 1"
        for listener in self._listeners:
            listener(healthy)

    async def restarted(self, *, planned: bool = False) -> None:
        """Down, and up again as another process."""
        self.die()
        self.turned(healthy=False, recycling=planned)
        await settle()
        self.generation += 1
        self.turned(healthy=True)
        await settle()


@dataclass(kw_only=True)
class World:
    """A worker that is ready, with the operator's warm-up."""

    jobs: JobWorld
    engines: list[Watched]
    condition: Condition
    watch: EngineWatch
    tasks: Tasks = field(repr=False)

    @property
    def clock(self) -> FakeClock:
        assert isinstance(self.jobs.clock, FakeClock)
        return self.jobs.clock


async def ready(metrics: WorkerMetrics, count: int = 1, *, warms: bool = True) -> World:
    engines, tasks = [Watched(f"gpu{number}") for number in range(count)], Tasks()
    jobs = build_jobs(engines, tasks=tasks)
    condition = Condition(clock=jobs.clock)
    watch = EngineWatch(
        engines,  # type: ignore[arg-type]
        servers=engines,  # type: ignore[arg-type]
        condition=condition,
        queue=jobs.queue,
        service=jobs.service,
        metrics=metrics,
        tasks=tasks,
        clock=jobs.clock,
        patience_s=60.0,
        retry_s=RETRY_S,
    )
    await watch.wait_ready()
    condition.opened()
    runner = ServiceRunner(jobs.service, engines, clock=jobs.clock)  # type: ignore[arg-type]
    if warms:
        runner.warm_again(b"{}", timeout_s=1000.0)
    watch.keep_warm(runner.again)
    return World(jobs=jobs, engines=engines, condition=condition, watch=watch, tasks=tasks)


def names(engine: FakeEngine) -> list[bool]:
    """Of the prompts that are with it: whether each is our own."""
    return [posted.job.spec.internal for posted in engine.posted]


async def submitted(world: World, request_id: str = "r") -> str:
    job_id = (await world.jobs.service.submit(spec(request_id))).job_id
    await settle()
    return job_id


async def test_an_engine_that_was_started_anew_is_warmed_up_before_it_works(metrics: WorkerMetrics) -> None:
    """Until then the worker takes no jobs, and one that waits gets no turn; then both go on."""
    world = await ready(metrics)
    (engine,) = world.engines
    job_id = await submitted(world)
    await engine.restarted()
    assert world.condition.reason == WARMING and names(engine) == [True]
    engine.finish()
    await settle()
    assert world.condition.reason is None and names(engine) == [False]
    engine.finish()
    assert (await world.jobs.service.wait(job_id)).status is JobStatus.COMPLETED
    await world.tasks.cancel()


async def test_without_a_warm_up_of_the_operators_it_works_at_once(metrics: WorkerMetrics) -> None:
    """What is back is fit."""
    world = await ready(metrics, warms=False)
    await world.engines[0].restarted()
    assert world.condition.reason is None and names(world.engines[0]) == []
    await world.tasks.cancel()


async def test_an_engine_that_was_only_out_of_reach_is_still_warm(metrics: WorkerMetrics) -> None:
    """It is the same process."""
    world = await ready(metrics)
    world.engines[0].turned(healthy=False)
    assert world.condition.error == "ComfyUI is down: exit code 1"
    world.engines[0].turned(healthy=True)
    await settle()
    assert world.condition.reason is None and names(world.engines[0]) == []
    await world.tasks.cancel()


async def test_a_warm_up_that_fails_is_tried_again(metrics: WorkerMetrics) -> None:
    """Why is told meanwhile."""
    world = await ready(metrics)
    (engine,) = world.engines
    await engine.restarted()
    engine.finish(ExecutionFailed("no memory"))
    await settle()
    assert world.condition.error == "the warm-up after the restart of ComfyUI failed: no memory"
    await world.clock.advance(RETRY_S)
    await settle()
    engine.finish()
    await settle()
    assert world.condition.reason is None
    await world.tasks.cancel()


async def test_beside_another_engine_nobody_notices(metrics: WorkerMetrics) -> None:
    """Jobs go to the one that is fit, and admission stays open; when it is warm it works too."""
    world = await ready(metrics, 2)
    first, second = world.engines
    await second.restarted()
    assert world.condition.reason is None and names(second) == [True]
    await submitted(world, "a")
    await submitted(world, "b")
    assert names(first) == [False, False] and names(second) == [True]
    second.finish()
    await settle()
    assert names(second) == [False]  # the one that waited behind the other's
    await world.tasks.cancel()


async def test_one_that_was_renewed_on_purpose_closes_nothing(metrics: WorkerMetrics) -> None:
    """Jobs wait for it, as they do while it restarts."""
    world = await ready(metrics)
    await world.engines[0].restarted(planned=True)
    assert world.condition.reason is None and names(world.engines[0]) == [True]
    await submitted(world)
    assert names(world.engines[0]) == [True]
    world.engines[0].finish()
    await settle()
    assert names(world.engines[0]) == [False]
    await world.tasks.cancel()
