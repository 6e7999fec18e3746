"""One held job on its way: it waits for a worker, is given to one, is followed there, and ends.

A worker that refuses it, or can't be reached, costs nothing but time; one that is lost with it, or fails on its own
account, costs an attempt. What the job itself is to blame for is final at once, and passed on as the worker told it.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp

from lib.clock import Clock
from lib.errors import Overloaded, ServiceError
from router.cases import Ending
from router.dispatch import Dispatcher
from router.endpoints import UnknownEndpoint
from router.model import Ask
from router.ports import Attempt, Damaged, JobState, RelayJob
from router.refusals import Refusal
from router.registry import Worker
from router.relay.jobs import requests
from router.relay.jobs.forms import (
    KEY_HEADER,
    POLL_S,
    Dialect,
    End,
    Seen,
    Standing,
    cancel_path,
    poll_path,
    read_answer,
    read_submitted,
    submit_path,
)
from router.relay.jobs.holding import Holding, ended, unless
from router.relay.jobs.naming import tenant_of
from router.relay.jobs.patience import FIRST_PAUSE_S, LONGEST_PAUSE_S, Lost, Patience
from router.relay.jobs.releases import Releases
from router.relay.jobs.runpod_view import stored
from router.relay.ports import Call, Upstream, WorkerBusy, WorkerLost

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 3
HOLD_S = 60.0
"""So long one wait for a worker goes on before it is renewed."""
SUBMIT_S = 30.0
CANCEL_S = 5.0
SYNC_PATH = "/generate/sync"
LATE_S = 15.0
"""A long poll may answer so much later than it was asked to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """``max_result_bytes`` of a worker's answer are kept. A worker that was lost with a job may be back with it, and is
    asked again for ``patience_s``. What a router gave that is gone counts for another ``counted_s``."""

    max_result_bytes: int
    patience_s: float
    counted_s: float


class TooLarge(ServiceError):
    """The worker's answer is larger than what is kept."""


class Doing:
    """Does jobs; nothing of one is kept here. ``begun`` is told of each one that a worker has."""

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        upstream: Upstream,
        releases: Releases,
        new_number: Callable[[], Awaitable[int]],
        begun: Callable[[RelayJob], None],
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._dispatcher = dispatcher
        self._upstream = upstream
        self._releases = releases
        self._new_number = new_number
        self._begun = begun
        self._clock = clock
        self._limits = limits

    async def run(self, held: Holding) -> RelayJob:
        """Bring it to its end, and return it as recorded. Raises: LeaseLost."""
        while not held.cancel.is_set():
            job = held.job
            if not held.left_s:
                return await self._dropped(held, "Its time (policy.ttl) is over.")
            if not held.given and len(job.attempts) >= MOST_ATTEMPTS:
                return await self._dead(held, job.attempts[-1].ended)
            try:
                if not held.given and not await self._assigned(held):
                    continue
                seen = await self._attempt(held)
            except (UnknownEndpoint, Damaged) as error:
                return await self._dead(held, error.message)
            except TooLarge as error:
                return await self._dead(held, error.message, told_by_us=False)
            except Lost as error:
                await self._lost(held, error)
                continue
            if seen is not None:
                return await self._done(held, seen)
        return await self._cancelled(held)

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
        """Give it to its worker; asked twice that has it once, by the key and the number. None: it is there, or is to
        be given again. Raises: Lost, LeaseLost, Damaged."""
        job = held.job
        dialect, worker = Dialect(job.dialect), self._dispatcher.worker(job.worker)
        if worker is None:
            await patience.wait("it is gone", None)
            return None
        if not worker.is_ours:
            return await self._done_at_once(held, worker)
        key = f"relay-{job.job_id}-{job.run}-{job.attempts[-1].number}"
        call = Call(
            method="POST",
            path=submit_path(dialect, job.path),
            tenant=tenant_of(job),
            request_idx=job.number,
            headers={"Content-Type": "application/json", **job.headers, KEY_HEADER: key},
            body=await _for_worker(await held.whole()),
            answer_s=SUBMIT_S,
        )
        try:
            seen = read_submitted(*await self._called(worker, call))
        except WorkerBusy as error:
            raise Lost(error.message, refusal=Refusal.FULL, counts=False) from error
        except WorkerLost as error:
            if fresh and _never_came(error):
                raise Lost(error.message, refusal=Refusal.UNREACHABLE, counts=False) from error
            await patience.wait(error.message, Refusal.UNREACHABLE)
            return None
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
        headers = {"Content-Type": "application/json", **job.headers}
        call = Call(
            method="POST",
            path=SYNC_PATH,
            tenant=tenant_of(job),
            request_idx=job.number,
            headers=headers,
            body=(await held.whole()).body,
        )
        try:
            answer = await unless(held.cancel, self._called(worker, call))
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
        job, dialect = held.job, Dialect(held.job.dialect)
        while held.left_s:
            worker, asked_at = self._dispatcher.worker(job.worker), self._clock.monotonic()
            if worker is None:
                await patience.wait("it is gone", None)
                continue
            wait_s = min(POLL_S, math.ceil(held.left_s)) if job.forget_at else POLL_S
            call = self._call("GET", poll_path(dialect, job.remote_id, wait_s=wait_s), job, answer_s=POLL_S + LATE_S)
            try:
                seen = read_answer(*await self._called(worker, call))
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

    def _call(self, method: str, path: str, job: RelayJob, *, answer_s: float) -> Call:
        return Call(method=method, path=path, tenant=tenant_of(job), headers=job.headers, answer_s=answer_s)

    async def _called(self, worker: Worker, call: Call) -> tuple[int, bytes]:
        """Raises: WorkerLost, WorkerBusy, TooLarge."""
        limit, chunks, size = self._limits.max_result_bytes, [], 0
        async with self._upstream.call(worker, call) as answer:
            async for chunk in answer.content.iter_any():
                size += len(chunk)
                if size > limit:
                    raise TooLarge(f"The result is larger than {limit} bytes; ask for links to its files instead.")
                chunks.append(chunk)
            return answer.status, b"".join(chunks)

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

    async def _done(self, held: Holding, seen: Seen) -> RelayJob:
        job = held.job
        body = await asyncio.to_thread(stored, job, seen.body) if job.dialect == Dialect.RUNPOD else seen.body
        ending = {End.COMPLETED: Ending.SUCCESS, End.CANCELLED: Ending.CANCELLED}.get(seen.end, Ending.ERROR)
        over = await self._over(
            held,
            state=JobState.DONE,
            attempts=ended(job, seen.end),
            result_status=seen.status,
            result=body,
            reason=seen.end,
            told_by_us=job.dialect == Dialect.RUNPOD,
        )
        await self._releases.settled(job, ending, run_s=seen.run_s)
        return over

    async def _dead(self, held: Holding, why: str, *, told_by_us: bool = True) -> RelayJob:
        job = held.job
        facts = {"event": "relay.dead", "job": job.job_id, "attempts": len(job.attempts), "why": why}
        log.error("a job is a dead letter", extra=facts)
        attempts = ended(job, why) if held.given else job.attempts
        over = await self._over(held, state=JobState.DEAD, attempts=attempts, reason=why, told_by_us=told_by_us)
        await self._releases.settled(job, Ending.ERROR)
        return over

    async def _dropped(self, held: Holding, why: str) -> RelayJob:
        await self._stop_remote(held.job)
        return await self._over(held, state=JobState.CANCELLED, reason=why, told_by_us=False)

    async def _cancelled(self, held: Holding) -> RelayJob:
        """Its worker is told first: it tells those whom the job names."""
        job = held.job
        told = await self._stop_remote(job)
        over = await self._over(
            held,
            state=JobState.CANCELLED,
            attempts=ended(job, "it was cancelled") if held.given else job.attempts,
            told_by_us=job.dialect == Dialect.RUNPOD or not told,
        )
        await self._releases.settled(job, Ending.CANCELLED)
        return over

    async def _stop_remote(self, job: RelayJob) -> bool:
        """Have its worker stop it. False: no worker heard of that."""
        worker = self._dispatcher.worker(job.worker)
        if worker is None or not job.remote_id:
            return False
        call = self._call("POST", cancel_path(Dialect(job.dialect), job.remote_id), job, answer_s=CANCEL_S)
        try:
            status, _ = await self._called(worker, call)
        except (WorkerLost, WorkerBusy, TooLarge) as error:
            facts = {"event": "relay.uncancelled", "job": job.job_id, "worker": job.worker, "why": error.message}
            log.warning("a worker could not be told to stop a job", extra=facts)
            return False
        return status < HTTPStatus.BAD_REQUEST

    async def _over(self, held: Holding, *, told_by_us: bool, **changes: object) -> RelayJob:
        now = held.now()
        notice_at = now if told_by_us and held.job.hooked else 0.0
        return await held.write(**changes, finished_at=now, lease_until=0.0, notice_at=notice_at)


async def _for_worker(job: RelayJob) -> bytes:
    if len(job.body) < requests.BIG_BODY_BYTES:
        return requests.for_worker(job)
    return await asyncio.to_thread(requests.for_worker, job)


def _never_came(error: WorkerLost) -> bool:
    """Whether the worker can't have heard of it."""
    return isinstance(error.__cause__, aiohttp.ClientConnectorError)
