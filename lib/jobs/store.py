"""The in-memory job store: bounded in count, bytes and age. Forgets at exit (``sqlite_store`` does not)."""

from collections import OrderedDict
from dataclasses import replace
from itertools import islice

from lib.clock import Clock
from lib.jobs.codec import pack, unpack
from lib.jobs.model import Idempotency, Job, JobFilter, OutboxItem
from lib.jobs.outbox import MemoryOutbox
from lib.jobs.retention import (
    MOST_RUNS,
    RUN_MEMORY_S,
    SECOND,
    Kept,
    Retention,
    remains,
    run_is_remembered,
    surplus,
)

JOB_BYTES = 4096
"""What a job takes as objects, roughly, beside its response."""


class MemoryJobStore(MemoryOutbox):
    """Implements the ports ``JobStore`` and ``Outbox``.

    ComfyUI's response of a finished job is kept as JSON: as objects a thousand graphs take 90 MB, and the garbage
    collector's time.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        ttl_s: float,
        max_results: int,
        results_max_bytes: int = 1 << 30,
        idempotency_ttl_s: float = 86400.0,
        dead_ttl_s: float = 604800.0,
    ) -> None:
        retention = Retention(
            ttl_s=ttl_s,
            max_results=max_results,
            results_max_bytes=results_max_bytes,
            idempotency_ttl_s=idempotency_ttl_s,
            dead_ttl_s=dead_ttl_s,
        )
        super().__init__(clock=clock, retention=retention)
        self._jobs: dict[str, Job] = {}
        self._named: dict[tuple[str, str], list[str]] = {}
        self._keyed: dict[Idempotency, str] = {}
        self._responses: dict[str, bytes] = {}
        self._loose_ends: OrderedDict[str, Kept] = OrderedDict()
        self._keyed_ends: OrderedDict[str, Kept] = OrderedDict()
        self._bytes = 0
        self._runs: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()
        self._last_sequence = 0

    async def add(self, job: Job) -> None:
        self._jobs[job.job_id] = job
        self._named.setdefault(_name(job), []).append(job.job_id)
        if job.spec.idempotency is not None:
            self._keyed[job.spec.idempotency] = job.job_id
        self._last_sequence = max(self._last_sequence, job.sequence)

    def update(self, job: Job, outbox: tuple[OutboxItem, ...] = ()) -> None:
        known = self._jobs.get(job.job_id)
        if known is not None and not known.status.terminal:
            workflow = job.spec.workflow or known.spec.workflow
            self._jobs[job.job_id] = job.with_(spec=replace(job.spec, workflow=workflow))
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
        self._jobs[job.job_id] = remains(job).with_(response={})
        self._responses[job.job_id] = packed
        size = JOB_BYTES + len(packed)
        ends = self._loose_ends if job.spec.idempotency is None else self._keyed_ends
        ends[job.job_id] = Kept(job_id=job.job_id, sequence=job.sequence, finished_at=self._time.now(), size_bytes=size)
        self._bytes += size
        self._keep(outbox)
        self._expire_results()

    async def get(self, job_id: str) -> Job | None:
        self._expire_results()
        job = self._jobs.get(job_id)
        packed = self._responses.get(job_id)
        return job.with_(response=unpack(packed)) if job is not None and packed else job

    async def latest(self, request_id: str, *, owner: str = "") -> Job | None:
        self._expire_results()
        named = self._named.get((owner, request_id))
        return await self.get(named[-1]) if named else None

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
        found = (job for job in reversed(self._jobs.values()) if _fits(job, asked))
        return [remains(job) for job in islice(found, asked.limit)]

    async def unfinished(self) -> list[Job]:
        return [job for job in self._jobs.values() if not job.status.terminal]

    async def last_sequence(self) -> int:
        return self._last_sequence

    async def expire(self) -> None:
        self._expire_results()
        self._expire_messages()
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
            ends = self._loose_ends if entry.job_id in self._loose_ends else self._keyed_ends
            del ends[entry.job_id]
            self._bytes -= entry.size_bytes
            self._forget(self._jobs.pop(entry.job_id))

    def _forget(self, job: Job) -> None:
        self._responses.pop(job.job_id, None)
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


def _fits(job: Job, asked: JobFilter) -> bool:
    spec = job.spec
    return (
        asked.owner in (None, spec.owner)
        and (not asked.statuses or job.status in asked.statuses)
        and asked.dialect in (None, spec.dialect)
        and asked.request_id in (None, spec.request_id)
        and (asked.before is None or job.sequence < asked.before)
    )
