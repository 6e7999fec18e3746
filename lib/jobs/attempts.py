"""A prepared job with the engines: its turn, its prompt, and what is tried again when an engine or its memory fails.

Also finds the prompt that an earlier life of the worker left in an engine, and removes one that nobody wants.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass, replace

from lib.clock import Clock
from lib.errors import EngineDied, EngineUnreachable, OutOfMemory, ServiceError
from lib.jobs.ahead import Ahead
from lib.jobs.copies import changed
from lib.jobs.ids import prompt_id_of
from lib.jobs.journal import Journal
from lib.jobs.live import LiveJob
from lib.jobs.model import Job, JobSpec, JobStatus, Preview, Progress, Stage
from lib.jobs.ports import Collected, Engine, Execution, Prepared, Withdrawn
from lib.jobs.queue import Lease, SlotQueue
from lib.telemetry.logs import add_job_facts

log = logging.getLogger(__name__)

MAX_LOSSES = 1
"""A job whose prompt ran when its engine died is resubmitted so many times, then failed with the cause."""
MAX_REFUSALS = 3
"""An engine that says it is healthy and can't be reached is believed so many times for one job, and asked so many
times for a prompt of an earlier life."""
MAX_SHORTAGES = 1
"""A job that ran out of memory runs again so many times, on an engine that has freed what it could."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A prompt of an earlier life of the worker that an engine still has; it was the job's ``post``-th. ``spoiled`` is
    why the job can't be posted again: its inputs are gone where they came from."""

    engine: Engine
    prompt_id: str
    post: int
    spoiled: ServiceError | None = None


class Attempts:
    """Runs prepared jobs. What an earlier life of the worker tried counts, as far as it was recorded."""

    def __init__(
        self, *, queue: SlotQueue, ahead: Ahead, journal: Journal, clock: Clock, timeout_s: float | None
    ) -> None:
        self._queue = queue
        self._ahead = ahead
        self._journal = journal
        self._clock = clock
        self._timeout_s = timeout_s

    async def turn(self, live: LiveJob, held: Held | None) -> Lease:
        """Wait until an engine has room; a prompt that is with one already waits for nobody."""
        expected_s, sequence = self._ahead.expected_s(live.size), live.job.sequence
        if held is not None:
            lease = self._queue.adopt(held.engine, sequence, expected_s=expected_s)
        else:
            spec = live.job.spec
            lease = await self._queue.acquire(
                sequence, expected_s=expected_s, engine=spec.engine, low_priority=spec.low_priority
            )
        if live.yields:
            live.yields = False
            self._ahead.turned(live.size)
        return lease

    async def run(self, live: LiveJob, prepared: Prepared, lease: Lease, held: Held | None) -> Execution:
        """Execute until the outputs are collected. Raises what went wrong for good."""
        losses, refusals = _losses(live.job), 0
        spoiled = None if held is None else held.spoiled
        while True:
            try:
                if held is None and live.unasked:
                    lease, held = await self._asked_again(live, lease, spoiled)
                    losses = max(losses, _losses(live.job))
                execution = await self._once(live, prepared, lease, held)
                _run_again_for_memory(live, lease.engine, execution)
                await self._collect(live, lease, execution)
                return execution
            except Withdrawn:
                log.debug("prompt moved to an idle engine", extra={"event": "job.moved"})
            except EngineDied as error:
                losses += error.started
                if losses > MAX_LOSSES:
                    raise
                self.requeue(live, error.message)
            except OutOfMemory as error:
                if live.job.shortages >= MAX_SHORTAGES:
                    raise
                live.note(shortages=live.job.shortages + 1)
                self.requeue(live, error.message, message="Out of memory; the job runs once more")
            except EngineUnreachable as error:
                refusals += 1
                if held is not None:  # it still has the prompt perhaps
                    live.unasked |= {held.engine.name}
                if refusals >= MAX_REFUSALS:
                    if not live.unasked:
                        raise
                    live.unasked, refusals = frozenset(), 0  # it can't be known
                if not live.unasked:
                    self.requeue(live, error.message)
            if spoiled is not None and not live.unasked:
                raise spoiled
            held = None
            lease = await self.turn(live, None)

    async def locate(self, live: LiveJob) -> Held | None:
        """Find the newest prompt of a job in the engines that may have it and answer, the recorded one first. What
        can't be asked stays ``unasked``. Raises: EngineDied when it ran, is nowhere, and was lost before."""
        held = await self._found(live)
        if held is not None:
            live.unasked = frozenset()
            live.note(engine=held.engine.name)
        elif not live.unasked and live.job.status is JobStatus.RUNNING and not live.orphaned:
            cause = "ComfyUI lost the prompt while the worker was down"
            if _losses(live.job) >= MAX_LOSSES:
                raise EngineDied(f"{cause}, not for the first time", started=True)
            self.requeue(live, cause)
        return held

    async def _found(self, live: LiveJob) -> Held | None:
        job = live.job
        posts = range(job.posts + 1, 0, -1)  # one more may have been posted than was written
        names = {prompt_id_of(job.job_id, post): post for post in posts}
        engines = [engine for engine in self._queue.engines if engine.healthy and engine.name in live.unasked]
        for engine in sorted(engines, key=lambda engine: engine.name != job.engine):
            try:
                found = await engine.holds(tuple(names))
            except EngineUnreachable as error:
                facts = {"event": "job.unasked", "engine": engine.name, "cause": error.message}
                log.warning("an engine could not be asked for a prompt of an earlier life", extra=facts)
                continue
            if found is not None:
                return Held(engine=engine, prompt_id=found, post=names[found])
            live.unasked -= {engine.name}
        return None

    async def _asked_again(
        self, live: LiveJob, lease: Lease, spoiled: ServiceError | None
    ) -> tuple[Lease, Held | None]:
        """Ask what could not be asked before, now that the job would be posted. An engine that is silent still may
        have the prompt: when it is back it loses it, as a stray.

        Raises: EngineUnreachable (the engine of the lease is silent), EngineDied, and why it can't be posted."""
        with contextlib.ExitStack() as undo:
            undo.callback(self._queue.release, lease)
            if (held := await self.locate(live)) is not None:
                return await self.turn(live, held), replace(held, spoiled=spoiled)
            if lease.engine.name in live.unasked:
                raise EngineUnreachable("it could not be asked for the prompt of an earlier life")
            if spoiled is not None:
                raise spoiled
            undo.pop_all()
        live.unasked = frozenset()
        return lease, None

    async def remove(self, live: LiveJob) -> None:
        """Get the prompt of a job that nobody wants out of the engine that has it. Ends in a cancellation."""
        held = await self.locate(live)
        if held is not None:
            lease = self._queue.adopt(held.engine, live.job.sequence, expected_s=self._ahead.expected_s(live.size))
            try:
                with contextlib.suppress(ServiceError, Withdrawn):
                    execution = await held.engine.execute(
                        live.job,
                        NOTHING,
                        observer=_Remover(live),
                        withdraw=lease.withdraw,
                        timeout_s=None,
                        prompt_id=held.prompt_id,
                        attach=True,
                    )
                    held.engine.forget(execution.prompt_id)  # it had ended
            finally:
                self._queue.release(lease)
        raise asyncio.CancelledError

    def requeue(self, live: LiveJob, cause: str, *, message: str = "ComfyUI ended; the job is resubmitted") -> None:
        """Have the job wait for another turn."""
        log.warning("job is resubmitted", extra={"event": "job.resubmitted", "cause": cause})
        live.advance(
            JobStatus.QUEUED,
            stage=Stage.EXECUTE,
            message=message,
            warnings=(*live.job.warnings, f"resubmitted: {cause}"),
            prompt_id=None,
        )
        self._journal.update(live)

    def forget(self, job: Job) -> None:
        """A job's end is recorded: its prompt need not be found again."""
        for engine in self._queue.engines:
            if engine.name == job.engine and job.prompt_id is not None and job.stage is Stage.DELIVER:
                engine.forget(job.prompt_id)

    async def _once(self, live: LiveJob, prepared: Prepared, lease: Lease, held: Held | None) -> Execution:
        post = live.job.posts + 1 if held is None else held.post
        prompt_id = prompt_id_of(live.job.job_id, post)
        live.note(engine=lease.engine.name, posts=post, prompt_id=prompt_id)
        add_job_facts(engine=lease.engine.name)
        self._journal.update(live)
        try:
            return await lease.engine.execute(
                live.job,
                prepared,
                observer=_Observer(live, lease, self._queue, self._journal, self._clock),
                # a prompt that can't be posted again is not moved
                withdraw=lease.withdraw if held is None or held.spoiled is None else asyncio.Event(),
                timeout_s=limit_s(live.job.spec, self._timeout_s),
                prompt_id=prompt_id,
                attach=held is not None,
            )
        finally:
            self._queue.release(lease)

    async def _collect(self, live: LiveJob, lease: Lease, execution: Execution) -> None:
        live.change(stage=Stage.COLLECT, message="Collecting outputs")
        begun = self._clock.monotonic()
        collected = await _collected(live, lease.engine, execution)
        collect_s = self._clock.monotonic() - begun
        job = live.job
        live.change(
            timings=changed(
                job.timings,
                execute_s=execution.execute_s,
                collect_s=collect_s,
                node_starts_s=execution.node_starts_s,
            ),
            outputs=collected.outputs,
            response=collected.response,
            warnings=job.warnings + collected.warnings,
            problems=job.problems + collected.problems,
            stage=Stage.DELIVER,
            message="Generation complete. Queued for post-processing.",
        )
        self._journal.update(live)


def limit_s(spec: JobSpec, operators_s: float | None) -> float | None:
    """How long an execution may take. A request's own limit wins over the operator's; strangers can only lower that."""
    if spec.timeout_s is None or operators_s is None:
        return spec.timeout_s or operators_s
    return min(spec.timeout_s, operators_s) if spec.stranger else spec.timeout_s


def _run_again_for_memory(live: LiveJob, engine: Engine, execution: Execution) -> None:
    """What is left of a job that ran out of memory counts only where it does not run again. Raises: OutOfMemory."""
    if isinstance(execution.failure, OutOfMemory) and live.job.shortages < MAX_SHORTAGES:
        engine.forget(execution.prompt_id)
        raise execution.failure


def _losses(job: Job) -> int:
    """How often an engine ended under the job, as far as it was recorded."""
    return job.attempts - job.shortages - (job.status is JobStatus.RUNNING)


NOTHING = Prepared(graph={}, caller_graph={})
"""Stands for a graph that is not needed, since its prompt is posted already."""


async def _collected(live: LiveJob, engine: Engine, execution: Execution) -> Collected:
    try:
        return await engine.collect(live.job, execution)
    except EngineUnreachable as error:  # it ended between the prompt's end and our look at its history
        raise EngineDied(error.message, started=True, details=error.details) from error


class _Observer:
    """Writes what an engine tells of a prompt into its job."""

    __slots__ = ("_clock", "_journal", "_lease", "_live", "_queue")

    def __init__(self, live: LiveJob, lease: Lease, queue: SlotQueue, journal: Journal, clock: Clock) -> None:
        self._live = live
        self._lease = lease
        self._queue = queue
        self._journal = journal
        self._clock = clock

    def posted(self, prompt_id: str) -> None:
        if prompt_id != self._live.job.prompt_id:
            self._live.note(prompt_id=prompt_id)

    def started(self) -> None:
        self._queue.started(self._lease)
        job = self._live.job
        if job.status is JobStatus.RUNNING:  # it had started in an earlier life of the worker
            return
        self._live.advance(
            JobStatus.RUNNING,
            attempts=job.attempts + 1,
            message=job.message if job.stopping else "Generation started",
            timings=changed(job.timings, execution_started_at=self._clock.now()),
        )
        self._journal.started(self._live)

    def progressed(self, progress: Progress) -> None:
        self._live.progressed(progress)

    def previewed(self, preview: Preview) -> None:
        self._live.previewed(preview)


class _Remover:
    """Ends an execution, by a cancellation, as soon as the engine has taken hold of the prompt again."""

    __slots__ = ("_task",)

    def __init__(self, live: LiveJob) -> None:
        self._task = live.task

    def posted(self, prompt_id: str) -> None:
        self._end()

    def started(self) -> None:
        self._end()

    def progressed(self, progress: Progress) -> None:
        """It is being removed."""

    def previewed(self, preview: Preview) -> None:
        """It is being removed."""

    def _end(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
