"""The in-memory job store: bounded in count, bytes and age. Forgets at exit (``sqlite_store`` does not)."""

from collections import OrderedDict
from dataclasses import replace
from datetime import timedelta
from itertools import islice

from lib.clock import Clock
from lib.jobs.codec import pack, unpack
from lib.jobs.model import Idempotency, Job, JobFilter, JobStatus, OutboxItem
from lib.jobs.outbox import MemoryOutbox
from lib.jobs.requests import remains, request_size, without_request
from lib.jobs.retention import MOST_RUNS, RUN_MEMORY_S, SECOND, Kept, Retention, run_is_remembered, surplus

JOB_BYTES = 4096
"""What a job takes as objects, roughly, beside its request and response."""


class MemoryJobStore(MemoryOutbox):
    """Implements the ports ``JobStore`` and ``Outbox``.

    ComfyUI's response of a finished job is kept as JSON: as objects a thousand graphs take 90 MB, and the garbage
    collector's time.
    """

    def __init__(self, *, clock: Clock, retention: Retention) -> None:
        super().__init__(clock=clock, retention=retention)
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        self._named: dict[tuple[str, str], list[str]] = {}
        self._keyed: dict[Idempotency, str] = {}
        self._responses: dict[str, bytes] = {}
        self._loose_ends: OrderedDict[str, Kept] = OrderedDict()
        self._keyed_ends: OrderedDict[str, Kept] = OrderedDict()
        self._bytes = 0
        self._forget_at: dict[str, int] = {}
        """Store time, of jobs whose life is bounded."""
        self._runs: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()
        self._last_sequence = 0

    async def add(self, job: Job) -> None:
        self._jobs[job.job_id] = job
        self._named.setdefault(_name(job), []).append(job.job_id)
        if job.spec.idempotency is not None:
            self._keyed[job.spec.idempotency] = job.job_id
        if job.expires_at is not None:
            self._forget_at[job.job_id] = self._time.of(job.expires_at)
        self._last_sequence = max(self._last_sequence, job.sequence)

    def update(self, job: Job, outbox: tuple[OutboxItem, ...] = ()) -> None:
        known = self._jobs.get(job.job_id)
        if known is not None and not known.status.terminal:
            self._jobs[job.job_id] = _completed(job, known)
        self._keep(outbox)

    async def write(self, job: Job) -> None:
        self.update(job)

    async def finish(self, job: Job, outbox: tuple[OutboxItem, ...] = ()) -> None:
        known = self._jobs.get(job.job_id)
        if known is None:
            await self.add(job)
        elif known.status.terminal:
            return
        packed = pack(job.response) if job.response else b""
        kept = remains(job if known is None else _completed(job, known)).with_(response={})
        self._jobs[job.job_id] = kept
        self._responses[job.job_id] = packed
        size = JOB_BYTES + len(packed) + request_size(kept.spec)
        ends = self._loose_ends if job.spec.idempotency is None else self._keyed_ends
        ends[job.job_id] = Kept(
            job_id=job.job_id,
            sequence=job.sequence,
            finished_at=self._time.now(),
            size_bytes=size,
            failed=job.status is JobStatus.FAILED,
        )
        self._bytes += size
        self._keep(outbox)
        self._expire_results()

    async def shorten(self, job_id: str, ttl_s: float) -> Job | None:
        job = await self.get(job_id)
        at = self._time.now() + round(ttl_s * SECOND)
        if job is None or self._forget_at.get(job_id, at + 1) <= at:
            return job
        self._forget_at[job_id] = at
        changed = {"expires_at": self._clock.now() + timedelta(seconds=ttl_s)}
        self._jobs[job_id] = self._jobs[job_id].with_(**changed)
        return job.with_(**changed)

    async def get(self, job_id: str) -> Job | None:
        self._expire_results()
        job = None if self._is_past(job_id) else self._jobs.get(job_id)
        packed = self._responses.get(job_id)
        return job.with_(response=unpack(packed)) if job is not None and packed else job

    async def latest(self, request_id: str, *, owner: str = "") -> Job | None:
        self._expire_results()
        named = self._named.get((owner, request_id), ())
        newest = next((job_id for job_id in reversed(named) if not self._is_past(job_id)), None)
        return None if newest is None else await self.get(newest)

    async def run_number(self, request_id: str, *, owner: str = "") -> int:
        remembered, _ = self._runs.get((owner, request_id), (0, 0.0))
        stored = [self._jobs[job_id].run for job_id in self._named.get((owner, request_id), ())]
        return max([remembered, *stored]) + 1

    async def keyed(self, key: Idempotency) -> Job | None:
        self._expire_results()
        job_id = self._keyed.get(key, "")
        end = self._keyed_ends.get(job_id)
        if end is not None and end.finished_at + self._retention.idempotency_ttl_s * SECOND <= self._time.now():
            return None
        return await self.get(job_id)

    async def listed(self, asked: JobFilter) -> list[Job]:
        self._expire_results()
        jobs = (job for job in reversed(self._jobs.values()) if not self._is_past(job.job_id))
        found = (job for job in jobs if _fits(job, asked))
        return [without_request(job) for job in islice(found, asked.limit)]

    async def unfinished(self) -> list[Job]:
        return [job for job in self._jobs.values() if not job.status.terminal]

    async def last_sequence(self) -> int:
        return self._last_sequence

    async def expire(self) -> None:
        self._expire_results()
        self._expire_messages()
        for job_id in [job_id for job_id in self._forget_at if self._is_past(job_id)]:
            if self._jobs[job_id].status.terminal:
                self._drop(job_id)
        now = self._time.now()
        while self._runs and (len(self._runs) > MOST_RUNS or next(iter(self._runs.values()))[1] <= now):
            self._runs.popitem(last=False)

    def _expire_results(self) -> None:
        going = surplus(
            self._retention,
            loose=self._loose_ends.values(),
            keyed=self._keyed_ends.values(),
            total_bytes=self._bytes,
            now=self._time.now(),
        )
        for entry in list(going):
            self._drop(entry.job_id)

    def _is_past(self, job_id: str) -> bool:
        at = self._forget_at.get(job_id)
        return at is not None and at <= self._time.now()

    def _drop(self, job_id: str) -> None:
        """Forget a finished job."""
        ends = self._loose_ends if job_id in self._loose_ends else self._keyed_ends
        self._bytes -= ends.pop(job_id).size_bytes
        self._forget_at.pop(job_id, None)
        self._responses.pop(job_id, None)
        job = self._jobs.pop(job_id)
        named = self._named[_name(job)]
        named.remove(job.job_id)
        if not named:
            del self._named[_name(job)]
        if job.spec.idempotency is not None and self._keyed.get(job.spec.idempotency) == job.job_id:
            del self._keyed[job.spec.idempotency]
        if run_is_remembered(job):
            run = max(job.run, self._runs.pop(_name(job), (0, 0.0))[0])
            self._runs[_name(job)] = run, self._time.now() + RUN_MEMORY_S * SECOND


def _name(job: Job) -> tuple[str, str]:
    return job.spec.owner, job.spec.request_id


def _completed(job: Job, known: Job) -> Job:
    """With the request that was recorded: a worker that has posted it lets go of it."""
    request = known.spec
    if job.spec.workflow and job.spec.files == request.files:
        return job
    spec = replace(job.spec, workflow=job.spec.workflow or request.workflow, files=request.files)
    return job.with_(spec=spec)


def _fits(job: Job, asked: JobFilter) -> bool:
    spec = job.spec
    return (
        asked.owner in (None, spec.owner)
        and (not asked.statuses or job.status in asked.statuses)
        and asked.dialect in (None, spec.dialect)
        and asked.request_id in (None, spec.request_id)
        and (asked.before is None or job.sequence < asked.before)
    )
