"""The jobs that are not finished, by every name under which they are asked for, and how much they are together."""

import asyncio
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from lib.jobs.ids import prompt_id_of
from lib.jobs.live import LiveJob
from lib.jobs.model import Idempotency, Job, JobSpec, JobStatus, Stage

REPLAY_S = 300.0
"""So long a completed job answers a router's retry (same tag, same body) instead of running again."""

H = TypeVar("H", bound=Hashable)
Name = tuple[str, str]
"""Owner and request id."""
Tag = tuple[str, int, str]
"""Owner, the router's number and the hash of the body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCounts:
    """Live jobs by where they are: those that wait for a stage, and those that are being worked on."""

    prepare_waiting: int
    preparing: int
    execute_waiting: int
    running: int
    deliver_waiting: int
    delivering: int


class LiveJobs:
    """Finds live jobs. ``load`` is their workload, ``request_bytes`` the size of their requests; ``idle`` is set while
    there are none."""

    def __init__(self) -> None:
        self._jobs: dict[str, LiveJob] = {}
        self._by_name: dict[Name, str] = {}
        self._by_key: dict[Idempotency, str] = {}
        self._by_tag: dict[Tag, str] = {}
        self.load = 0.0
        self.request_bytes = 0
        self.idle = asyncio.Event()
        self.idle.set()

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    def __iter__(self) -> Iterator[LiveJob]:
        return iter(self._jobs.values())

    def add(self, live: LiveJob) -> None:
        """It lives from now on, as the newest one of its name."""
        job = live.job
        self._jobs[job.job_id] = live
        self._by_name[_name(job.spec)] = job.job_id
        if job.spec.idempotency is not None:
            self._by_key[job.spec.idempotency] = job.job_id
        if (tag := tag_of(job.spec)) is not None:
            self._by_tag[tag] = job.job_id
        self.load += job.cost
        self.request_bytes += live.request_bytes
        self.idle.clear()

    def drop(self, live: LiveJob) -> None:
        """It lives no longer; its tag is remembered for a while if it completed."""
        live.release()
        job = live.job
        del self._jobs[job.job_id]
        _forget(self._by_name, _name(job.spec), job.job_id)
        if job.spec.idempotency is not None:
            _forget(self._by_key, job.spec.idempotency, job.job_id)
        if (tag := tag_of(job.spec)) is not None:
            keep_s = REPLAY_S if job.status is JobStatus.COMPLETED else 0.0
            loop = asyncio.get_running_loop()
            loop.call_later(keep_s, _forget, self._by_tag, tag, job.job_id)  # ids: no job stays alive
        self.request_bytes -= live.request_bytes
        self.load = self.load - job.cost if self._jobs else 0.0  # what rounding left goes with the last one
        if not self._jobs:
            self.idle.set()

    def get(self, job_id: str) -> LiveJob | None:
        """The live job of this id."""
        return self._jobs.get(job_id)

    def named(self, request_id: str, *, owner: str) -> LiveJob | None:
        """The live job of an owner's request id."""
        return self._jobs.get(self._by_name.get((owner, request_id), ""))

    def keyed(self, key: Idempotency) -> LiveJob | None:
        """The live job that was accepted under an idempotency key."""
        return self._jobs.get(self._by_key.get(key, ""))

    def tagged(self, spec: JobSpec) -> str | None:
        """The id of the job, live or lately completed, that a router's retry asks for again."""
        tag = tag_of(spec)
        return None if tag is None else self._by_tag.get(tag)

    def counts(self, *, preparing: int, delivering: int) -> QueueCounts:
        """Count by stage; so many are ``preparing`` and ``delivering`` now, the others of these stages wait."""
        stages = Counter((live.job.stage, live.job.status) for live in self)
        return QueueCounts(
            prepare_waiting=max(_in_stage(stages, Stage.PREPARE) - preparing, 0),
            preparing=preparing,
            execute_waiting=stages[Stage.EXECUTE, JobStatus.QUEUED],
            running=stages[Stage.EXECUTE, JobStatus.RUNNING] + _in_stage(stages, Stage.COLLECT),
            deliver_waiting=max(_in_stage(stages, Stage.DELIVER) - delivering, 0),
            delivering=delivering,
        )

    def prompts_of(self, engine: str) -> set[str]:
        """Ids under which an engine may have prompts of these jobs: one more may have been posted than was written."""
        return {
            prompt_id_of(live.job.job_id, post)
            for live in self
            if not live.orphaned and (live.job.engine == engine or engine in live.unasked)
            for post in range(1, live.job.posts + 2)
        }

    @property
    def snapshots(self) -> list[Job]:
        return [live.job for live in self._jobs.values()]


def tag_of(spec: JobSpec) -> Tag | None:
    """Under what a router's retry finds this job; ``None`` without a number."""
    return (spec.owner, spec.tag, spec.body_hash) if spec.tag else None


def _in_stage(counts: Counter[tuple[Stage, JobStatus]], wanted: Stage) -> int:
    return sum(count for (stage, _), count in counts.items() if stage is wanted)


def _name(spec: JobSpec) -> Name:
    return spec.owner, spec.request_id


def _forget(index: dict[H, str], name: H, job_id: str) -> None:
    if index.get(name) == job_id:
        del index[name]
