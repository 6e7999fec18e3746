"""Direct mode: what becomes of a ``request_idx`` over polls, retries, refusals and time."""

import math

import pytest

from lib.protocol.status import DeletedRequest, RequestOutcome
from router.endpoints import Bearer, Scope
from tests.fakes.clock import settle
from tests.fakes.router_world import Replica
from tests.router.conftest import Make


def told(request_idx: int, status: RequestOutcome, *, run_s: float = 0.0) -> DeletedRequest:
    return DeletedRequest(
        request_idx=request_idx,
        success=status in (RequestOutcome.SUCCESS, RequestOutcome.CANCELLED),
        status=status,
        work_started_at=100.0,
        work_completed_at=100.0 + run_s if run_s else 0.0,
    )


async def test_a_number_is_given_even_when_there_is_no_worker(router: Replica) -> None:
    """And stays the same while its caller polls."""
    first = await router.route()
    assert first.worker is None and first.request_idx > 0
    assert (await router.route(first.request_idx)).request_idx == first.request_idx


async def test_numbers_are_never_given_twice(router: Replica) -> None:
    """Also not one that a caller brought from before a restart of the router."""
    brought = await router.route(3)
    fresh = [(await router.route()).request_idx for _ in range(5)]
    assert brought.request_idx == 3
    assert len({3, *fresh}) == 6


async def test_somebody_elses_number_gets_a_new_one(router: Replica) -> None:
    """A key gives no hold on the requests of another tenant."""
    first = await router.route()
    other = Bearer(scope=Scope.TENANT, endpoint="ep", tenant="other")
    answer = await router.direct.route("ep", other, cost=100, request_idx=first.request_idx, wait_s=0)
    assert answer.request_idx != first.request_idx


async def test_a_number_of_a_relayed_request_gets_a_new_one(router: Replica) -> None:
    """They are of one counter; a guess gives no hold on what was given to others."""
    await router.report(1)
    relayed = await router.direct.new_number()
    assert await router.give(str(relayed)) == "ep/1"
    answer = await router.route(relayed)
    assert answer.request_idx != relayed and answer.worker is None
    assert len(router.dispatcher.held("ep/1")) == 1


async def test_a_poll_keeps_its_place_in_the_line(router: Replica) -> None:
    """Who came first is served first, though it was away for a moment."""
    await router.report(1)
    await router.give("running")
    early = await router.route()
    await router.clock.advance(1)
    late = router.tasks.spawn(router.route(wait_s=8), name="late")
    await settle()
    back = router.tasks.spawn(router.route(early.request_idx, wait_s=8), name="back")
    await settle()
    await router.done("running")
    assert back.done() and back.result().worker is not None
    assert not late.done()


async def test_polls_are_no_new_work(router: Replica) -> None:
    """The offered load counts a request once."""
    await router.route()
    begun = await router.route()
    await router.clock.advance(1)
    for _ in range(50):
        await router.route(begun.request_idx)
    assert router.dispatcher.figures("ep").rate < 500


async def test_requests_between_two_polls_count_as_waiting(router: Replica) -> None:
    """The scaling has to see them."""
    await router.route()
    assert router.dispatcher.figures("ep").waiting_count == 1
    await router.clock.advance(11)
    assert router.dispatcher.figures("ep").waiting_count == 0


async def test_a_retry_gets_another_worker(router: Replica) -> None:
    """Who comes back with a worker was let down by it."""
    await router.report(1)
    await router.report(2)
    first = await router.route()
    second = await router.route(first.request_idx)
    assert first.worker is not None and second.worker is not None
    assert first.worker.key != second.worker.key


async def test_one_dead_worker_makes_nobody_spin(router: Replica) -> None:
    """The only worker is dead: the caller that retries at once is answered a few times in 30 seconds, not thousands."""
    await router.report(1)
    router.unreachable.add("http://10.0.0.1:3000")
    answer = await router.route()
    given = 0
    for _ in range(6):
        given += answer.worker is not None
        task = router.tasks.spawn(router.route(answer.request_idx, wait_s=5), name="retry")
        await settle()
        if not task.done():
            await router.clock.advance(5.1)
            await router.report(1)
        answer = task.result()
    assert given == 1


async def test_many_broken_workers_are_tried_ever_more_slowly(router: Replica) -> None:
    """A caller that gets a bad body from each worker is slowed down after the first few."""
    for number in range(1, 9):
        await router.report(number)
    answer = await router.route(wait_s=5)
    for _ in range(6):
        task = router.tasks.spawn(router.route(answer.request_idx, wait_s=5), name="retry")
        await settle()
        while not task.done():
            await router.clock.advance(0.05)
        answer = task.result()
    assert router.clock.monotonic() > 0.1 + 0.2 + 0.4


async def test_who_comes_back_late_after_a_rejection_is_not_held_longer(router: Replica) -> None:
    """Its worker said that it was full; the caller slept over that, and gets it at once."""
    await router.report(1)
    first = await router.route()
    await router.direct.ended("ep/1", [told(first.request_idx, RequestOutcome.REJECTED)])
    await router.clock.advance(4)
    again = await router.route(first.request_idx)
    assert again.worker is not None and again.request_idx == first.request_idx


async def test_a_rejection_is_forgotten_soon(router: Replica) -> None:
    """A full worker is no bad worker."""
    await router.report(1)
    first = await router.route()
    await router.direct.ended("ep/1", [told(first.request_idx, RequestOutcome.REJECTED)])
    task = router.tasks.spawn(router.route(first.request_idx, wait_s=8), name="retry")
    await router.clock.advance(1)
    await router.report(1)
    assert not task.done()
    await router.clock.advance(2.5)
    assert task.result().worker is not None


async def test_an_error_at_a_worker_sends_the_retry_elsewhere(router: Replica) -> None:
    """The report may come before the caller does."""
    await router.report(1)
    first = await router.route()
    assert first.worker is not None
    await router.direct.ended("ep/1", [told(first.request_idx, RequestOutcome.ERROR)])
    assert router.dispatcher.held("ep/1") == ()
    assert (await router.route(first.request_idx)).worker is None
    await router.report(2)
    second = await router.route(first.request_idx)
    assert second.worker is not None and second.worker.key == "ep/2"


async def test_success_frees_the_worker_and_teaches(router: Replica) -> None:
    """Run time is what the worker measured."""
    await router.report(1)
    for _ in range(12):
        answer = await router.route()
        assert answer.worker is not None
        await router.direct.ended("ep/1", [told(answer.request_idx, RequestOutcome.SUCCESS, run_s=2.0)])
    assert router.ask("x").size > 180


@pytest.mark.parametrize(
    ("begun", "ended"), [(math.nan, 5.0), (1.0, math.nan), (1.0, math.inf), (5.0, 1.0), (0.0, 1e9), (-5.0, 1e9)]
)
async def test_moments_that_make_no_sense_teach_nothing(router: Replica, begun: float, ended: float) -> None:
    """Python's workers may write NaN; the request is over all the same."""
    await router.report(1)
    before = router.ask("x").size
    answer = await router.route()
    item = told(answer.request_idx, RequestOutcome.SUCCESS)
    odd = item.model_copy(update={"work_started_at": begun, "work_completed_at": ended})
    await router.direct.ended("ep/1", [odd])
    assert router.ask("x").size == before
    assert router.dispatcher.held("ep/1") == ()


async def test_a_word_of_another_worker_ends_nothing(router: Replica) -> None:
    """A superseded worker may report late."""
    await router.report(1)
    answer = await router.route()
    await router.report(2)
    await router.direct.ended("ep/2", [told(answer.request_idx, RequestOutcome.SUCCESS)])
    assert len(router.dispatcher.held("ep/1")) == 1


async def test_a_caller_whose_job_goes_on_is_sent_back_to_it(router: Replica) -> None:
    """Workers of ours keep a job for a moment, and take its caller back by the same number."""
    await router.report(1)
    first = await router.route()
    await router.report(1, cur_load=100.0, num_requests_working=1, working_request_idxs=[first.request_idx])
    await router.report(2)
    await router.clock.advance(5)
    again = await router.route(first.request_idx)
    assert again.worker is not None and again.worker.key == "ep/1"
    assert again.reqnum > first.reqnum


async def test_a_stock_worker_does_not_take_callers_back(router: Replica) -> None:
    """It knows no idempotency: the job is done elsewhere."""
    stock = {"slots": None, "engines": None}
    await router.report(1, **stock)
    first = await router.route()
    await router.report(1, cur_load=100.0, num_requests_working=1, working_request_idxs=[first.request_idx], **stock)
    await router.report(2, **stock)
    await router.clock.advance(5)
    again = await router.route(first.request_idx)
    assert again.worker is not None and again.worker.key == "ep/2"


async def test_idle_numbers_are_forgotten(router: Replica) -> None:
    """After the caller's own replay_timeout, else the router's."""
    await router.route(replay_timeout_s=20.0)
    await router.route()
    await router.clock.advance(62)
    assert len(router.direct) == 0


async def test_a_request_that_is_held_is_not_forgotten(router: Replica) -> None:
    """Its caller may have named less time than the router holds it for."""
    held = router.tasks.spawn(router.route(wait_s=8, replay_timeout_s=2.0), name="held")
    await router.clock.advance(5)
    assert (len(router.direct), held.done()) == (1, False)
    await router.report(1)
    answer = held.result()
    assert answer.worker is not None
    assert (await router.route(answer.request_idx)).worker is None


async def test_a_number_is_good_for_a_while_after_the_end(router: Replica) -> None:
    """Whoever missed the answer of a long job comes back with it, and gets what was made."""
    await router.report(1)
    answer = await router.route()
    for _ in range(16):
        await router.clock.advance(5)
        await router.report(1, cur_load=100.0, num_requests_working=1, working_request_idxs=[answer.request_idx])
    await router.direct.ended("ep/1", [told(answer.request_idx, RequestOutcome.SUCCESS, run_s=80.0)])
    await router.clock.advance(50)
    assert len(router.direct) == 1
    await router.clock.advance(62)
    assert len(router.direct) == 0


async def test_a_running_request_is_not_forgotten(router: Replica) -> None:
    """A job may run longer than its caller's replay_timeout."""
    await router.report(1)
    answer = await router.route(replay_timeout_s=20.0)
    for _ in range(10):
        await router.clock.advance(5)
        await router.report(1, cur_load=100.0, num_requests_working=1, working_request_idxs=[answer.request_idx])
    assert len(router.direct) == 1
    assert len(router.dispatcher.held("ep/1")) == 1


async def test_reqnums_are_dense_for_each_worker(router: Replica) -> None:
    """Old workers refuse a number that is more than 100 behind the highest."""
    await router.report(1)
    await router.report(2)
    numbers: dict[str, list[int]] = {}
    for _ in range(6):
        answer = await router.route()
        assert answer.worker is not None
        numbers.setdefault(answer.worker.key, []).append(answer.reqnum)
        await router.direct.ended(answer.worker.key, [told(answer.request_idx, RequestOutcome.SUCCESS)])
    assert all(given == list(range(given[0], given[0] + len(given))) for given in numbers.values())


async def test_reqnums_grow_over_a_restart(make: Make) -> None:
    """A worker that runs on refuses numbers of a router that starts again at 1."""
    first = await make()
    await first.report(1)
    before = await first.route()
    await first.clock.advance(1)
    second = await make(clock=first.clock)
    await second.report(1)
    assert (await second.route()).reqnum > before.reqnum


async def test_a_store_that_is_down_still_gives_numbers(make: Make) -> None:
    """Numbers that no other replica gives, and that JSON carries exactly."""
    router = await make(shared=True)
    await router.report(1)
    router.core.link.state.fail()  # type: ignore[attr-defined]
    await settle()
    one, two = await router.route(), await router.route()
    assert one.worker is not None
    assert one.request_idx != two.request_idx and 0 < one.request_idx < 2**53
