"""A job that this router holds: what is written of it goes through here, one thing at a time, under its fence."""

import asyncio
import logging
import math
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from lib.clock import Clock
from lib.errors import ServiceError
from router.ports import Attempt, Damaged, JobState, JobStore, LeaseLost, RelayJob, StoreDown

log = logging.getLogger(__name__)
T = TypeVar("T")

PAUSE_S = 0.5
"""Between tries to write to a store that is down."""


class Holding:
    """``job`` is the record as it was last written. ``cancel`` is set once its owner wants it stopped."""

    def __init__(self, job: RelayJob, *, jobs: JobStore, clock: Clock, lease_s: float) -> None:
        self.job = job
        self.cancel = asyncio.Event()
        self._jobs = jobs
        self._clock = clock
        self._lease_s = lease_s
        self._turn = asyncio.Lock()
        if job.cancel_wanted:
            self.cancel.set()

    @property
    def given(self) -> bool:
        """Whether a worker has it, as far as we know."""
        return bool(self.job.worker) and bool(self.job.attempts) and not self.job.attempts[-1].ended

    @property
    def busy(self) -> bool:
        """Whether it is being written."""
        return self._turn.locked()

    @property
    def left_s(self) -> float:
        """How long it has to live, where its caller said so; 0: its time is over."""
        return max(self.job.forget_at - self.now(), 0.0) if self.job.forget_at else math.inf

    def now(self) -> float:
        """Epoch seconds."""
        return self._clock.now().timestamp()

    async def write(self, **changes: Any) -> RelayJob:
        """Record it with these changes, and hold it on; wait for a store that is down. Raises: LeaseLost."""
        async with self._turn:
            while True:
                try:
                    return await self._write(changes)
                except StoreDown as error:
                    facts = {"event": "relay.unwritten", "job": self.job.job_id, "reason": error.message}
                    log.debug("a job waits for the store", extra=facts)
                await self._clock.sleep(PAUSE_S)

    async def whole(self) -> RelayJob:
        """The job with its body, which is not kept; wait for a store that is down. Raises: LeaseLost, Damaged."""
        while True:
            try:
                job = await self._jobs.get(self.job.job_id)
            except Damaged:
                raise
            except StoreDown as error:
                facts = {"event": "relay.unread", "job": self.job.job_id, "reason": error.message}
                log.debug("a job waits for the store", extra=facts)
                await self._clock.sleep(PAUSE_S)
                continue
            if job is None:
                raise LeaseLost(f"Job {self.job.job_id} is forgotten.")
            return replace(self.job, body=job.body)

    async def give_back(self) -> None:
        """Let others have it, where it is. Raises: LeaseLost, StoreDown."""
        async with self._turn:
            await self._jobs.save(_given_back(self.job))

    async def _write(self, changes: dict[str, Any]) -> RelayJob:
        job = replace(self.job, **{"lease_until": self.now() + self._lease_s, **changes})
        await self._jobs.save(job)
        self.job = job
        return job


def ended(job: RelayJob, why: str) -> tuple[Attempt, ...]:
    """The job's attempts with the last one over."""
    return (*job.attempts[:-1], replace(job.attempts[-1], ended=why or "for no known reason"))


async def unless(event: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What ``work`` returns; None when the event comes first, which ends the work. Raises: what it raises."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_caught(work))
        other = group.create_task(event.wait())
        await asyncio.wait({task, other}, return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        other.cancel()
    if task.cancelled():
        return None
    value, error = task.result()
    if error is not None:
        raise error
    return value


async def _caught(work: Coroutine[Any, Any, T]) -> tuple[T | None, ServiceError | None]:
    """What a group would wrap."""
    try:
        return await work, None
    except ServiceError as error:
        return None, error


def _given_back(job: RelayJob) -> RelayJob:
    return replace(job, state=JobState.WAITING, holder="", lease_until=0.0)
