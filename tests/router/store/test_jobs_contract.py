"""What every ``JobStore`` does."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from router.model import Priority
from router.ports import Attempt, JobState, JobStore, LeaseLost, RelayJob
from router.store import Stores
from tests.router.store.values import NOW, job
from tests.router.store.worlds import World

Pair = tuple[Stores, Stores]


async def leased(jobs: JobStore, *, limit: int = 1, now: float = NOW, holder: str = "a") -> list[RelayJob]:
    return list(await jobs.lease(holder, limit=limit, until=now + 45, now=now))


async def ids(jobs: JobStore, **asked: float) -> list[str]:
    return [one.job_id for one in await leased(jobs, **asked)]  # type: ignore[arg-type]


async def test_a_job_comes_back_as_it_was_put(pair: Pair) -> None:
    """All of it, for every replica; other names find nothing."""
    put = job(
        attempts=(Attempt(number=1, worker="sd/1", begun_at=NOW, ended="lost"),),
        priority=Priority.LOW,
        shape="s",
        remote_id="x",
        input_bytes=7,
        hooked=True,
        idempotency_key="k",
        body=b"\x00\xff" * 100_000,
    )
    assert await pair[0].jobs.add(put) == put
    assert await pair[1].jobs.get("j1") == put
    assert await pair[1].jobs.find("name of j1", tenant="acme") == put
    assert await pair[1].jobs.find("name of j1", tenant="other") is None
    assert await pair[1].jobs.get("j2") is None


async def test_the_newest_of_a_name_is_found(pair: Pair) -> None:
    """An older one is, when the newer is forgotten."""
    jobs = pair[0].jobs
    for name in ("j1", "j2"):
        await jobs.add(job(name, request_id="same"))
    found = await jobs.find("same", tenant="acme")
    assert found is not None and found.job_id == "j2"
    await jobs.want_cancel("j2")
    assert await jobs.expire(older_than=NOW + 1) == 1
    found = await jobs.find("same", tenant="acme")
    assert found is not None and found.job_id == "j1"


async def test_an_idempotency_key_makes_one_job(pair: Pair) -> None:
    """For its tenant, at the same moment too, until the job is forgotten."""
    asked = [job(f"j{number}", idempotency_key="k") for number in range(8)]
    got = await asyncio.gather(*(pair[number % 2].jobs.add(one) for number, one in enumerate(asked)))
    assert len({one.job_id for one in got}) == 1
    elsewhere = job("mine", tenant="other", idempotency_key="k")
    assert await pair[0].jobs.add(elsewhere) == elsewhere
    assert (await pair[0].jobs.counts())[JobState.WAITING] == 2
    await pair[0].jobs.want_cancel(got[0].job_id)
    await pair[0].jobs.expire(older_than=NOW + 1)
    again = job("later", idempotency_key="k")
    assert await pair[1].jobs.add(again) == again


async def test_the_same_job_is_added_once(pair: Pair) -> None:
    """Whoever is not sure that it is recorded may do it again."""
    await pair[0].jobs.add(job("j1"))
    (mine,) = await leased(pair[0].jobs)
    assert await pair[1].jobs.add(job("j1")) == replace(mine, body=job().body)


async def test_high_and_old_ones_go_first(pair: Pair) -> None:
    """Also one whose lease is over, and one that went back, at its old place."""
    jobs = pair[0].jobs
    for name, priority in (("l1", Priority.LOW), ("h1", Priority.HIGH), ("h2", Priority.HIGH), ("h3", Priority.HIGH)):
        await jobs.add(job(name, priority=priority))
    assert await ids(jobs, limit=0) == []
    first, second = await leased(jobs, limit=2)
    assert [first.job_id, second.job_id] == ["h1", "h2"]
    await jobs.save(replace(second, state=JobState.WAITING))
    assert await ids(pair[1].jobs, now=NOW + 44.9) == ["h2"]
    assert await ids(pair[1].jobs, limit=9, now=NOW + 45) == ["h1", "h3", "l1"]


async def test_each_lease_has_a_new_fence(pair: Pair) -> None:
    """What an older holder writes is refused; a lease that goes on keeps others out."""
    one, other = pair[0].jobs, pair[1].jobs
    await one.add(job())
    (mine,) = await leased(one)
    assert (mine.state, mine.fence, mine.holder, mine.lease_until) == (JobState.LEASED, 1, "a", NOW + 45)
    assert mine.body == b""
    longer = replace(mine, lease_until=NOW + 100, worker="sd/1", attempts=(Attempt(number=1, worker="w", begun_at=1),))
    await one.save(longer)
    assert await ids(other, now=NOW + 99) == []
    (taken,) = await leased(other, now=NOW + 100, holder="b")
    assert (taken.fence, taken.holder, taken.worker) == (2, "b", "sd/1")
    with pytest.raises(LeaseLost):
        await one.save(replace(longer, state=JobState.DONE))
    assert await one.get("j1") == replace(taken, body=job().body)


async def test_a_job_is_finished_once(pair: Pair) -> None:
    """The same end may be written again, another is refused, as is a job that nobody knows."""
    jobs = pair[0].jobs
    await jobs.add(job())
    (mine,) = await leased(jobs)
    done = replace(mine, state=JobState.DONE, finished_at=NOW + 1, result_status=200, result=b"")
    await jobs.save(done)
    await jobs.save(done)
    for state in (JobState.WAITING, JobState.LEASED, JobState.DEAD, JobState.CANCELLED):
        with pytest.raises(LeaseLost):
            await jobs.save(replace(mine, state=state))
    assert await jobs.get("j1") == replace(done, body=job().body)
    assert await ids(jobs, now=NOW + 1000) == []
    with pytest.raises(LeaseLost):
        await jobs.save(job("unknown"))


async def test_cancelling(pair: Pair) -> None:
    """One that waits is over at once; one that runs is marked, and the mark stays whatever its holder writes."""
    jobs = pair[0].jobs
    for name in ("j1", "j2"):
        await jobs.add(job(name))
    (mine,) = await leased(jobs)
    marked = await pair[1].jobs.want_cancel("j1")
    assert marked is not None and (marked.state, marked.cancel_wanted) == (JobState.LEASED, True)
    await jobs.save(replace(mine, lease_until=NOW + 99))
    kept = await jobs.get("j1")
    assert kept is not None and kept.cancel_wanted
    over = await jobs.want_cancel("j2")
    assert over is not None and (over.state, over.finished_at) == (JobState.CANCELLED, NOW)
    assert await jobs.want_cancel("j2") == over
    assert await jobs.want_cancel("j3") is None
    assert await ids(jobs, now=NOW + 50) == []


async def test_dead_letters(pair: Pair, world: World) -> None:
    """Are listed by tenant, the latest first, and go on their way as new, out of their last holder's reach."""
    jobs = pair[0].jobs
    for number, tenant in enumerate(("acme", "acme", "other")):
        await jobs.add(job(f"j{number}", tenant=tenant))
        (mine,) = await leased(jobs)
        attempts = (Attempt(number=1, worker="w", begun_at=NOW, ended="lost"),)
        await jobs.save(replace(mine, state=JobState.DEAD, attempts=attempts, reason="lost", result=b"x"))
        await world.clock.advance(1)
    assert [one.job_id for one in await jobs.dead(tenant=None, limit=9)] == ["j2", "j1", "j0"]
    assert [one.job_id for one in await jobs.dead(tenant="acme", limit=1)] == ["j1"]
    assert not await jobs.revive("j1", tenant="other")
    assert await pair[1].jobs.revive("j1", tenant="acme")
    assert not await jobs.revive("j1", tenant=None)
    back = await jobs.get("j1")
    assert back is not None
    assert (back.state, back.attempts, back.result, back.reason, back.finished_at) == (
        JobState.WAITING,
        (),
        None,
        "",
        0,
    )
    with pytest.raises(LeaseLost):
        await jobs.save(replace(back, fence=1, state=JobState.DONE))
    assert await ids(jobs, limit=9) == ["j1"]


async def test_jobs_are_counted_by_state(pair: Pair) -> None:
    """All states, and 0 where there is none."""
    jobs = pair[0].jobs
    assert dict(await jobs.counts()) == dict.fromkeys(JobState, 0)
    for number in range(6):
        await jobs.add(job(f"j{number}", priority=Priority.LOW if number % 2 else Priority.HIGH))
    mine = await leased(jobs, limit=4)
    await jobs.save(replace(mine[0], state=JobState.DONE))
    await jobs.save(replace(mine[1], state=JobState.DEAD))
    await jobs.want_cancel("j5")
    counts = {JobState.WAITING: 1, JobState.LEASED: 2, JobState.DONE: 1, JobState.DEAD: 1, JobState.CANCELLED: 1}
    assert dict(await pair[1].jobs.counts()) == counts


async def test_old_ends_are_forgotten(pair: Pair, world: World) -> None:
    """However many; what still goes on stays."""
    jobs = pair[0].jobs
    for number in range(410):
        await jobs.add(job(f"j{number}"))
    mine = await leased(jobs, limit=405)
    await asyncio.gather(*(jobs.save(replace(one, state=JobState.DONE, finished_at=NOW + 10)) for one in mine[:403]))
    assert await jobs.expire(older_than=NOW + 10) == 0
    assert await jobs.expire(older_than=NOW + 10.5) == 403
    assert await jobs.get("j0") is None
    counts = await jobs.counts()
    assert (counts[JobState.WAITING], counts[JobState.LEASED], counts[JobState.DONE]) == (5, 2, 0)


async def test_no_two_get_the_same_job(pair: Pair) -> None:
    """Both replicas ask at once, and none is left over."""
    for number in range(40):
        await pair[0].jobs.add(job(f"j{number}"))
    taken = await asyncio.gather(*(leased(pair[number % 2].jobs, limit=3) for number in range(20)))
    assert Counter(one.job_id for some in taken for one in some) == Counter(f"j{number}" for number in range(40))
