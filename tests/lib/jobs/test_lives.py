"""Whatever happens to the worker, its engines and its callers, in whatever order: every job has one end."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.errors import ExecutionFailed, JobNotFound, OutOfMemory, ServiceError
from lib.jobs.model import Job, JobStatus, OnDisconnect
from tests.fakes.clock import settle
from tests.fakes.engine import FakeEngine
from tests.fakes.jobs import JobWorld, build_jobs, restart, spec

ACTIONS = [
    "sync", "kept", "kept", "low", "refused", "leave", "cancel", "stop", "outlive", "watch", "end", "end", "fail",
    "out of memory", "die", "come back", "hold uploads", "release uploads", "kill", "drain",
]  # fmt: skip
EVENTS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 30)), min_size=10, max_size=80)


class Model:
    """Drives services over one store as fate would, and knows what must come of it."""

    def __init__(self) -> None:
        self.engines = [FakeEngine("gpu0"), FakeEngine("gpu1")]
        self.world = build_jobs(self.engines)
        self.lives = [self.world]
        self.accepted: dict[str, Job] = {}
        self.ends: dict[str, list[JobStatus]] = {}
        self.waiters: list[asyncio.Task[Any]] = []
        self.stopped: set[str] = set()
        self.outlived: set[str] = set()
        self.bygone: list[asyncio.Task[Any]] = []
        """Who waited when the worker was killed."""
        self._listen(self.world)

    def _listen(self, world: JobWorld) -> None:
        def heard(job: Job) -> None:
            if job.status.terminal and world is self.world:
                self.ends.setdefault(job.job_id, []).append(job.status)

        world.service.listen(heard)

    async def step(self, action: str, number: int) -> None:
        match action:
            case "sync" | "kept" | "low":
                await self._submit(kept=action != "sync", low=action == "low")
            case "refused":
                await self._refuse()
            case "leave" if self.waiters:
                self.waiters.pop(number % len(self.waiters)).cancel()
            case "cancel":
                self._on_a_job(number, self._cancel)
            case "stop":
                self._on_a_job(number, self._stop)
            case "outlive":
                self._on_a_job(number, self._outlive)
            case "watch":
                self._on_a_job(number, self._watch)
            case "end" | "fail" | "out of memory":
                self._end(action)
            case "die":
                self.engines[number % 2].die()
            case "come back":
                self._come_back()
            case "hold uploads":
                self.world.delivery.gate.clear()
            case "release uploads":
                self.world.delivery.gate.set()
            case "kill" | "drain":
                await self._next_life(drained=action == "drain")
        await settle()
        self.check()

    async def _submit(self, *, kept: bool, low: bool) -> None:
        mode = OnDisconnect.KEEP if kept else OnDisconnect.CANCEL
        asked = spec(f"r{len(self.accepted)}", on_disconnect=mode, low_priority=low)
        job = await self.world.service.submit(asked)
        self.accepted[job.job_id] = job
        if not kept:
            self.waiters.append(asyncio.ensure_future(self._wait(self.world, job)))

    async def _refuse(self) -> None:
        job = await self.world.service.refuse(spec(f"r{len(self.accepted)}"), ExecutionFailed("no"))
        self.accepted[job.job_id] = job

    async def _wait(self, world: JobWorld, job: Job) -> None:
        ended = await world.service.wait(job.job_id)
        assert ended.status.terminal

    def _on_a_job(self, number: int, work: Any) -> None:
        if self.accepted:
            job = list(self.accepted.values())[number % len(self.accepted)]
            self.waiters.append(asyncio.ensure_future(work(self.world, job)))

    @staticmethod
    async def _cancel(world: JobWorld, job: Job) -> None:
        await world.service.cancel(job.job_id, reason="enough")

    async def _stop(self, world: JobWorld, job: Job) -> None:
        stopping = await world.service.cancel(job.job_id, reason="enough", wait=False)
        assert stopping.stopping or stopping.status is JobStatus.CANCELLED
        self.stopped.add(job.job_id)

    async def _outlive(self, world: JobWorld, job: Job) -> None:
        self.outlived.add(job.job_id)
        await world.service.shorten(job.job_id, 0)

    @staticmethod
    async def _watch(world: JobWorld, job: Job) -> None:
        versions = [view.version async for view in world.service.watch(job.job_id)]
        assert versions == sorted(set(versions))

    def _end(self, action: str) -> None:
        errors: dict[str, ServiceError | None] = {"fail": ExecutionFailed("boom"), "out of memory": OutOfMemory("CUDA")}
        for engine in self.engines:
            if any(entry.running and not entry.end.done() for entry in engine.posted):
                engine.finish(errors.get(action))
                return

    def _come_back(self) -> None:
        for engine in self.engines:
            engine.healthy = True
        self.world.queue.dispatch()

    async def _next_life(self, *, drained: bool) -> None:
        if drained:
            await self.world.service.drain(0)
            assert self.world.service.in_flight_count == 0
        old, self.world = self.world, restart(self.world)
        old.delivery.gate.clear()
        self.bygone, self.waiters = self.bygone + self.waiters, []
        self.lives.append(self.world)
        self._listen(self.world)
        await self.world.service.recover()

    def check(self) -> None:
        """What holds at any time."""
        assert all(len(ends) == 1 for ends in self.ends.values()), "a job ended twice"
        live = {job.job_id: job for job in self.world.service.live_jobs}
        assert not live.keys() & self.ends.keys(), "over, and still there"
        assert self.world.service.load == sum(job.cost for job in live.values())
        counts = self.world.service.queue_counts()
        assert min(counts.prepare_waiting, counts.execute_waiting, counts.deliver_waiting) >= 0

    async def close(self) -> None:
        """Let everything come to its end, and look."""
        self._come_back()
        self.world.delivery.gate.set()
        for _ in range(200):
            if not self.world.service.in_flight_count:
                break
            for job in self.world.service.live_jobs:
                if job.spec.on_disconnect is OnDisconnect.CANCEL and not self.waiters:
                    self.waiters.append(asyncio.ensure_future(self._wait(self.world, job)))
            self._end("end")
            await settle()
        for answer in await asyncio.gather(*self.waiters, return_exceptions=True):
            assert answer is None or isinstance(answer, ServiceError | asyncio.CancelledError), answer
        assert self.world.service.in_flight_count == 0
        assert self.world.queue.posted_count == 0
        assert self.ends.keys() == self.accepted.keys(), "each job has one end"
        assert all(self.ends[job_id] == [JobStatus.CANCELLED] for job_id in self.stopped)
        for job_id in self.accepted:
            if job_id in self.outlived:
                with pytest.raises(JobNotFound):
                    await self.world.service.get(job_id)
                continue
            stored = await self.world.service.get(job_id)
            assert stored.status is self.ends[job_id][0]
            shortages = len(self.lives)  # they are not recorded: each life tries again
            assert stored.attempts <= 2 + shortages, "one resubmission after a loss, one after a shortage of memory"
        assert await self.world.store.unfinished() == []
        told = Counter(name for name, _ in self.world.ledger.finished_jobs)
        assert told == Counter(self.world.ledger.received_jobs)
        for world in self.lives:
            await world.tasks.cancel()
        for task in self.bygone:
            task.cancel()
        await asyncio.gather(*self.bygone, return_exceptions=True)


@settings(max_examples=150, deadline=None)
@given(events=EVENTS)
def test_every_job_has_one_end(events: list[tuple[str, int]]) -> None:
    """Kept jobs survive kills and drains; callers who leave, engines that die and cancels at any moment leave no job
    without an end, none with two, and no load, seat or prompt behind."""

    async def drive() -> None:
        model = Model()
        for action, number in events:
            await model.step(action, number)
        await model.close()

    asyncio.run(drive())
