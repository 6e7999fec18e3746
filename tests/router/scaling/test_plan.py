"""What is done about workers."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from router.model import Condition
from router.scaling.desire import Desired, Why
from router.scaling.plan import Member, Source, make_plan
from router.scaling.ports import InstanceState


def want(workers: int, *, total: int = 0, capacity: float | None = None, most: int = 16, least: int = 0) -> Desired:
    return Desired(
        capacity=workers * 100.0 if capacity is None else capacity,
        workers=workers,
        total=max(total, workers),
        least=least,
        most=most,
        queue_s=0.0,
        why=Why.LOAD,
    )


def member(number: int, **changes: Any) -> Member:
    """A ready worker of ours that has nothing to do, and has rested."""
    usual: dict[str, Any] = {
        "id": number,
        "key": f"ep/{number}",
        "group": "g",
        "perf": 100.0,
        "state": InstanceState.RUNNING,
        "condition": Condition.READY,
        "rested": True,
    }
    return Member(**usual | changes)


def source(name: str = "g", **changes: Any) -> Source:
    return Source(**{"name": name, "perf": 100.0, "room": 10, **changes})


def test_what_is_missing_is_started() -> None:
    """Those on their way count already."""
    coming = member(1, condition=None)
    plan = make_plan(want(3), [coming], [source()])
    assert plan.start == {"g": 2}
    assert make_plan(want(3), [coming], [source(coming=2)]).start == {}


def test_one_on_its_way_is_not_let_go_while_its_wish_is_held() -> None:
    """The first one that is ready turns out to be fast; the other is ended when that is so for long. None is added."""
    fast, coming = member(1, perf=1000.0), member(2, condition=None)
    wish = want(3, capacity=300.0)
    assert make_plan(wish, [fast, coming], [source()]).remove == (2,)
    held = make_plan(replace(wish, why=Why.HELD), [fast, coming], [source()])
    assert (held.remove, held.rest, held.start) == ((), frozenset(), {})


def test_the_best_group_is_started_first() -> None:
    """Speed per dollar, as far as there is room; then the next one."""
    cheap, dear = source("cheap", price=0.1, room=1), source("dear", price=0.9)
    assert make_plan(want(3), [], [dear, cheap]).start == {"cheap": 1, "dear": 2}


def test_stopped_ones_come_before_new_ones() -> None:
    """They start in seconds."""
    stopped = member(1, state=InstanceState.STOPPED, condition=None)
    plan = make_plan(want(2), [stopped], [source(keeps_stopped=True)])
    assert (plan.resume, plan.start) == ((1,), {"g": 1})


def test_who_is_not_needed_is_kept_free_then_ended() -> None:
    """Busy ones and those that have not rested yet only rest."""
    members = [member(1), member(2, busy=True), member(3, rested=False)]
    plan = make_plan(want(0), members, [source()])
    assert plan.rest == {"ep/1", "ep/2", "ep/3"}
    assert plan.remove == (1,)
    assert plan.stop == ()


def test_the_worst_go_first() -> None:
    """The dearest for what they do."""
    members = [member(1, price=0.5), member(2, price=0.1), member(3, price=0.2)]
    assert make_plan(want(1), members, [source()]).rest == {"ep/1", "ep/3"}


def test_where_they_can_be_kept_they_are_stopped() -> None:
    """As many as should exist; what is too many is ended, stopped ones among them."""
    members = [member(1), member(2), member(3, state=InstanceState.STOPPED, condition=None)]
    plan = make_plan(want(0, total=2), members, [source(keeps_stopped=True)])
    assert len(plan.stop) == 1 and len(plan.remove) == 1
    assert set(plan.stop) | set(plan.remove) == {1, 2}
    idle = make_plan(want(0, total=0), [members[2]], [source(keeps_stopped=True)])
    assert idle.remove == (3,)


def test_cold_ones_are_made_one_at_a_time() -> None:
    """They load, and are stopped then; one that loads is let be."""
    ready = member(1)
    plan = make_plan(want(1, total=3), [ready], [source(keeps_stopped=True)])
    assert (plan.start, plan.rest) == ({"g": 1}, frozenset())
    loading = member(2, condition=Condition.STARTING)
    plan = make_plan(want(1, total=3), [ready, loading], [source(keeps_stopped=True)])
    assert (plan.start, plan.stop, plan.remove) == ({}, (), ())
    assert make_plan(want(1, total=3), [ready], [source(keeps_stopped=False)]).start == {}


def test_workers_of_others_count_and_stay() -> None:
    """Nobody here can stop them."""
    own = member(1, state=None)
    assert make_plan(want(1), [own], [source()]).start == {}
    plan = make_plan(want(0), [own], [source()])
    assert (plan.rest, plan.remove) == (frozenset(), ())


def test_one_that_drains_or_fails_does_not_count() -> None:
    """Somebody takes its place."""
    for condition in (Condition.DRAINING, Condition.ERROR, Condition.STALE):
        assert make_plan(want(1), [member(1, condition=condition)], [source()]).start == {"g": 1}


CONDITIONS = st.sampled_from([None, Condition.READY, Condition.STARTING, Condition.ERROR, Condition.DRAINING])
STATES = st.sampled_from([None, *InstanceState])


@st.composite
def fleets(draw: st.DrawFn) -> list[Member]:
    return [
        member(
            number,
            group=draw(st.sampled_from(["a", "b"])),
            perf=draw(st.floats(1, 500)),
            price=draw(st.floats(0, 2)),
            state=draw(STATES),
            condition=draw(CONDITIONS),
            busy=draw(st.booleans()),
            rested=draw(st.booleans()),
        )
        for number in range(draw(st.integers(0, 12)))
    ]


@given(fleets(), st.integers(0, 10), st.integers(0, 5), st.integers(0, 12), st.booleans())
def test_nothing_is_lost_and_no_cap_is_passed(
    members: list[Member], workers: int, cold: int, most: int, keeps: bool
) -> None:
    """No loaded worker that is busy or not rested ends; none that is needed; others' never; room is kept to."""
    desired = want(min(workers, most), total=min(workers + cold, most), most=most)
    sources = [source("a", room=3, keeps_stopped=keeps), source("b", room=2, price=0.5)]
    plan = make_plan(desired, members, sources)
    known = {one.id: one for one in members}
    for number in (*plan.stop, *plan.remove):
        one = known[number]
        assert one.state is not None
        assert one.state is InstanceState.STOPPED or one.key in plan.rest
        assert not one.is_loaded or one.state is not InstanceState.RUNNING or (one.rested and not one.busy)
    assert not set(plan.stop) & set(plan.remove)
    assert not set(plan.resume) & set(plan.remove)
    assert all(plan.start.get(one.name, 0) <= one.room for one in sources)
    existing = sum(one.exists for one in members)
    assert sum(plan.start.values()) <= max(most - existing, 0)
    needed = [one for one in members if one.is_active and one.state is not None and one.key not in plan.rest]
    spare = [one for one in members if one.key in plan.rest]
    if spare:  # what stays is enough
        kept = sum(one.perf for one in members if one.is_active and one.state is None) + sum(o.perf for o in needed)
        count = sum(one.is_active for one in members) - len(spare)
        assert kept >= desired.capacity - 0.05 * max(one.perf for one in spare) - 1e-6 or count >= desired.most
