"""One job through prepare, execute, collect, deliver.

Prepare and deliver run beside the engines in pools of their own; only execute holds a slot. Raises what went wrong;
the service makes it an outcome.
"""

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import orjson

from lib.clock import Clock
from lib.errors import InputFetchFailed
from lib.jobs.ahead import Ahead
from lib.jobs.attempts import Attempts, Held
from lib.jobs.copies import changed
from lib.jobs.journal import Journal
from lib.jobs.live import LiveJob
from lib.jobs.model import Job, JobSpec, JobStatus, Output, Stage, StoreKind, StoreTarget, Timings
from lib.jobs.patience import Patience
from lib.jobs.ports import Aside, Delivery, Execution, Prepared, Preparer
from lib.jobs.queue import SlotQueue
from lib.jobs.requests import lightened
from lib.jobs.seats import Seats
from lib.jobs.speed import SpeedGauge

BIG_WORKFLOW_BYTES = 256 * 1024
"""Workflows above this (inputs inside) are decoded in a thread."""
LOW_SHARE = 2
"""Jobs of low priority are prepared in a pool of their own, one part in so many as large as the others': however many
of them wait there for their turn, they keep nobody from getting ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineLimits:
    """Pool sizes in jobs; ``timeout_s`` bounds one execution. ``prepared_bytes`` is the size of the requests that are
    decoded at the same time: decoded they take several times as much. Both are without jobs of low priority
    (``LOW_SHARE``)."""

    prepare_workers: int
    deliver_workers: int
    timeout_s: float | None = None
    prepared_bytes: int = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """What the pipeline made of a job."""

    outputs: tuple[Output, ...]
    timings: Timings


class Pipeline:
    """Moves jobs. ``backlog_bytes`` is the size of outputs that are collected and not delivered."""

    def __init__(
        self,
        *,
        queue: SlotQueue,
        preparer: Preparer,
        delivery: Delivery,
        journal: Journal,
        ahead: Ahead,
        patience: Patience,
        speed: SpeedGauge,
        clock: Clock,
        limits: PipelineLimits,
    ) -> None:
        self._engines = frozenset(engine.name for engine in queue.engines)
        self._preparer = preparer
        self._delivery = delivery
        self._ahead = ahead
        self._patience = patience
        self._speed = speed
        self._clock = clock
        self._attempts = Attempts(queue=queue, ahead=ahead, journal=journal, clock=clock, timeout_s=limits.timeout_s)
        count = limits.prepare_workers + queue.slot_count
        self._prepared_seats = Seats(count, most_bytes=limits.prepared_bytes)
        self._low_seats = Seats(max(count // LOW_SHARE, 1), most_bytes=limits.prepared_bytes // LOW_SHARE)
        self._deliver_seats = Seats(limits.deliver_workers)
        self._foreign_seats = Seats(limits.deliver_workers)
        """Uploads to places that callers name have seats of their own: one that hangs holds up its like only."""
        self.backlog_bytes = 0
        self.preparing_count = 0

    @property
    def delivering_count(self) -> int:
        return self._deliver_seats.taken_count + self._foreign_seats.taken_count

    def accept(self, live: LiveJob) -> None:
        """Count a job from its acceptance on, if engines have work with it."""
        if live.recovered:
            live.unasked = self._engines
        if _executes(live):
            self._ahead.joined(live.size, yields=live.yields)

    async def run(self, live: LiveJob) -> Delivered:
        """Work on an accepted job until its outputs are delivered."""
        if live.orphaned:
            async with self._seats(live.job.spec).seat():
                await self._attempts.remove(live)
        if _executes(live):
            try:
                execution = await self._to_outputs(live)
            finally:
                self._ahead.left(live.size, yields=live.yields)
            if not execution.partial:
                internal = live.job.spec.internal
                self._speed.served(live.size, execution.execute_s, engine=execution.engine, internal=internal)
        return await self._deliver(live)

    def forget(self, job: Job) -> None:
        """A job's end is recorded: engines need not remember it."""
        self._attempts.forget(job)

    async def _to_outputs(self, live: LiveJob) -> Execution:
        _check_wanted(live)
        spec = live.job.spec
        if spec.patient:
            await self._patience.wait(live)
        seat = None if spec.internal else self._seats(spec).seat(live.request_bytes)
        async with seat or nullcontext():
            held = await self._attempts.locate(live) if live.unasked else None
            prepared, held = await self._prepare(live, held, aside=seat.aside if seat else nullcontext)
            begun = self._clock.monotonic()
            if not await live.is_recorded():
                raise asyncio.CancelledError
            lease = await self._attempts.turn(live, held)
        live.note(timings=changed(live.job.timings, wait_s=self._clock.monotonic() - begun))
        return await self._attempts.run(live, prepared, lease, held)

    def _seats(self, spec: JobSpec) -> Seats:
        return self._low_seats if spec.low_priority else self._prepared_seats

    async def _prepare(self, live: LiveJob, held: Held | None, *, aside: Aside) -> tuple[Prepared, Held | None]:
        """Prepare the graph. Of a prompt that is with an engine already, inputs may be gone where they came from: that
        matters only if it has to be posted again."""
        begun = self._clock.monotonic()
        self.preparing_count += 1
        try:
            workflow = await _decoded(live.job)
            tell = partial(_told, live)
            prepared = await self._preparer.prepare(live.job, workflow, tell=tell, aside=aside)
        except InputFetchFailed as error:
            if held is None:
                raise
            prepared, held = Prepared(graph=workflow, caller_graph=workflow), replace(held, spoiled=error)
        finally:
            self.preparing_count -= 1
        if live.job.spec.files:  # they are where engines find them
            live.note(spec=lightened(live.job.spec))
        changes = {} if live.job.status is JobStatus.RUNNING else {"message": "Waiting for a GPU"}
        live.change(
            timings=changed(live.job.timings, prepare_s=self._clock.monotonic() - begun),
            inputs=prepared.fetched_inputs,
            warnings=live.job.warnings + prepared.warnings,
            stage=Stage.EXECUTE,
            **changes,
        )
        return prepared, held

    async def _deliver(self, live: LiveJob) -> Delivered:
        _check_wanted(live)
        job = live.job
        size = sum(output.size_bytes for output in job.outputs)
        self.backlog_bytes += size
        begun = self._clock.monotonic()
        wanted = job.spec.delivery
        target = wanted.s3
        own = wanted.put is None and (target is None or target.operator) and not _callers_host(wanted.store)
        try:
            async with (self._deliver_seats if own else self._foreign_seats).seat():
                outputs = await self._delivery.deliver(job, job.outputs)
        finally:
            self.backlog_bytes -= size
        timings = changed(live.job.timings, deliver_s=self._clock.monotonic() - begun)
        return Delivered(outputs=outputs, timings=timings)


def _told(live: LiveJob, text: str) -> None:
    if live.waits:
        live.change(message=text)


def _callers_host(store: StoreTarget | None) -> bool:
    return store is not None and store.kind is StoreKind.HTTP


def _executes(live: LiveJob) -> bool:
    return live.job.stage is not Stage.DELIVER and not live.orphaned


def _check_wanted(live: LiveJob) -> None:
    """A job that was cancelled before its task made a step is not begun."""
    if live.cancel_early:
        raise asyncio.CancelledError


async def _decoded(job: Job) -> dict[str, object]:
    body = job.spec.workflow
    big = len(body) >= BIG_WORKFLOW_BYTES
    workflow: dict[str, object] = await asyncio.to_thread(orjson.loads, body) if big else orjson.loads(body)
    return workflow
