"""One held job on its way: it waits for a worker, is given to one, is followed there, and ends.

A worker that refuses it, or can't be reached, costs nothing but time; one that is lost with it, or fails on its own
account, costs an attempt, as does a fault of ours. What the job itself is to blame for is final at once, and passed on
as the worker told it.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp

from lib.clock import Clock
from lib.errors import Overloaded
from router.cases import Ending
from router.dispatch import Dispatcher
from router.endpoints import UnknownEndpoint
from router.model import Ask
from router.ports import Attempt, Damaged, JobState, LeaseLost, RelayJob
from router.refusals import Refusal
from router.registry import Worker
from router.relay.jobs.forms import POLL_S, Dialect, End, Seen, Standing, read_answer, read_submitted, unkept
from router.relay.jobs.holding import Holding, ended, unless
from router.relay.jobs.naming import tenant_of
from router.relay.jobs.patience import FIRST_PAUSE_S, LONGEST_PAUSE_S, Lost, Patience
from router.relay.jobs.releases import Releases
from router.relay.jobs.remote import Remote, TooLarge
from router.relay.jobs.runpod_view import stored
from router.relay.ports import WorkerBusy, WorkerLost

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 3
HOLD_S = 60.0
"""So long one wait for a worker goes on before it is renewed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """A worker that was lost with a job may be back with it, and is asked again for ``patience_s``. What a router gave
    that is gone counts for another ``counted_s``."""

    patience_s: float
    counted_s: float


class Doing:
    """Does jobs; nothing of one is kept here. ``begun`` is told of each one that a worker has."""

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        remote: Remote,
        releases: Releases,
        new_number: Callable[[], Awaitable[int]],
        begun: Callable[[RelayJob], None],
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._dispatcher = dispatcher
        self._remote = remote
        self._releases = releases
        self._new_number = new_number
        self._begun = begun
        self._clock = clock
        self._limits = limits

    async def run(self, held: Holding) -> RelayJob:
        """Bring it to its end, and return it as recorded. Raises: LeaseLost."""
        while True:
            try:
                over = await self._brought_on(held)
            except LeaseLost:
                raise
            except Exception as error:  # the edge of a job: a fault that it meets each time shall not be met for ever
                facts = {"event": "relay.fault", "job": held.job.job_id, "worker": held.job.worker}
                log.exception("a job met a fault of the router", extra=facts)
                over = await self._faulted(held, error)
            if over is not None:
                return over

    async def _brought_on(self, held: Holding) -> RelayJob | None:
        """One step on its way. None: it has another one to go."""
        job = held.job
        if held.cancel.is_set():
            return await self._cancelled(held)
        if not held.left_s:
            return await self._dropped(held, "Its time (policy.ttl) is over.")
        if not held.given and len(job.attempts) >= MOST_ATTEMPTS:
            return await self._dead(held, job.attempts[-1].ended)
        try:
            if not held.given and not await self._assigned(held):
                return None
            seen = await self._attempt(held)
        except (UnknownEndpoint, Damaged) as error:
            return await self._dead(held, error.message)
        except TooLarge as error:
            seen = unkept(held.job, error.status, error.message)
        except Lost as error:
            await self._lost(held, error)
            return None
        return None if seen is None else await self._done(held, seen)

    # -- a worker -----------------------------------------------------------------------------------------------------

    async def _assigned(self, held: Holding) -> bool:
        """Wait for a worker, and record that it is tried. False: look again. Raises: UnknownEndpoint, LeaseLost."""
        if not held.job.number:
            await held.write(number=await self._new_number())
        key = await unless(held.cancel, self._worker_for(held))
        if not key:
            return False
        attempts = held.job.attempts
        begun = Attempt(number=len(attempts) + 1, worker=key, begun_at=held.now())
        await held.write(attempts=(*attempts, begun), worker=key, remote_id="")
        return True

    async def _worker_for(self, held: Holding) -> str:
        """ "": its time is over before there is one."""
        job = held.job
        arrived_at, again = self._clock.monotonic(), bool(job.attempts)
        while held.left_s:
            ask = self._ask(job, arrived_at)
            try:
                given = await self._dispatcher.assign(
                    ask,
                    wait_s=min(HOLD_S, held.left_s),
                    kind=job.shape,
                    prior=job.cost,
                    ttl_s=self._limits.counted_s,
                    again=again,
                )
            except Overloaded as error:  # its tenant's share of the line is full
                await self._clock.sleep(min(error.retry_after_s or 1.0, LONGEST_PAUSE_S))
                continue
            if given is not None:
                return given.worker
            again = True
            await self._clock.sleep(FIRST_PAUSE_S)  # a router that stops lets nobody wait
        return ""

    def _ask(self, job: RelayJob, arrived_at: float) -> Ask:
        return self._dispatcher.learning.ask(
            str(job.number),
            endpoint=job.endpoint,
            arrived_at=arrived_at,
            cost=job.cost,
            kind=job.shape,
            prior=job.cost,
            tenant=tenant_of(job),
            priority=job.priority,
            family=job.models[0] if job.models else "",
            models=job.models,
            dialect=job.dialect,
            input_mb=job.input_bytes / 1e6,
        )

    async def _attempt(self, held: Holding) -> Seen | None:
        """Raises: Lost, LeaseLost, TooLarge. None: it is to be cancelled, or its time is over."""
        patience = Patience(self._clock, self._limits.patience_s)
        fresh = not held.job.remote_id and held.job.attempts[-1].begun_at >= held.now() - 1.0
        while not held.job.remote_id:
            if held.cancel.is_set():
                return None
            if (seen := await self._submitted(held, patience, fresh=fresh)) is not None:
                return seen
        return await unless(held.cancel, self._followed(held, patience))

    async def _submitted(self, held: Holding, patience: Patience, *, fresh: bool) -> Seen | None:
        """Give it to its worker. None: it is there, or is to be given again. Raises: Lost, LeaseLost, Damaged."""
        job = held.job
        worker = self._dispatcher.worker(job.worker)
        if worker is None:
            await patience.wait("it is gone", None)
            return None
        if not worker.is_ours:
            return await self._done_at_once(held, worker)
        try:
            seen = read_submitted(*await self._remote.submit(worker, await held.whole()))
        except WorkerBusy as error:
            raise Lost(error.message, refusal=Refusal.FULL, counts=False) from error
        except WorkerLost as error:
            if fresh and _never_came(error):
                raise Lost(error.message, refusal=Refusal.UNREACHABLE, counts=False) from error
            await patience.wait(error.message, Refusal.UNREACHABLE)
            return None
        except TooLarge as error:
            raise Lost("its answer is strange", refusal=Refusal.FAILED) from error
        if seen.standing is Standing.TROUBLE:
            raise Lost(seen.why, refusal=Refusal.FAILED)
        if seen.standing is Standing.OVER:
            return seen
        patience.calm()
        self._begun(await held.write(remote_id=seen.remote_id))
        return None

    async def _done_at_once(self, held: Holding, worker: Worker) -> Seen | None:
        """A stock worker has one route, which answers with the result; a router that takes over begins anew. None: it
        is to be cancelled. Raises: Lost, TooLarge."""
        job = held.job
        if job.dialect != Dialect.WRAPPER:
            raise Lost("it does not speak this API", refusal=Refusal.FAILED, counts=False)
        whole = await held.whole()
        try:
            answer = await unless(held.cancel, self._remote.do(worker, whole))
        except WorkerBusy as error:
            raise Lost(error.message, refusal=Refusal.FULL, counts=False) from error
        except WorkerLost as error:
            raise Lost(error.message, refusal=Refusal.UNREACHABLE, counts=not _never_came(error)) from error
        if answer is None:
            return None
        seen = read_answer(*answer)
        if seen.standing is not Standing.OVER:
            raise Lost(seen.why or "its answer is strange", refusal=Refusal.FAILED)
        return seen

    # -- on a worker --------------------------------------------------------------------------------------------------

    async def _followed(self, held: Holding, patience: Patience) -> Seen | None:
        """None: its time is over. Raises: Lost, TooLarge."""
        job = held.job
        while held.left_s:
            worker, asked_at = self._dispatcher.worker(job.worker), self._clock.monotonic()
            if worker is None:
                await patience.wait("it is gone", None)
                continue
            wait_s = min(POLL_S, math.ceil(held.left_s)) if job.forget_at else POLL_S
            try:
                seen = read_answer(*await self._remote.poll(worker, job, wait_s=wait_s))
            except (WorkerLost, WorkerBusy) as error:
                await patience.wait(error.message, Refusal.UNREACHABLE)
                continue
            if seen.standing is Standing.OVER and not (seen.elsewhere and not job.hooked):
                return seen
            if seen.standing in (Standing.OVER, Standing.UNKNOWN):
                raise Lost(seen.why, refusal=Refusal.FAILED)
            if seen.standing is Standing.TROUBLE:
                await patience.wait(seen.why, Refusal.FAILED)
                continue
            patience.calm()
            if self._clock.monotonic() - asked_at < FIRST_PAUSE_S:  # it does not hold polls
                await self._clock.sleep(LONGEST_PAUSE_S / 4)
        return None

    # -- ends ---------------------------------------------------------------------------------------------------------

    async def _lost(self, held: Holding, error: Lost) -> None:
        """The attempt failed; where it does not count it is as if it had not been."""
        job = held.job
        facts = {"event": "relay.attempt_lost", "job": job.job_id, "worker": job.worker, "why": error.message}
        log.log(logging.WARNING if error.counts else logging.INFO, "a job is without a worker again", extra=facts)
        attempts = ended(job, error.message) if error.counts else job.attempts[:-1]
        await held.write(attempts=attempts, worker="", remote_id="")
        if error.refusal is not None:
            await self._releases.refused(job, error.refusal)
        else:
            await self._releases.settled(job, Ending.LOST)

    async def _faulted(self, held: Holding, error: Exception) -> RelayJob | None:
        """An attempt is spent; the next one is at another worker, or after a moment: what was wrong may be over then.
        The fault's own words may be a caller's, and stay in the log. None: it goes on. Raises: LeaseLost."""
        job = held.job
        if job.state.over:
            return job
        why = f"the router has a fault, see its log ({_name(error)})"
        if held.given:
            await self._lost(held, Lost(why, refusal=Refusal.FAILED))
            return None
        spent = Attempt(number=len(job.attempts) + 1, worker="", begun_at=held.now(), ended=why)
        await held.write(attempts=(*job.attempts, spent), worker="", remote_id="")
        await unless(held.cancel, self._clock.sleep(self._limits.patience_s))
        return None

    async def _done(self, held: Holding, seen: Seen) -> RelayJob:
        job = held.job
        body = await asyncio.to_thread(stored, job, seen.body) if job.dialect == Dialect.RUNPOD else seen.body
        ending = {End.COMPLETED: Ending.SUCCESS, End.CANCELLED: Ending.CANCELLED}.get(seen.end, Ending.ERROR)
        over = await self._over(
            held,
            state=JobState.DONE,
            attempts=ended(job, seen.end),
            result_status=seen.status,
            result=body or None,
            reason=seen.end,
            told_by_us=job.dialect == Dialect.RUNPOD,
        )
        await self._releases.settled(job, ending, run_s=seen.run_s)
        return over

    async def _dead(self, held: Holding, why: str) -> RelayJob:
        job = held.job
        facts = {"event": "relay.dead", "job": job.job_id, "attempts": len(job.attempts), "why": why}
        log.error("a job is a dead letter", extra=facts)
        attempts = ended(job, why) if held.given else job.attempts
        over = await self._over(held, state=JobState.DEAD, attempts=attempts, reason=why, told_by_us=True)
        await self._releases.settled(job, Ending.ERROR)
        return over

    async def _dropped(self, held: Holding, why: str) -> RelayJob:
        await self._stopped(held.job)
        return await self._over(held, state=JobState.CANCELLED, reason=why, told_by_us=False)

    async def _cancelled(self, held: Holding) -> RelayJob:
        """Its worker is told first: it tells those whom the job names."""
        job = held.job
        told = await self._stopped(job)
        over = await self._over(
            held,
            state=JobState.CANCELLED,
            attempts=ended(job, "it was cancelled") if held.given else job.attempts,
            told_by_us=job.dialect == Dialect.RUNPOD or not told,
        )
        await self._releases.settled(job, Ending.CANCELLED)
        return over

    async def _stopped(self, job: RelayJob) -> bool:
        return await self._remote.stop(self._dispatcher.worker(job.worker), job)

    async def _over(self, held: Holding, *, told_by_us: bool, **changes: object) -> RelayJob:
        now = held.now()
        notice_at = now if told_by_us and held.job.hooked else 0.0
        return await held.write(**changes, finished_at=now, lease_until=0.0, notice_at=notice_at)


def _never_came(error: WorkerLost) -> bool:
    """Whether the worker can't have heard of it."""
    return isinstance(error.__cause__, aiohttp.ClientConnectorError)


def _name(error: Exception) -> str:
    """The kind of an error, also of one that a group of tasks wraps."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__
