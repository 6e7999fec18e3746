"""Shares, classes, caps and order of what waits."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.fairness import QUANTUM, FairQueue, Limits, Refused
from router.model import Ask, Priority
from tests.router.choose.fleet import ask


def served(queue: FairQueue, count: int, now: float = 0.0) -> list[Ask]:
    """Take so many, one after the other, as a dispatcher does."""
    taken = []
    for _ in range(count):
        first = next(queue.order(now), None)
        if first is None:
            break
        assert queue.take(first.request_id) is first
        queue.settled(first.request_id)
        taken.append(first)
    return taken


def filled(sizes: dict[str, list[float]], **options: Any) -> FairQueue:
    """A queue with these jobs of these tenants, all there from the begin."""
    queue = FairQueue(patience=0.0, **options)
    for tenant, jobs in sizes.items():
        for number, size in enumerate(jobs):
            assert queue.push(ask(f"{tenant}-{number}", size, tenant=tenant)) is None
    return queue


@given(
    sizes=st.dictionaries(
        st.sampled_from(["a", "b", "c", "d"]),
        st.lists(st.floats(1, 400), min_size=30, max_size=30),
        min_size=2,
    ),
    weights=st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=4, max_size=4),
    count=st.integers(1, 25),
)
@settings(deadline=None)
def test_shares_of_work_differ_by_a_round_and_a_job_at_most(
    sizes: dict[str, list[float]], weights: list[float], count: int
) -> None:
    """As long as all wait, work served over weight is the same for all, within one quantum and the largest job."""
    limits = {name: Limits(weight=weight) for name, weight in zip("abcd", weights, strict=True)}
    queue = filled(sizes, limits=limits)
    work = dict.fromkeys(sizes, 0.0)
    for one in served(queue, count):
        work[one.tenant] += one.size / limits[one.tenant].weight
    largest = max(size / limits[name].weight for name, jobs in sizes.items() for size in jobs)
    assert max(work.values()) - min(work.values()) <= QUANTUM + largest + 1e-6


@given(st.data())
@settings(deadline=None)
def test_the_order_foretold_is_the_order_served(data: st.DataObject) -> None:
    """``order`` is what ``take`` would do, step by step."""
    sizes = data.draw(
        st.dictionaries(
            st.sampled_from(["a", "b", "c"]), st.lists(st.floats(1, 300), min_size=1, max_size=8), min_size=1
        )
    )
    queue = filled(sizes)
    foretold = [one.request_id for one in queue.order(0.0)]
    assert [one.request_id for one in served(queue, 100)] == foretold
    assert sorted(foretold) == sorted(f"{name}-{number}" for name in sizes for number in range(len(sizes[name])))
    assert len(queue) == 0 and queue.work == 0.0


def test_a_tenant_with_many_requests_does_not_delay_another() -> None:
    """A thousand wait, one comes: it is among the next two."""
    queue = filled({"greedy": [100.0] * 1000})
    served(queue, 10)
    queue.push(ask("modest", tenant="modest"))
    assert "modest" in [one.request_id for one in served(queue, 2)]


def test_high_goes_before_low() -> None:
    """Within a tenant and between tenants."""
    queue = FairQueue()
    queue.push(ask("low", priority=Priority.LOW, tenant="a"))
    queue.push(ask("high", tenant="b", arrived_at=5.0))
    assert [one.request_id for one in queue.order(6.0)] == ["high", "low"]


def test_low_never_starves() -> None:
    """Though high ones never end, a low one is served soon after it has aged."""
    queue = FairQueue(ageing_s=60.0)
    queue.push(ask("low", priority=Priority.LOW))
    for number in range(200):
        queue.push(ask(f"high-{number}", arrived_at=float(number)))
        queue.push(ask(f"more-{number}", arrived_at=float(number)))
        (one,) = served(queue, 1, now=float(number))
        if one.request_id == "low":
            break
    assert one.request_id == "low" and 60 <= number <= 62


def test_short_ones_overtake_but_not_for_ever() -> None:
    """A long request waits for shorter ones no longer than twice its own duration, however many come."""
    queue = FairQueue(patience=2.0)
    queue.push(ask("long", 1000.0), pace=0.01)
    for number in range(100):
        queue.push(ask(f"short-{number}", arrived_at=float(number)), pace=0.01)
        (one,) = served(queue, 1)
        if one.request_id == "long":
            break
    assert one.request_id == "long" and 17 <= number <= 19


def test_caps_hold() -> None:
    """A tenant at its cap waits, another one goes on; more than may wait is refused."""
    limits = {"capped": Limits(held=1, waiting=2), "heavy": Limits(held_work=150.0)}
    queue = FairQueue(limits=limits)
    assert [queue.push(ask(f"c{number}", tenant="capped")) for number in range(3)] == [
        None,
        None,
        Refused.TOO_MANY_WAITING,
    ]
    for number in range(3):
        queue.push(ask(f"h{number}", tenant="heavy"))
    assert queue.take("c0") and queue.take("h0") and queue.take("h1")
    assert list(queue.order(0.0)) == []
    queue.settled("c0")
    assert [one.request_id for one in queue.order(0.0)] == ["c1"]
    queue.settled("h1")
    assert {one.request_id for one in queue.order(0.0)} == {"c1", "h2"}


def test_what_comes_back_keeps_its_place() -> None:
    """A request that its worker refused goes before those that came after it, even at the cap of what may wait."""
    queue = FairQueue(otherwise=Limits(waiting=2))
    for number in range(2):
        queue.push(ask(f"r{number}", arrived_at=float(number)))
    first = queue.take("r0")
    assert first is not None
    queue.push(ask("r2", arrived_at=2.0))
    assert queue.push(ask("r0", arrived_at=0.0, refused_by=frozenset({"w"}))) is None
    assert [one.request_id for one in queue.order(3.0)] == ["r0", "r1", "r2"]


def test_dropping_and_counting() -> None:
    """What is dropped is gone, and its work with it."""
    queue = filled({"a": [100.0, 50.0, 70.0]})
    assert queue.work == 220.0
    assert queue.drop("a-0") is not None and queue.drop("a-0") is None
    assert queue.work == 120.0 and "a-0" not in queue
    assert queue.take("a-0") is None


@pytest.mark.parametrize("seed", range(3))
def test_any_sequence_of_events_keeps_the_books(seed: int) -> None:
    """Pushes, takes, drops and ends in any order: nothing is lost or counted twice, and nothing stays behind."""
    chance, queue = random.Random(seed), FairQueue(ageing_s=5.0)
    waiting: dict[str, float] = {}
    held: list[str] = []
    for number in range(2000):
        match chance.randrange(4):
            case 0:
                one = ask(
                    f"r{number}",
                    chance.uniform(1, 300),
                    tenant=f"t{chance.randrange(5)}",
                    priority=chance.choice(list(Priority)),
                    arrived_at=number / 10,
                )
                queue.push(one)
                waiting[one.request_id] = one.size
            case 1 if waiting:
                name = next(queue.order(number / 10)).request_id if chance.random() < 0.5 else chance.choice([*waiting])
                assert queue.take(name) is not None
                del waiting[name]
                held.append(name)
            case 2 if waiting:
                name = chance.choice([*waiting])
                assert queue.drop(name) is not None
                del waiting[name]
            case 3 if held:
                queue.settled(held.pop(chance.randrange(len(held))))
        assert len(queue) == len(waiting)
    assert queue.work == pytest.approx(sum(waiting.values()))
    assert {one.request_id for one in queue.order(1e6)} == set(waiting)
