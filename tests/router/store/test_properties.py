"""Whatever callers do in whatever order: no job is lost or ended twice, fences grow, slots are never overdrawn."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from router.model import Priority
from router.ports import JobState, LeaseLost, RelayJob
from router.store import Stores
from tests.router.store.redis_server import RedisServer
from tests.router.store.values import assignment, job
from tests.router.store.worlds import World, fake_redis_world, redis_world, sqlite_world

NAMES = st.sampled_from(["a", "b"])
QUICK = settings(deadline=None, max_examples=20, stateful_step_count=40, suppress_health_check=list(HealthCheck))
ACTIVE = (JobState.WAITING, JobState.LEASED)


@dataclass
class Expected:
    """A job as it must be; ``place`` is its place in the line."""

    job: RelayJob
    place: int
    held: list[RelayJob] = field(default_factory=list)
    ends: int = 0


class Jobs(RuleBasedStateMachine):
    """Two replicas on one store, and what must have come of it."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.stores: list[Stores] = self.run(self.stack.enter_async_context(self.world.replicas(2)))
        self.known: dict[str, Expected] = {}
        self.keys: dict[tuple[str, str], str] = {}
        self.count = 0

    def run(self, call: Any) -> Any:
        return self.runner.run(self._awaited(call))

    async def _awaited(self, call: Any) -> Any:
        return await call

    @property
    def now(self) -> float:
        return self.world.clock.now().timestamp()

    @rule(tenant=NAMES, key=st.sampled_from(["", "", "k"]), priority=st.sampled_from(Priority), at=st.integers(0, 1))
    def add(self, tenant: str, key: str, priority: Priority, at: int) -> None:
        self.count += 1
        new = job(f"j{self.count}", tenant=tenant, idempotency_key=key, priority=priority)
        got = self.run(self.stores[at].jobs.add(new))
        before = self.keys.get((tenant, key)) if key else None
        if before is not None:
            assert got == self.known[before].job
            return
        assert got == new
        self.known[new.job_id] = Expected(new, self.count)
        if key:
            self.keys[tenant, key] = new.job_id

    @rule(holder=NAMES, limit=st.integers(1, 3), lasts=st.integers(1, 20), apart=st.sets(NAMES), at=st.integers(0, 1))
    def lease(self, holder: str, limit: int, lasts: int, apart: set[str], at: int) -> None:
        now = self.now
        free = [
            one
            for one in self.known.values()
            if (one.job.state is JobState.WAITING and one.job.tenant not in apart)
            or (one.job.state is JobState.LEASED and one.job.lease_until <= now)
        ]
        free.sort(key=lambda one: (one.job.priority is Priority.LOW, one.place))
        taken = self.run(self.stores[at].jobs.lease(holder, limit=limit, until=now + lasts, now=now, apart=apart))
        assert [one.job_id for one in taken] == [one.job.job_id for one in free[:limit]]
        for one, mine in zip(free, taken, strict=False):
            assert mine.fence > one.job.fence
            leased = replace(one.job, state=JobState.LEASED, holder=holder, lease_until=now + lasts, fence=mine.fence)
            assert mine == replace(leased, body=b"")
            one.job = leased
            one.held.append(mine)

    @precondition(lambda self: any(one.held for one in self.known.values()))
    @rule(data=st.data(), state=st.sampled_from(JobState), lasts=st.integers(1, 20), at=st.integers(0, 1))
    def save(self, data: st.DataObject, state: JobState, lasts: int, at: int) -> None:
        one = data.draw(st.sampled_from([one for one in self.known.values() if one.held]))
        held = data.draw(st.sampled_from(one.held))
        now = self.now
        wanted = replace(
            held,
            state=state,
            remote_id=f"{held.fence}/{state}",
            lease_until=now + lasts if state is JobState.LEASED else 0.0,
            finished_at=now if state.over else 0.0,
            result=b"answer" if state.over else None,
        )
        ended_otherwise = one.job.state.over and one.job.state is not state
        if held.fence != one.job.fence or ended_otherwise:
            with pytest.raises(LeaseLost):
                self.run(self.stores[at].jobs.save(wanted))
            return
        one.ends += state.over and not one.job.state.over
        self.run(self.stores[at].jobs.save(wanted))
        one.job = replace(wanted, body=one.job.body, cancel_wanted=wanted.cancel_wanted or one.job.cancel_wanted)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), at=st.integers(0, 1))
    def want_cancel(self, data: st.DataObject, at: int) -> None:
        one = data.draw(st.sampled_from(list(self.known.values())))
        if one.job.state is JobState.WAITING:
            one.ends += 1
            one.job = replace(one.job, state=JobState.CANCELLED, finished_at=self.now)
            one.job = replace(one.job, cancel_wanted=True)
        elif one.job.state is JobState.LEASED:
            one.job = replace(one.job, cancel_wanted=True)
        assert self.run(self.stores[at].jobs.want_cancel(one.job.job_id)) == one.job

    @precondition(lambda self: any(one.job.state is JobState.DEAD for one in self.known.values()))
    @rule(data=st.data(), tenant=st.sampled_from(["a", "b", None]), at=st.integers(0, 1))
    def revive(self, data: st.DataObject, tenant: str | None, at: int) -> None:
        dead = [one for one in self.known.values() if one.job.state is JobState.DEAD]
        one = data.draw(st.sampled_from(dead))
        done = self.run(self.stores[at].jobs.revive(one.job.job_id, tenant=tenant))
        assert done is (tenant in (None, one.job.tenant))
        if done:
            back = self.run(self.stores[at].jobs.get(one.job.job_id))
            assert back.fence > one.job.fence
            assert (back.state, back.result, back.cancel_wanted) == (JobState.WAITING, None, False)
            one.job, one.ends = back, 0

    @rule(age=st.integers(0, 30), at=st.integers(0, 1))
    def expire(self, age: int, at: int) -> None:
        moment = self.now - age
        old = [name for name, one in self.known.items() if one.job.state.over and one.job.finished_at < moment]
        assert self.run(self.stores[at].jobs.expire(older_than=moment)) == len(old)
        for name in old:
            del self.known[name]
            assert self.run(self.stores[at].jobs.get(name)) is None
        self.keys = {key: name for key, name in self.keys.items() if name in self.known}

    @rule(seconds=st.integers(1, 15))
    def pass_time(self, seconds: int) -> None:
        self.run(self.world.clock.advance(seconds))

    @invariant()
    def nothing_is_lost_or_ended_twice(self) -> None:
        counts = self.run(self.stores[1].jobs.counts())
        for state in JobState:
            assert counts[state] == sum(one.job.state is state for one in self.known.values())
        for one in self.known.values():
            assert one.ends == one.job.state.over
            assert self.run(self.stores[0].jobs.get(one.job.job_id)) == one.job

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()


@pytest.fixture
def folders() -> Iterator[Path]:
    """A folder in which each example has one of its own."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_jobs_in_sqlite(folders: Path) -> None:
    """The rules hold for SQLite, over what a machine does in any order."""

    class InSqlite(Jobs):
        def __init__(self) -> None:
            shutil.rmtree(folders / "state", ignore_errors=True)
            self.world = sqlite_world(folders / "state")
            super().__init__()

    run_state_machine_as_test(InSqlite, settings=QUICK)


def test_jobs_in_fakeredis() -> None:
    """The rules hold for the scripts, as fakeredis runs them."""

    class InFakeRedis(Jobs):
        def __init__(self) -> None:
            self.world = fake_redis_world()
            super().__init__()

    run_state_machine_as_test(InFakeRedis, settings=settings(QUICK, max_examples=5))


def test_jobs_in_redis(folders: Path, redis_server: RedisServer) -> None:
    """The rules hold for a real server."""

    class InRedis(Jobs):
        def __init__(self) -> None:
            self.world = redis_world(redis_server.url, folders)
            super().__init__()

    run_state_machine_as_test(InRedis, settings=QUICK)


Steps = list[list[tuple[int, str, str]]]
STEP = st.tuples(st.integers(0, 1), st.sampled_from("rrs"), st.integers(0, 11).map(str))


@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(waves=st.lists(st.lists(STEP, max_size=12), max_size=8), slots=st.integers(1, 3))
async def test_slots_are_never_overdrawn(world: World, waves: Steps, slots: int) -> None:
    """Clients of two replicas reserve and settle at once; no worker ever counts more than it has."""
    async with world.replicas(2) as stores:
        for wave in waves:
            calls = (
                stores[at].shared.reserve(assignment(name, f"sd/{int(name) % 2}"), slots=slots, ttl_s=60)
                if what == "r"
                else stores[at].shared.settle(name)
                for at, what, name in wave
            )
            await asyncio.gather(*calls)
            held = [one.worker for one in await stores[0].shared.assignments()]
            assert all(held.count(one) <= slots for one in held)
        for name in map(str, range(12)):
            await stores[1].shared.settle(name)
        assert list(await stores[0].shared.assignments()) == []
