"""A node failed and files are there: what becomes of a job that keeps partial results, and of one that does not."""

import pytest

from lib.errors import ExecutionFailed, OutOfMemory
from lib.jobs.model import Estimate, Job, JobStatus
from tests.fakes.clock import settle
from tests.fakes.jobs import JobWorld, build_jobs, finished, spec

BOOM = ExecutionFailed("boom")
SHORT = OutOfMemory("CUDA out of memory")


async def _run(world: JobWorld, *errors: ExecutionFailed, keep: bool = True) -> Job:
    job = await world.service.submit(spec(keep_partial=keep, estimate=Estimate(units=100, shape="s")))
    for error in errors:
        await settle()
        world.engine.finish(error)
    return await finished(world, job)


async def test_what_was_there_is_a_result_with_a_problem() -> None:
    """Delivered like any other."""
    world = build_jobs()
    done = await _run(world, BOOM)
    assert (done.status, done.error, done.problems, len(done.outputs)) == (JobStatus.COMPLETED, None, ("boom",), 1)
    assert done.warnings == done.problems
    assert world.delivery.delivered == ["r"] and world.engine.forgotten == [done.prompt_id]


@pytest.mark.parametrize(("keep", "left"), [(False, True), (True, False)])
async def test_a_failure_stays_one_where_nothing_is_kept(keep: bool, left: bool) -> None:
    """Not asked for, or nothing there."""
    world = build_jobs()
    world.engine.left_files = left
    done = await _run(world, BOOM, keep=keep)
    assert (done.status, done.error, done.outputs) == (JobStatus.FAILED, BOOM, ())


async def test_out_of_memory_is_tried_once_more_before_what_is_there_counts() -> None:
    """The history entry of the first attempt goes."""
    world = build_jobs()
    done = await _run(world, SHORT, SHORT)
    assert (done.status, done.attempts, done.problems) == (JobStatus.COMPLETED, 2, ("CUDA out of memory",))
    assert done.warnings == ("resubmitted: CUDA out of memory", "CUDA out of memory")
    assert len(set(world.engine.forgotten)) == 2


async def test_half_a_run_says_nothing_about_speed() -> None:
    """It would promise too much."""
    world = build_jobs()
    await _run(world, BOOM)
    assert world.speed.seconds_per_unit is None
    whole = await world.service.submit(spec("whole", estimate=Estimate(units=100, shape="s")))
    await settle()
    world.engine.finish()
    await finished(world, whole)
    assert world.speed.seconds_per_unit is not None
