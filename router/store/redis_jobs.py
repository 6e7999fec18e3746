"""Jobs of several routers, on a Redis-protocol server. What is recorded there is as durable as its append-only file."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from lib.clock import Clock
from lib.lanes import Lane
from router.model import Priority
from router.ports import JobState, LeaseLost, RelayJob
from router.store import redis_scripts as scripts
from router.store.codec import JobCodec, JobRow
from router.store.redis_line import PREFIX, Argument, RedisLine
from router.store.revival import revived

FORGOTTEN_AT_ONCE = 200
OVER = tuple(state for state in JobState if state.over)
PRIORITIES = tuple(Priority)
"""The first goes first."""
LINES = tuple(f"line:{one}" for one in PRIORITIES)
LEASES = tuple(f"leases:{one}" for one in PRIORITIES)
ENDED = tuple(f"ended:{one}" for one in OVER)


class RedisJobs:
    """Implements ``JobStore``. Jobs are sealed and opened in ``lane``, which has one thread."""

    def __init__(self, line: RedisLine, codec: JobCodec, *, clock: Clock, lane: Lane) -> None:
        self._line = line
        self._codec = codec
        self._clock = clock
        self._lane = lane

    async def add(self, job: RelayJob) -> RelayJob:
        row = await self._lane.run(lambda: self._codec.row(job))
        columns = _flat({**_written(row), **_fixed(row)})
        known = await self._line.run(
            scripts.ADD, row.job_id, row.keyed or b"", row.named, row.priority, row.tenant, *columns
        )
        return await self._opened(known) or job

    async def get(self, job_id: str) -> RelayJob | None:
        return await self._opened(await self._line.call("HGETALL", f"{PREFIX}job:{job_id}"))

    async def find(self, request_id: str, *, tenant: str) -> RelayJob | None:
        named = self._codec.named(request_id, tenant=tenant)
        return await self._opened(await self._line.run(scripts.FIND, named))

    async def lease(
        self, holder: str, *, limit: int, until: float, now: float, apart: Collection[str] = ()
    ) -> Sequence[RelayJob]:
        if limit <= 0:
            return []
        given: tuple[Argument, ...] = (holder, limit, until, now, len(PRIORITIES), *PRIORITIES, *apart)
        taken = [_row(columns, content=False) for columns in await self._line.run(scripts.LEASE, *given)]
        jobs = await self._lane.run(lambda: self._codec.jobs(taken))
        lost = {row.job_id: row.fence for row in taken if row.job_id not in {job.job_id for job in jobs}}
        for job_id, fence in lost.items():
            await self._line.run(scripts.SAVE, job_id, fence, JobState.DEAD, JobState.DEAD, 0.0, now, 0.0, "holder", "")
        return jobs

    async def held(self, holder: str) -> Mapping[str, int]:
        found = await self._line.run(scripts.HELD, holder, *LEASES)
        return {name.decode(): int(fence) for name, fence in zip(found[::2], found[1::2], strict=True)}

    async def renew(self, fences: Mapping[str, int], *, until: float) -> Mapping[str, bool]:
        if not fences:
            return {}
        found = await self._line.run(scripts.RENEW, until, *_flat(fences))
        return {name.decode(): wanted == b"1" for name, wanted in zip(found[::2], found[1::2], strict=True)}

    async def save(self, job: RelayJob) -> None:
        if not await self._write(job, fence=job.fence, over=job.state):
            raise LeaseLost(f"Job {job.job_id} is somebody else's by now.")

    async def want_cancel(self, job_id: str) -> RelayJob | None:
        return await self._opened(await self._line.run(scripts.WANT_CANCEL, job_id, self._now()))

    async def counts(self, *, tenant: str | None = None) -> Mapping[JobState, int]:
        if tenant is not None:
            told = await self._line.run(scripts.TALLY, tenant, *JobState)
            return {state: int(count or 0) for state, count in zip(JobState, told, strict=True)}
        found = iter(await self._line.run(scripts.COUNTS, *LINES, *LEASES, *ENDED))
        counts = {state: sum(next(found) for _ in PRIORITIES) for state in (JobState.WAITING, JobState.LEASED)}
        return counts | dict(zip(OVER, found, strict=True))

    async def listed(
        self, *, tenant: str | None, states: Collection[JobState] = tuple(JobState), before: str = "", limit: int
    ) -> Sequence[RelayJob]:
        owned = "all" if tenant is None else f"owned:{tenant}"
        found = await self._line.run(scripts.LISTED, owned, before, limit, *states)
        return await self._lane.run(lambda: self._codec.jobs(_row(columns, content=False) for columns in found))

    async def due(self, *, before: float, limit: int) -> Sequence[RelayJob]:
        found = await self._line.run(scripts.DUE, before, limit)
        return await self._lane.run(lambda: self._codec.jobs(_row(columns, content=False) for columns in found))

    async def prove(self) -> None:
        await self._line.call("SET", f"{PREFIX}proof", 1)

    async def dead(self, *, tenant: str | None, limit: int) -> Sequence[RelayJob]:
        found = await self._line.run(scripts.DEAD, int(tenant is None), tenant or "", limit)
        return await self._lane.run(lambda: self._codec.jobs(map(_row, found)))

    async def revive(self, job_id: str, *, tenant: str | None, states: Collection[JobState] = (JobState.DEAD,)) -> bool:
        job = await self.get(job_id)
        if job is None or job.state not in states or tenant not in (None, job.tenant):
            return False
        return await self._write(revived(job), fence=job.fence, over=job.state)

    async def expire(self, *, older_than: float) -> int:
        total = 0
        while count := await self._line.run(scripts.EXPIRE, older_than, FORGOTTEN_AT_ONCE, *OVER):
            total += int(count)
        return total

    async def _write(self, job: RelayJob, *, fence: int, over: JobState) -> bool:
        """Write all but the body, if the job is not over, or in this state; False: it is, or ``fence`` is old."""
        if job.state.over and not job.finished_at:
            job = replace(job, finished_at=self._now())
        row = await self._lane.run(lambda: self._codec.row(job, with_body=False))
        columns = _written(row)
        places = [columns.pop(name) for name in ("state", "lease_until", "finished_at", "notice_at")]
        if not row.cancel_wanted and fence == row.fence:
            del columns["cancel_wanted"]  # somebody may have wanted it meanwhile
        done = await self._line.run(scripts.SAVE, row.job_id, fence, over, *places, *_flat(columns))
        return bool(done)

    async def _opened(self, columns: Sequence[bytes]) -> RelayJob | None:
        if not columns:
            return None
        return await self._lane.run(lambda: self._codec.job(_row(columns)))

    def _now(self) -> float:
        return self._clock.now().timestamp()


def _written(row: JobRow) -> dict[str, Argument]:
    """Columns that change; a result that is not there is empty, sealed ones never are."""
    return {
        "state": row.state,
        "lease_until": row.lease_until,
        "finished_at": row.finished_at,
        "notice_at": row.notice_at,
        "fence": row.fence,
        "holder": row.holder,
        "cancel_wanted": int(row.cancel_wanted),
        "head": row.head,
        "result": row.result or b"",
    }


def _fixed(row: JobRow) -> dict[str, Argument]:
    return {
        "job_id": row.job_id,
        "tenant": row.tenant,
        "priority": row.priority,
        "named": row.named,
        "keyed": row.keyed or b"",
        "body": row.body,
    }


def _flat(columns: Mapping[str, Argument]) -> Iterable[Argument]:
    return (part for column in columns.items() for part in column)


def _row(flat: Sequence[bytes], *, content: bool = True) -> JobRow:
    told = dict(zip(flat[::2], flat[1::2], strict=True))
    if not content:
        told |= {b"body": b"", b"result": b""}
    return JobRow(
        job_id=told[b"job_id"].decode(),
        tenant=told[b"tenant"].decode(),
        priority=Priority(told[b"priority"].decode()),
        state=JobState(told[b"state"].decode()),
        fence=int(told[b"fence"]),
        lease_until=float(told[b"lease_until"]),
        holder=told[b"holder"].decode(),
        cancel_wanted=told[b"cancel_wanted"] == b"1",
        finished_at=float(told[b"finished_at"]),
        notice_at=float(told.get(b"notice_at") or 0.0),
        named=told[b"named"],
        keyed=told[b"keyed"] or None,
        head=told[b"head"],
        body=told[b"body"],
        result=told[b"result"] or None,
    )
