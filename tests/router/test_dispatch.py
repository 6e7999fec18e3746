"""The dispatcher: late binding, what it counts, whom it avoids, what happens when callers and workers go away."""

from typing import Any

import pytest

from lib.errors import Overloaded
from router.cases import Ending, Outcome
from router.changes import Change, ChangeKind
from router.endpoint_settings import TenantSettings
from router.endpoints import Bearer, Scope
from router.model import Condition, Exclusion, Priority, Reason
from router.refusals import Refusal
from tests.fakes.clock import settle
from tests.fakes.router_world import OWNER, Replica, one_endpoint
from tests.router.conftest import Make


async def test_an_idle_worker_is_given_at_once(router: Replica) -> None:
    """Nobody waits while a worker has nothing to do."""
    await router.report(1)
    assert await router.give("a") == "ep/1"


async def test_a_request_waits_for_a_busy_worker_and_gets_it_when_it_is_free(router: Replica) -> None:
    """Late binding: the second request is bound when the first one ends, not before."""
    await router.report(1)
    assert await router.give("a") == "ep/1"
    second = router.waiting("b")
    await settle()
    assert not second.task.done()
    await router.done("a")
    assert second.worker == "ep/1"


async def test_a_request_goes_to_whichever_worker_is_free_first(router: Replica) -> None:
    """A request is not tied to the worker that looked best when it came."""
    await router.report(1, max_perf=100)
    await router.report(2, max_perf=90)
    first, second = await router.give("a"), await router.give("b")
    assert {first, second} == {"ep/1", "ep/2"}
    third = router.waiting("c")
    await settle()
    await router.done("b")
    assert third.worker == second


async def test_a_burst_does_not_herd_onto_the_fastest_worker(router: Replica) -> None:
    """Own assignments count at once, although no report has told of them yet."""
    for number in range(1, 6):
        await router.report(number, max_perf=100 + number)
    given = [await router.give(f"r{number}") for number in range(5)]
    assert sorted(filter(None, given)) == [f"ep/{number}" for number in range(1, 6)]
    assert await router.give("one more") is None


async def test_a_report_from_before_an_assignment_does_not_undo_it(router: Replica) -> None:
    """A worker that says it is idle, because it has not been called yet, gets no second request."""
    await router.report(1)
    await router.give("7")
    await router.report(1, cur_load=0.0)
    assert await router.give("8") is None


async def test_who_is_not_served_in_time_is_told_so(router: Replica) -> None:
    """The hold ends when it was to end, and the place is given up."""
    waiter = router.waiting("a", wait_s=8.0)
    await router.clock.advance(7.9)
    assert not waiter.task.done()
    await router.clock.advance(0.2)
    assert waiter.task.done() and waiter.task.result() is None
    await router.report(1)
    assert await router.give("b") == "ep/1"


async def test_a_caller_who_leaves_gives_the_place_up(router: Replica) -> None:
    """A worker is not given to somebody who is gone."""
    waiter = router.waiting("a")
    await settle()
    waiter.task.cancel()
    await settle()
    await router.report(1)
    assert router.dispatcher.held("ep/1") == ()
    assert len(router.dispatcher.desk("ep").queue) == 0


async def test_a_caller_who_leaves_as_the_answer_comes_gives_the_worker_back(router: Replica) -> None:
    """An assignment that nobody takes is not counted."""
    waiter, other = router.waiting("a"), router.waiting("b")
    await settle()
    router.dispatcher.changes.listen(
        lambda change: waiter.task.cancel() if change.kind is ChangeKind.ASSIGNED and change.request_id == "a" else None
    )
    await router.report(1)
    assert waiter.task.cancelled()
    assert other.worker == "ep/1"


async def test_asking_again_gives_the_same_answer(router: Replica) -> None:
    """A request has one worker, however often it asks."""
    await router.report(1)
    await router.report(2)
    assert await router.give("a") == await router.give("a")
    assert len(router.dispatcher.held("ep/1")) + len(router.dispatcher.held("ep/2")) == 1


async def test_the_later_of_two_callers_with_one_name_waits(router: Replica) -> None:
    """The one before is told to come again: a request stands in line once."""
    first = router.waiting("a")
    await settle()
    second = router.waiting("a")
    await settle()
    assert first.task.done() and first.task.result() is None
    await router.report(1)
    assert second.worker == "ep/1"


async def test_a_refused_request_goes_elsewhere_and_comes_back_only_later(router: Replica) -> None:
    """The memory of a refusal ends; until then there is no worker for the request rather than the same one."""
    await router.report(1)
    assert await router.give("a") == "ep/1"
    await router.dispatcher.refused("a", "ep/1", Refusal.FAILED)
    assert await router.give("a") is None
    waiter = router.waiting("a", wait_s=25.0)
    assert await router.give("b") == "ep/1", "others may have it"
    await router.done("b")
    assert not waiter.task.done()
    await router.clock.advance(20.1)
    assert waiter.worker == "ep/1"


async def test_a_full_worker_is_left_alone_until_it_reports(router: Replica) -> None:
    """It knows better than we do how much it has."""
    await router.report(1)
    await router.give("a")
    await router.dispatcher.refused("a", "ep/1", Refusal.FULL)
    assert await router.give("b") is None
    await router.report(1)
    assert await router.give("b") == "ep/1"


async def test_being_full_is_no_failure(router: Replica) -> None:
    """What a worker is shown to be worth does not suffer from its being busy."""
    await router.report(1)
    await router.give("a")
    await router.dispatcher.refused("a", "ep/1", Refusal.FULL)
    await router.report(1)
    await router.give("b")
    await router.dispatcher.refused("b", "ep/1", Refusal.FAILED)
    worker = router.dispatcher.worker("ep/1")
    assert worker is not None and worker.failed == 1


async def test_a_full_worker_that_stays_silent_is_tried_again(router: Replica) -> None:
    """What we guessed does not last."""
    await router.report(1)
    await router.give("a")
    await router.dispatcher.refused("a", "ep/1", Refusal.FULL)
    waiter = router.waiting("b")
    await router.clock.advance(3.1)
    assert waiter.worker == "ep/1"


async def test_a_dead_worker_is_found_by_one_probe_and_gets_nothing(router: Replica) -> None:
    """One caller's connection error spares all others the same."""
    await router.report(1, max_perf=200)
    await router.report(2)
    router.unreachable.add("http://10.0.0.1:3000")
    assert await router.give("a") == "ep/1"
    await router.dispatcher.refused("a", "ep/1", Refusal.UNREACHABLE)
    await settle()
    assert await router.give("a") == "ep/2"
    assert await router.give("b") is None
    worker = router.dispatcher.worker("ep/1")
    assert worker is not None and worker.condition is Condition.ERROR and worker.trouble


async def test_a_worker_that_can_be_reached_again_is_used_again(router: Replica) -> None:
    """Doubts end when it answers, without anybody's help."""
    await router.report(1)
    url = "http://10.0.0.1:3000"
    router.unreachable.add(url)
    await router.give("a")
    await router.dispatcher.refused("a", "ep/1", Refusal.UNREACHABLE)
    waiter = router.waiting("b", wait_s=60)
    await router.clock.advance(3)
    await router.report(1)
    assert not waiter.task.done(), "a report says nothing about the way to it"
    router.unreachable.remove(url)
    await router.clock.advance(10)
    assert waiter.worker == "ep/1"


async def test_a_silent_worker_gets_no_work_until_it_reports(router: Replica) -> None:
    """Stale means: it may be gone."""
    await router.report(1)
    await router.clock.advance(26)
    assert await router.give("a") is None
    waiter = router.waiting("b")
    await router.report(1)
    assert waiter.worker == "ep/1"


async def test_a_worker_that_stays_silent_is_forgotten(router: Replica) -> None:
    """With all that it held."""
    await router.report(1)
    await router.give("a")
    await router.clock.advance(302)
    assert router.dispatcher.worker("ep/1") is None
    assert router.dispatcher.assignment("a") is None


async def test_the_mean_load_of_a_worker_follows_its_reports(router: Replica) -> None:
    """A minute's; one busy moment is not seen in it."""
    await router.report(1)
    for load, seconds in ((400.0, 0.1), *((100.0, 20.0),) * 20, (0.0, 0.1)):
        await router.report(1, cur_load=load)
        await router.clock.advance(seconds)
    await router.report(1)
    worker = router.dispatcher.worker("ep/1")
    assert worker is not None and worker.load_mean == pytest.approx(100.0, rel=0.01)


@pytest.mark.parametrize("by_s", [-86_400.0, 86_400.0])
async def test_the_clock_may_be_set(router: Replica, by_s: float) -> None:
    """By a day, back or forward: who reports is there, who is silent is not."""
    await router.report(1)
    router.clock.set(by_s)
    for _ in range(4):
        await router.clock.advance(10)
        await router.report(1)
    assert await router.give("a") == "ep/1"
    await router.clock.advance(26)
    worker = router.dispatcher.worker("ep/1")
    assert worker is not None and worker.condition is Condition.STALE


@pytest.mark.parametrize(
    "report",
    [{"error_msg": "it broke"}, {"loadtime": 0.0}, {"draining": True}, {"url": "http://user:pw@x"}, {"max_perf": 0.0}],
)
async def test_workers_that_cannot_work_get_nothing(router: Replica, report: dict[str, Any]) -> None:
    """Error, start, drain, no usable URL, no speed."""
    await router.report(1, **report)
    assert await router.give("a") is None


async def test_an_assignment_that_nobody_mentions_ends_by_itself(router: Replica) -> None:
    """A client that died between /route/ and the worker does not block a place for ever."""
    await router.report(1)
    await router.dispatcher.assign(router.ask("5"), wait_s=0, ttl_s=20)
    waiter = router.waiting("6", wait_s=60)
    for _ in range(4):
        await router.clock.advance(5)
        await router.report(1)
    assert waiter.worker == "ep/1"


async def test_an_assignment_that_reports_mention_counts_on(router: Replica) -> None:
    """A long job keeps its place as long as its worker lists it, and ends when it is listed no more."""
    await router.report(1)
    await router.dispatcher.assign(router.ask("5"), wait_s=0, ttl_s=20)
    busy = {"cur_load": 100.0, "num_requests_working": 1, "working_request_idxs": [5]}
    for _ in range(10):
        await router.clock.advance(5)
        await router.report(1, **busy)
    assert len(router.dispatcher.held("ep/1")) == 1
    await router.report(1, cur_load=0.0, num_requests_working=0, working_request_idxs=[])
    assert router.dispatcher.held("ep/1") == ()


async def test_kept_assignments_of_the_relay_count_on(router: Replica) -> None:
    """Relayed requests have no number that a worker could list; their relay says that they go on."""
    await router.report(1)
    await router.dispatcher.assign(router.ask("job-x"), wait_s=0, ttl_s=20)
    for _ in range(10):
        await router.clock.advance(5)
        await router.report(1)
        router.dispatcher.keep("job-x")
    assert len(router.dispatcher.held("ep/1")) == 1


async def test_work_of_others_counts_but_not_twice(router: Replica) -> None:
    """A report's load is less by the share of what we gave."""
    await router.report(1, slots=3)
    await router.give("5")
    await router.report(1, cur_load=300.0, num_requests_working=3, working_request_idxs=[5, 90, 91])
    worker = router.dispatcher.worker("ep/1")
    assert worker is not None and worker.view.foreign_load == pytest.approx(200.0)


async def test_high_priority_goes_first_and_low_is_not_starved(make: Make) -> None:
    """Two classes; who waited a minute counts as high."""
    router = await make()
    await router.report(1)
    await router.give("running")
    low = router.waiting("low", wait_s=500, priority=Priority.LOW)
    await router.clock.advance(1)
    high = router.waiting("high", wait_s=500)
    await settle()
    await router.done("running")
    assert high.worker == "ep/1" and not low.task.done()
    for number in range(8):
        await router.clock.advance(10)
        await router.report(1)
        router.waiting(f"more {number}", wait_s=500)
        router.dispatcher.keep("high")
    await router.done("high")
    assert low.worker == "ep/1"


async def test_tenants_have_caps(make: Make) -> None:
    """One over its cap of waiting requests is told when to come again; another one is not concerned."""
    tenants = (
        TenantSettings(name="a", api_keys=("a" * 16,), max_waiting=1),
        TenantSettings(name="b", api_keys=("b" * 16,)),
    )
    router = await make(endpoints=one_endpoint(tenants=tenants))
    router.waiting("1", tenant="a")
    await settle()
    with pytest.raises(Overloaded) as refused:
        await router.give("2", tenant="a")
    assert refused.value.retry_after_s is not None and refused.value.retry_after_s >= 1
    assert await router.give("3", tenant="b") is None


async def test_an_endpoint_lets_only_so_many_wait(make: Make) -> None:
    """Memory is bounded."""
    router = await make(endpoints=one_endpoint(max_waiting=1))
    router.waiting("1")
    await settle()
    with pytest.raises(Overloaded):
        await router.give("2")


async def test_finished_jobs_teach_sizes_and_speeds(router: Replica) -> None:
    """A kind of job that takes three times as long as announced is expected to, from then on."""
    await router.report(1)
    for number in range(12):
        assert await router.give(str(number)) == "ep/1"
        await router.done(str(number), run_s=3.0)
    assert router.ask("next").size == pytest.approx(300.0, rel=0.1)


async def test_a_late_word_still_teaches(router: Replica) -> None:
    """The report without the request may come before the word of its end."""
    await router.report(1)
    await router.give("5")
    await router.report(1, cur_load=100.0, num_requests_working=1, working_request_idxs=[5])
    await router.report(1, cur_load=0.0, num_requests_working=0, working_request_idxs=[])
    assert router.dispatcher.assignment("5") is None
    await router.dispatcher.settle("5", Outcome(ending=Ending.SUCCESS, worker="ep/1", run_s=4.0))
    assert router.ask("next").size == pytest.approx(400.0, rel=0.05)


async def test_decisions_can_be_explained(router: Replica) -> None:
    """Before and after: why it waits, why it went where it went."""
    await router.report(1)
    await router.give("a")
    waiter = router.waiting("b")
    await settle()
    before, after = router.dispatcher.explain("b"), router.dispatcher.explain("a")
    assert before is not None and before.worker is None and before.text
    assert after is not None and after.worker == "ep/1" and after.candidates
    assert router.dispatcher.explain("nobody") is None
    assert not waiter.task.done()
    assert [one.request_id for one in router.dispatcher.decisions] == ["a"]


async def test_who_has_to_come_again_is_explained_meanwhile(make: Make) -> None:
    """Between two polls nobody waits at the router; the operator still sees why there was no worker."""
    router = await make()
    await router.report(1)
    await router.give("a")
    waiter = router.waiting("b", wait_s=0.5)
    await settle()
    await router.clock.advance(0.6)
    assert waiter.worker is None
    between = router.dispatcher.explain("b")
    assert between is not None and between.reason is Reason.ALL_BUSY and between.candidates
    await router.done("a")
    between = router.dispatcher.explain("b")
    assert between is not None and between.reason is Reason.BETWEEN_POLLS and "come again" in between.text
    assert await router.give("b") == "ep/1"
    given = router.dispatcher.explain("b")
    assert given is not None and given.worker == "ep/1"


async def test_limits_are_named_as_the_reason(make: Make) -> None:
    """Of a tenant that has as much running as it may, and of a request that was not even let in."""
    tenant = TenantSettings(name="t", api_keys=("tenant-key-0123456789",), max_running=1)
    router = await make(endpoints=one_endpoint(tenants=(tenant,), max_waiting=1))
    for number in (1, 2):
        await router.report(number)
    await router.give("a", tenant="t")
    router.waiting("b", tenant="t")
    await settle()
    capped = router.dispatcher.explain("b")
    assert capped is not None and capped.reason is Reason.TENANT_LIMIT and capped.candidates
    with pytest.raises(Overloaded):
        await router.give("c")
    refused = router.dispatcher.explain("c")
    assert refused is not None and refused.reason is Reason.TOO_MANY_WAITING and "come again" in refused.text


async def test_whose_request_it_is_is_remembered(router: Replica) -> None:
    """A tenant may look at its own requests after they have ended, and at nobody else's; an endpoint's key at all."""
    await router.report(1)
    await router.give("a", tenant="t")
    await router.done("a")
    mine, theirs = (Bearer(scope=Scope.TENANT, endpoint="ep", tenant=name) for name in ("t", "u"))
    other = Bearer(scope=Scope.ENDPOINT, endpoint="other")
    told = [router.dispatcher.may_know("a", one) for one in (mine, theirs, OWNER, other)]
    assert told == [True, False, True, False]


async def test_a_worker_that_refused_it_is_in_the_explanation(router: Replica) -> None:
    """Also afterwards: why not the best one."""
    await router.report(1, max_perf=1000.0)
    await router.report(2, max_perf=10.0)
    assert await router.give("a") == "ep/1"
    await router.dispatcher.refused("a", "ep/1", Refusal.FAILED)
    assert await router.give("a") == "ep/2"
    explained = router.dispatcher.explain("a")
    assert explained is not None and explained.excluded == {Exclusion.REFUSED: 1}


async def test_waits_are_estimated(router: Replica) -> None:
    """Two seconds of work before an ask mean that it makes sense to come again in about two seconds."""
    await router.report(1)
    await router.give("a")
    router.waiting("b")
    await settle()
    assert router.dispatcher.retry_after_s(router.ask("x")) == pytest.approx(2.0, rel=0.2)


async def test_figures_sum_an_endpoint_up(router: Replica) -> None:
    """What scaling and metrics start from."""
    await router.report(1)
    await router.report(2, error_msg="broken")
    await router.give("a")
    router.waiting("b")
    await settle()
    figures = router.dispatcher.figures("ep")
    assert (figures.capacity, figures.waiting_count, figures.given_count) == (100.0, 1, 1)
    assert figures.workers[Condition.READY] == 1 and figures.workers[Condition.ERROR] == 1


async def test_slow_workers_are_named(router: Replica) -> None:
    """A throttled card stands out among its kind."""
    for number, perf in ((1, 100), (2, 104), (3, 98), (4, 60)):
        await router.report(number, max_perf=perf, gpu_name="RTX 4090")
    await router.report(5, max_perf=20, gpu_name="T4")
    assert set(router.dispatcher.figures("ep").slow) == {"ep/4"}


async def test_changes_are_told(router: Replica) -> None:
    """In order: the worker, the assignment, its end."""
    heard: list[Change] = []
    stop = router.dispatcher.changes.listen(heard.append)
    await router.report(1)
    await router.give("a")
    await router.done("a")
    stop()
    await router.report(1)
    assert [change.kind for change in heard] == [ChangeKind.WORKER, ChangeKind.ASSIGNED, ChangeKind.SETTLED]


async def test_stopped_workers_get_nothing_until_they_report(router: Replica) -> None:
    """A provider that stops one says so first."""
    await router.report(1)
    router.dispatcher.stopped("ep/1")
    assert await router.give("a") is None
    await router.report(1)
    assert await router.give("a") == "ep/1"


async def test_resting_workers_are_kept_free(router: Replica) -> None:
    """So that the scaling can release them."""
    await router.report(1, max_perf=50)
    await router.report(2, max_perf=100)
    router.dispatcher.rest("ep", frozenset({"ep/2"}))
    assert await router.give("a") == "ep/1"


async def test_a_changed_endpoint_keeps_who_waits_and_what_was_given(router: Replica) -> None:
    """New settings take effect without anybody losing a place."""
    await router.report(1)
    await router.give("a")
    waiter = router.waiting("b")
    await settle()
    endpoints = router.dispatcher.endpoints
    endpoints.change(endpoints.find("ep"), {"policy": "least-work", "max_queue_time": 0.5})
    await settle()
    assert [one.request_id for one in router.dispatcher.held("ep/1")] == ["a"]
    await router.done("a")
    assert waiter.worker == "ep/1"


async def test_a_second_place_is_given_shortly_before_the_first_is_done(make: Make) -> None:
    """A worker with two places gets its next request ``lead_time`` before it is expected to be free."""
    router = await make(endpoints=one_endpoint(lead_time=0.4))
    await router.report(1, slots=2, engines=1)
    await router.give("a")
    waiter = router.waiting("b")
    await router.clock.advance(0.5)
    assert not waiter.task.done()
    await router.clock.advance(0.2)
    assert waiter.worker == "ep/1"


async def test_many_can_wait_and_leave(router: Replica) -> None:
    """Nothing of theirs is left."""
    waiters = [router.waiting(str(number), wait_s=5 + number / 100) for number in range(200)]
    await router.clock.advance(8)
    assert all(waiter.task.done() and waiter.task.result() is None for waiter in waiters)
    assert len(router.dispatcher.desk("ep").queue) == 0
    await router.report(1)
    assert await router.give("late") == "ep/1"
