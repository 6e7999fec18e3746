"""Several routers on one store: they see one fleet, never fill a worker together, and go on when the store is gone."""

from typing import Any

import pytest

from router.changes import ChangeKind
from router.ports import News, NewsKind
from tests.fakes.clock import FakeClock, settle
from tests.fakes.router_world import Replica, one_endpoint
from tests.fakes.shared_state import FakeStore, counts
from tests.router.conftest import Make


async def pair(make: Make, **changes: Any) -> tuple[Replica, Replica, FakeStore]:
    clock, store = FakeClock(), FakeStore()
    first = await make(clock=clock, store=store, name="r1", shared=True, endpoints=one_endpoint(**changes))
    second = await make(clock=clock, store=store, name="r2", shared=True, endpoints=one_endpoint(**changes))
    return first, second, store


async def test_a_worker_that_reports_to_one_serves_all(make: Make) -> None:
    """Reports are news."""
    first, second, _ = await pair(make)
    await first.report(1)
    waiter = second.waiting("a")
    await settle()
    assert waiter.worker == "ep/1"


async def test_replicas_do_not_fill_a_worker_together(make: Make) -> None:
    """Both want the only place at the same moment: the store grants it once, the other request waits on."""
    first, second, store = await pair(make)
    await first.report(1)
    store.gate.clear()
    one, two = first.waiting("a"), second.waiting("b")
    await settle()
    store.gate.set()
    await settle()
    assert sorted([one.worker or "", two.worker or ""]) == ["", "ep/1"]
    assert counts(store) == {"ep/1": 1}
    winner, loser = (one, two) if one.worker else (two, one)
    await (first if winner is one else second).done("a" if winner is one else "b")
    assert loser.worker == "ep/1"


async def test_what_should_be_over_makes_room_in_the_store_too(make: Make) -> None:
    """A worker tells of ends late: the replica that counts one as over is granted another by the store."""
    first, second, store = await pair(make, lead_time=0.3)
    await first.report(1, slots=2, engines=1)
    for name in ("a", "b", "c"):
        waiter = second.waiting(name)
        await settle()
        await first.clock.advance(0.8)
        await settle()
        assert waiter.worker == "ep/1"
    assert counts(store) == {"ep/1": 3}


async def test_work_that_comes_to_one_replica_is_load_at_all(make: Make) -> None:
    """They share the workers, so they have to see the same load; totals stay apart, as scaling adds them up."""
    first, second, _ = await pair(make)
    await first.report(1, slots=8, engines=8)
    for name in ("a", "b", "c"):
        first.waiting(name)
        await first.clock.advance(1.0)
        await settle()
    loads = [one.dispatcher.learning.load for one in (first, second)]
    now = first.clock.monotonic()
    assert loads[0].rate("ep", now) == pytest.approx(loads[1].rate("ep", now)) and loads[0].rate("ep", now) > 0
    assert [load.total("ep")[0] for load in loads] == [3, 0]


async def test_who_gave_a_request_learns_although_its_worker_told_another(make: Make) -> None:
    """Each worker reports to one address only; sizes would never be learned by the other replicas."""
    first, second, _ = await pair(make)
    await first.report(1)
    for number in range(12):
        waiter = second.waiting(str(number))
        await settle()
        assert waiter.worker == "ep/1"
        await first.done(str(number), run_s=3.0)
        await settle()
    assert second.ask("next").size == pytest.approx(300.0, rel=0.1)


async def test_an_assignment_of_one_counts_at_the_other(make: Make) -> None:
    """So that replicas do not herd."""
    first, second, _ = await pair(make)
    await first.report(1)
    given = first.waiting("a")
    await settle()
    assert given.worker == "ep/1"
    assert [one.request_id for one in second.dispatcher.held("ep/1")] == ["a"]
    await first.done("a")
    assert second.dispatcher.held("ep/1") == ()


async def test_the_end_may_be_told_to_another_replica(make: Make) -> None:
    """Workers report to whichever router they reach."""
    first, second, store = await pair(make)
    await first.report(1)
    first.waiting("a")
    await settle()
    waiter = first.waiting("b")
    await settle()
    await second.done("a")
    assert waiter.worker == "ep/1"
    assert counts(store) == {"ep/1": 1}


async def test_a_caller_who_leaves_while_the_store_decides_keeps_nothing(make: Make) -> None:
    """The reservation is given back."""
    first, _, store = await pair(make)
    await first.report(1)
    store.gate.clear()
    waiter = first.waiting("a")
    await settle()
    waiter.task.cancel()
    await settle()
    store.gate.set()
    await settle()
    assert counts(store) == {}
    assert first.dispatcher.held("ep/1") == ()


async def test_what_a_dead_replica_gave_does_not_count_for_ever(make: Make) -> None:
    """Its reservations end in the store, since nobody renews them; the others see that there."""
    first, second, store = await pair(make)
    await first.report(1)
    first.waiting("7")
    await settle()
    await first.tasks.cancel()
    assert len(second.dispatcher.held("ep/1")) == 1
    await second.clock.advance(21)
    await second.report(1)
    await second.core.newsroom.tidy()
    assert len(second.dispatcher.held("ep/1")) == 1, "the store still has it"
    store.held.clear()
    await second.core.newsroom.tidy()
    assert second.dispatcher.held("ep/1") == ()


async def test_a_new_replica_knows_what_the_store_knows(make: Make) -> None:
    """Workers and assignments are taken over at its start."""
    first, _, store = await pair(make)
    await first.report(1)
    await first.report(2)
    first.waiting("a")
    await settle()
    third = await make(clock=first.clock, store=store, name="r3", shared=True)
    assert {worker.key for worker in third.dispatcher.workers()} == {"ep/1", "ep/2"}
    assert sum(len(third.dispatcher.held(key)) for key in ("ep/1", "ep/2")) == 1


async def test_a_store_that_is_down_does_not_stop_routing(make: Make) -> None:
    """From the last known registry, and saying so; afterwards the store learns what was given meanwhile."""
    first, second, store = await pair(make)
    await first.report(1)
    await first.report(2)
    store.fail()
    await settle()
    assert first.dispatcher.degraded
    assert b"pyrouter_store_up 0.0" in first.core.metrics.render()[0]
    assert (await first.give("a")) is not None
    store.down = False
    await first.clock.advance(3)
    assert first.dispatcher.degraded is None
    assert sum(counts(store).values()) == 1
    assert second.dispatcher.degraded is None
    assert sum(len(second.dispatcher.held(key)) for key in ("ep/1", "ep/2")) == 1


async def test_a_store_that_is_down_is_not_asked_for_each_request(make: Make) -> None:
    """No request waits for a store that is known to be away."""
    first, _, store = await pair(make)
    for number in range(1, 9):
        await first.report(number)
    store.fail()
    await settle()
    before = sum(store.calls.values())
    for number in range(8):
        assert await first.give(str(number)) is not None
    assert sum(store.calls.values()) - before <= 2


async def test_a_dropped_worker_is_dropped_everywhere(make: Make) -> None:
    """A provider that destroyed one tells its own router only."""
    first, second, store = await pair(make)
    await first.report(1)
    await settle()
    heard: list[ChangeKind] = []
    second.dispatcher.changes.listen(lambda change: heard.append(change.kind))
    await first.dispatcher.drop("ep/1")
    await settle()
    assert second.dispatcher.worker("ep/1") is None
    assert ChangeKind.GONE in heard
    assert store.known_workers == {}


async def test_news_of_jobs_are_passed_on(make: Make) -> None:
    """The relay hears them, its own as well."""
    _, second, store = await pair(make)
    heard: list[str] = []
    second.core.newsroom.listen(lambda news: heard.append(str(news.body["job_id"])))
    await store.tell(News(kind=NewsKind.JOB, origin="r1", body={"job_id": "x"}))
    await settle()
    assert heard == ["x"]


async def test_news_that_cannot_be_read_are_survived(make: Make) -> None:
    """Another version of the router may be among the replicas during an update."""
    first, second, store = await pair(make)
    await store.tell(News(kind=NewsKind.WORKER, origin="r9", body={"strange": True}))
    await first.report(1)
    assert second.dispatcher.worker("ep/1") is not None


async def test_a_retry_may_come_to_another_replica(make: Make) -> None:
    """The memory of a request_idx is shared: its worker, and who refused it."""
    first, second, _ = await pair(make)
    await first.report(1)
    await first.report(2)
    begun = await first.route(wait_s=1.0)
    assert begun.worker is not None
    again = await second.route(begun.request_idx, wait_s=1.0)
    assert again.request_idx == begun.request_idx
    assert again.worker is not None and again.worker.key != begun.worker.key
    third = first.tasks.spawn(first.route(begun.request_idx, wait_s=1.0), name="third")
    await first.clock.advance(2)
    assert third.result().worker is None


async def test_a_refusal_is_forgotten_also_when_the_clock_was_set_back(make: Make) -> None:
    """Moments in the store are the wall clock's; none of them keeps a request from the only worker for a day."""
    first, second, _ = await pair(make)
    await first.report(1)
    begun = await first.route(wait_s=1.0)
    assert (await second.route(begun.request_idx)).worker is None
    first.clock.set(-86_400.0)
    for _ in range(4):
        await first.clock.advance(10)
        await first.report(1)
        back = await second.route(begun.request_idx)
    assert back.worker is not None and back.worker.key == "ep/1"


async def test_a_long_job_stays_reserved_for_all(make: Make) -> None:
    """Its reservation is renewed in the store as long as its worker is at it."""
    first, _, store = await pair(make)
    await first.report(1)
    waiter = first.waiting("7")
    await settle()
    assert waiter.worker == "ep/1"
    reserved = store.calls["reserve"]
    for _ in range(12):
        await first.clock.advance(10)
        await first.report(1, cur_load=100.0, num_requests_working=1, working_request_idxs=[7])
    assert store.calls["reserve"] - reserved == 6
    assert counts(store) == {"ep/1": 1}
