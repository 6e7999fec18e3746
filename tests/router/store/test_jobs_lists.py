"""What every ``JobStore`` does for runners and for lists: whose jobs a lease takes, which go on, what there is."""

import asyncio
from dataclasses import replace

import pytest

from router.ports import JobState, JobStore, LeaseLost
from router.store import Stores
from tests.router.store.values import NOW, job

Pair = tuple[Stores, Stores]


async def fill(jobs: JobStore, **tenants: int) -> None:
    for tenant, count in tenants.items():
        for number in range(count):
            await jobs.add(job(f"{tenant}{number}", tenant=tenant))


async def test_who_has_enough_is_passed_by(pair: Pair) -> None:
    """However many of his jobs stand in front; leases that are over are taken up whosever they are."""
    jobs = pair[0].jobs
    await fill(jobs, a=150, b=2)
    taken = await jobs.lease("x", limit=5, until=NOW + 10, now=NOW, apart=["a"])
    assert [one.job_id for one in taken] == ["b0", "b1"]
    taken = await jobs.lease("y", limit=5, until=NOW + 10, now=NOW + 10, apart=["a", "b"])
    assert [one.job_id for one in taken] == ["b0", "b1"]
    assert [one.job_id for one in await jobs.lease("y", limit=1, until=NOW + 9, now=NOW)] == ["a0"]


async def test_nobodys_line_is_too_long_for_others(pair: Pair) -> None:
    """Who waits behind thousands of jobs of somebody who has enough is served as if they were not there."""
    jobs = pair[0].jobs
    await asyncio.gather(*(jobs.add(job(f"a{number}", tenant="a", body=b"")) for number in range(3000)))
    await fill(jobs, b=1)
    taken = await jobs.lease("x", limit=5, until=NOW + 10, now=NOW, apart=["a"])
    assert [one.job_id for one in taken] == ["b0"]
    first = await jobs.lease("x", limit=2, until=NOW + 10, now=NOW)
    assert [one.job_id for one in first] == ["a0", "a1"]


async def test_notices_are_found_when_they_are_due(pair: Pair) -> None:
    """However many jobs ended since; the longest overdue first, until they are told or forgotten."""
    jobs = pair[0].jobs
    await fill(jobs, a=4)
    due = {"a0": NOW + 3, "a1": NOW + 1, "a2": NOW + 2, "a3": 0.0}
    for one in await jobs.lease("x", limit=4, until=NOW + 10, now=NOW):
        over = replace(one, state=JobState.DEAD, result=b"large", notice_at=due[one.job_id])
        await jobs.save(over)

    async def named(moment: float, limit: int = 9) -> list[str]:
        return [one.job_id for one in await pair[1].jobs.due(before=moment, limit=limit)]

    assert await named(NOW + 9) == ["a1", "a2", "a0"]
    assert await named(NOW + 9, limit=1) == ["a1"]
    assert await named(NOW + 2) == ["a1"]
    (first,) = await jobs.due(before=NOW + 2, limit=1)
    assert (first.notice_at, first.body, first.result) == (NOW + 1, b"", None)
    known = await jobs.get("a1")
    assert known is not None
    await jobs.save(replace(known, notice_at=0.0, notices=1))
    assert await jobs.revive("a2", tenant="a")
    assert await named(NOW + 9) == ["a0"]
    await jobs.expire(older_than=NOW + 99)
    assert await named(NOW + 9) == []


async def test_a_store_proves_that_it_can_be_written(pair: Pair) -> None:
    """As often as it is asked; nothing comes of it."""
    for stores in (*pair, *pair):
        await stores.jobs.prove()
    assert not any((await pair[0].jobs.counts()).values())


async def test_leases_are_renewed_together(pair: Pair) -> None:
    """Those that are still held, each with the wish to cancel it; nobody else's, and none that is over."""
    one, other = (stores.jobs for stores in pair)
    await fill(one, a=4)
    held = {job.job_id: job for job in await one.lease("x", limit=4, until=NOW + 10, now=NOW)}
    await other.want_cancel("a1")
    await one.save(replace(held["a2"], state=JobState.DONE))
    fences = {name: job.fence for name, job in held.items()} | {"a3": 7, "unknown": 1}
    assert await one.renew(fences, until=NOW + 50) == {"a0": False, "a1": True}
    assert await one.renew({}, until=NOW + 50) == {}
    assert [job.job_id for job in await other.lease("y", limit=9, until=NOW + 60, now=NOW + 49)] == ["a3"]
    again = await other.lease("y", limit=9, until=NOW + 60, now=NOW + 50)
    assert [(job.job_id, job.fence, job.cancel_wanted) for job in again] == [("a0", 2, False), ("a1", 2, True)]


async def test_what_somebody_holds_is_told(pair: Pair) -> None:
    """With its fence, until it goes back, is over, or is somebody else's."""
    one, other = (stores.jobs for stores in pair)
    await fill(one, a=4)
    held = {job.job_id: job for job in await one.lease("x", limit=3, until=NOW + 10, now=NOW)}
    await other.lease("y", limit=1, until=NOW + 50, now=NOW)
    assert await other.held("x") == {"a0": 1, "a1": 1, "a2": 1}
    await one.save(replace(held["a0"], state=JobState.DONE))
    await one.save(replace(held["a1"], state=JobState.WAITING))
    assert await other.held("x") == {"a2": 1}
    await other.lease("y", limit=1, until=NOW + 50, now=NOW)
    await other.lease("y", limit=1, until=NOW + 50, now=NOW + 10)
    assert (await one.held("x"), await one.held("y")) == ({}, {"a1": 2, "a2": 2, "a3": 1})


async def test_lists_have_the_newest_first(pair: Pair) -> None:
    """A tenant's or everybody's, of some states, page by page, without what is large."""
    jobs = pair[0].jobs
    await fill(jobs, a=3, b=1)
    await jobs.want_cancel("a1")
    (mine,) = await jobs.lease("x", limit=1, until=NOW + 10, now=NOW)
    await jobs.save(replace(mine, state=JobState.DONE, result=b"large", result_status=200))

    async def named(**asked: object) -> list[str]:
        given = {"tenant": "a", "limit": 10, **asked}
        return [one.job_id for one in await pair[1].jobs.listed(**given)]  # type: ignore[arg-type]

    assert await named() == ["a2", "a1", "a0"]
    assert await named(tenant=None) == ["b0", "a2", "a1", "a0"]
    assert await named(states=[JobState.CANCELLED, JobState.DONE]) == ["a1", "a0"]
    assert await named(limit=1) == ["a2"]
    assert await named(before="a2", limit=1) == ["a1"]
    assert await named(before="unknown") == []
    (done,) = await jobs.listed(tenant="a", states=[JobState.DONE], limit=1)
    assert (done.body, done.result, done.result_status, done.path) == (b"", None, 200, "/generate")


async def test_each_tenants_jobs_are_counted(pair: Pair) -> None:
    """Through all that becomes of a job, until it is forgotten."""
    jobs = pair[0].jobs

    async def counted(tenant: str) -> dict[JobState, int]:
        return {state: count for state, count in (await pair[1].jobs.counts(tenant=tenant)).items() if count}

    await fill(jobs, a=3, b=1)
    assert await counted("a") == {JobState.WAITING: 3}
    await jobs.want_cancel("a2")
    one, two = await jobs.lease("x", limit=2, until=NOW + 10, now=NOW)
    assert await counted("a") == {JobState.LEASED: 2, JobState.CANCELLED: 1}
    await jobs.lease("y", limit=2, until=NOW + 30, now=NOW + 10, apart=["b"])
    assert await counted("a") == {JobState.LEASED: 2, JobState.CANCELLED: 1}
    one, two = replace(one, fence=2), replace(two, fence=2)
    await jobs.save(replace(one, state=JobState.WAITING))
    await jobs.save(replace(two, state=JobState.DEAD, finished_at=NOW))
    assert await counted("a") == {JobState.WAITING: 1, JobState.DEAD: 1, JobState.CANCELLED: 1}
    await jobs.revive(two.job_id, tenant="a")
    assert await counted("a") == {JobState.WAITING: 2, JobState.CANCELLED: 1}
    await jobs.expire(older_than=NOW + 1)
    assert (await counted("a"), await counted("b"), await counted("c")) == (
        {JobState.WAITING: 2},
        {JobState.WAITING: 1},
        {},
    )


async def test_a_job_that_is_done_may_be_done_again(pair: Pair) -> None:
    """Where its owner wants it; only if it is over that way, and once more is counted."""
    jobs = pair[0].jobs
    await fill(jobs, a=1)
    (mine,) = await jobs.lease("x", limit=1, until=NOW + 10, now=NOW)
    await jobs.save(replace(mine, state=JobState.DONE, result=b"bad", notice_at=3.0, notices=1, number=5))
    assert not await jobs.revive("a0", tenant="a")
    assert not await jobs.revive("a0", tenant="b", states=[JobState.DONE])
    assert await jobs.revive("a0", tenant="a", states=[JobState.DONE, JobState.DEAD])
    again = await jobs.get("a0")
    assert again is not None
    assert (again.state, again.run, again.result, again.notice_at, again.notices) == (JobState.WAITING, 2, None, 0.0, 0)
    with pytest.raises(LeaseLost):
        await jobs.save(replace(mine, state=JobState.DONE))
