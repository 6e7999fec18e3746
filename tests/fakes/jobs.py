"""A job service around engines under the test's control: the one place where tests build it."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lib.clock import Clock
from lib.errors import ServiceError
from lib.jobs.model import Job, JobEvent, JobSpec, OutboxItem
from lib.jobs.pipeline import PipelineLimits
from lib.jobs.ports import JobStore, LoadLedger
from lib.jobs.queue import SlotQueue
from lib.jobs.retention import Retention
from lib.jobs.service import JobService, ServiceLimits
from lib.jobs.speed import SpeedGauge
from lib.jobs.store import MemoryJobStore
from lib.lifecycle import Tasks
from tests.fakes.clock import FakeClock
from tests.fakes.engine import FakeDelivery, FakeEngine, FakeLedger, FakePreparer

RETENTION = Retention(ttl_s=600, max_results=50)


class FakeAnnouncer:
    """Implements ``lib.jobs.ports.Announcer``: one message for each of a job's webhooks that wants the event."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.told: list[tuple[str, JobEvent]] = []
        """Request ids and events of the messages that are recorded."""
        self.names: dict[str, str] = {}

    def messages(self, job: Job, event: JobEvent) -> tuple[OutboxItem, ...]:
        self.names[job.job_id] = job.spec.request_id
        now = self._clock.now()
        return tuple(
            OutboxItem(
                message_id=f"{job.job_id}:{event}:{number}",
                job_id=job.job_id,
                owner=job.spec.owner,
                event=event,
                target=target,
                body=b"{}",
                created_at=now,
                next_at=now,
            )
            for number, target in enumerate(job.spec.delivery.webhooks)
            if event in target.events
        )

    def stored(self, items: tuple[OutboxItem, ...]) -> None:
        self.told += [(self.names[item.job_id], item.event) for item in items]


class SlowStore(MemoryJobStore):
    """Writes when ``gate`` is open, fails with ``error`` where there is one."""

    def __init__(self, *, clock: Clock) -> None:
        super().__init__(clock=clock, retention=RETENTION)
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: ServiceError | None = None
        self.updates: list[Job] = []

    async def add(self, job: Job) -> None:
        await self._turn()
        await super().add(job)

    def update(self, job: Job, outbox: tuple[OutboxItem, ...] = ()) -> None:
        self.updates.append(job)
        super().update(job, outbox)

    async def write(self, job: Job) -> None:
        await self._turn()
        await super().write(job)

    async def finish(self, job: Job, outbox: tuple[OutboxItem, ...] = ()) -> None:
        await self._turn()
        await super().finish(job, outbox)

    async def _turn(self) -> None:
        await asyncio.sleep(0)
        await self.gate.wait()
        if self.error is not None:
            raise self.error


@dataclass(kw_only=True)
class JobWorld:
    """A job service and everything around it."""

    service: JobService
    engines: list[FakeEngine]
    preparer: FakePreparer
    delivery: FakeDelivery
    announcer: FakeAnnouncer
    ledger: Any
    queue: SlotQueue
    speed: SpeedGauge
    store: Any
    clock: Any
    tasks: Tasks
    blocked: list[str]
    """Reasons why the worker is not ready."""

    @property
    def engine(self) -> FakeEngine:
        return self.engines[0]


def build_jobs(
    engines: Sequence[FakeEngine] | None = None,
    *,
    clock: Clock | None = None,
    tasks: Tasks | None = None,
    ledger: LoadLedger | None = None,
    store: JobStore | None = None,
    preparer: FakePreparer | None = None,
    delivery: FakeDelivery | None = None,
    durable: bool = True,
    in_flight: int = 100,
    backlog_bytes: int = 1000,
    request_bytes: int = 1 << 20,
    prepare_workers: int = 2,
    prepared_bytes: int = 1 << 20,
    watch_interval_s: float = 0.0,
    ready: asyncio.Event | None = None,
    kind: type[JobService] = JobService,
) -> JobWorld:
    """Build a service over fakes; give a ``store`` that another one has used to play a restart. Until ``ready`` the
    worker starts."""
    engines = list(engines if engines is not None else [FakeEngine()])
    clock, tasks, speed = clock or FakeClock(), tasks or Tasks(), SpeedGauge()
    queue, blocked = SlotQueue(engines, clock=clock), list[str]()
    preparer, delivery = preparer or FakePreparer(), delivery or FakeDelivery()
    store, announcer = store or MemoryJobStore(clock=clock, retention=RETENTION), FakeAnnouncer(clock)
    ledger = ledger or FakeLedger()  # type: ignore[assignment]
    assert ledger is not None

    def starting() -> bool:
        return ready is not None and not ready.is_set()

    service = kind(
        queue=queue,
        preparer=preparer,
        delivery=delivery,
        store=store,
        announcer=announcer,
        ledger=ledger,
        speed=speed,
        clock=clock,
        tasks=tasks,
        limits=ServiceLimits(
            in_flight=in_flight,
            request_bytes=request_bytes,
            backlog_bytes=backlog_bytes,
            watch_interval_s=watch_interval_s,
            pipeline=PipelineLimits(prepare_workers=prepare_workers, deliver_workers=2, prepared_bytes=prepared_bytes),
        ),
        readiness=lambda: blocked[0] if blocked else "starting" if starting() else None,
        durable=durable,
        starting=starting,
        until_ready=None if ready is None else ready.wait,
    )
    return JobWorld(
        service=service,
        engines=engines,
        preparer=preparer,
        delivery=delivery,
        announcer=announcer,
        ledger=ledger,
        queue=queue,
        speed=speed,
        store=store,
        clock=clock,
        tasks=tasks,
        blocked=blocked,
    )


def spec(request_id: str = "r", **changes: Any) -> JobSpec:
    """A request of nothing in particular."""
    return replace(JobSpec(request_id=request_id, dialect="test", workflow=b"{}", body_hash="h"), **changes)


async def finished(world: JobWorld, job: Job) -> Job:
    """Wait for a job's end."""
    return await asyncio.wait_for(world.service.wait(job.job_id), 60)


async def finish_all(world: JobWorld, condition: Callable[[], bool], *, turns: int = 50) -> None:
    """End prompts as they run until ``condition`` holds."""
    for _ in range(turns):
        if condition():
            return
        for engine in world.engines:
            if any(entry.running and not entry.end.done() for entry in engine.posted):
                engine.finish()
        await asyncio.sleep(0)
    raise AssertionError("the condition never held")


def restart(world: JobWorld, *, engines: Iterable[FakeEngine] | None = None) -> JobWorld:
    """Play ``kill -9``: the first service hears nothing more of its engines, a second one starts over the store."""
    for engine in world.engines:
        engine.sever()
    kept = list(engines if engines is not None else world.engines)
    return build_jobs(kept, clock=world.clock, store=world.store)
