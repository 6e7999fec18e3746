"""What must hold for every placement, whatever the fleet looks like."""

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.model import Ask, Condition, Exclusion, Policy, Reason, WorkerView
from tests.router.choose.fleet import ENDPOINT, ask, chooser, placed, worker

SPEEDS = st.floats(min_value=10, max_value=1000)
VIEWS = st.builds(
    lambda perf, condition, vram, models, dialects, slots, engines: worker(
        "",
        perf,
        condition=condition,
        vram_gib=vram,
        models=models,
        dialects=dialects,
        slots=max(slots, engines),
        engines=engines,
    ),
    st.one_of(SPEEDS, st.just(0.0)),
    st.sampled_from(Condition),
    st.sampled_from([None, 8.0, 24.0]),
    st.sampled_from([None, frozenset({"a"}), frozenset({"a", "b"})]),
    st.sampled_from([None, frozenset({"vast"}), frozenset({"vast", "salad"})]),
    st.integers(1, 3),
    st.integers(1, 2),
)
ASKS = st.builds(
    lambda size, vram, models, dialect, refused: ask(
        "", size, vram_gib=vram, models=models, dialect=dialect, refused_by=refused
    ),
    st.floats(min_value=1, max_value=5000),
    st.sampled_from([0.0, 12.0, 24.0]),
    st.sampled_from([(), ("a",), ("a", "b")]),
    st.sampled_from(["", "salad"]),
    st.sampled_from([frozenset(), frozenset({"w0"}), frozenset({"w0", "w1", "w2"})]),
)


def eligible(view: WorkerView, one: Ask) -> bool:
    """The rule, told once more."""
    return (
        view.condition is Condition.READY
        and view.perf > 0
        and view.worker not in one.refused_by
        and (view.vram_gib is None or view.vram_gib >= one.vram_gib)
        and (view.models is None or set(one.models) <= view.models)
        and (view.dialects is None or not one.dialect or one.dialect in view.dialects)
    )


@given(
    views=st.lists(VIEWS, min_size=1, max_size=8),
    asks=st.lists(ASKS, min_size=1, max_size=12),
    policy=st.sampled_from(Policy),
    ends=st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=150)
def test_never_an_ineligible_worker_nor_more_than_its_slots(
    views: list[WorkerView], asks: list[Ask], policy: Policy, ends: random.Random
) -> None:
    """No policy gives a worker what it can't do; late binding never fills more slots than there are."""
    fleet = {f"w{number}": replace(view, worker=f"w{number}") for number, view in enumerate(views)}
    choosing = chooser(*fleet.values(), policy=policy)
    waiting = [replace(one, request_id=f"r{number}") for number, one in enumerate(asks)]
    for now in range(20):
        for placement in choosing.plan(waiting, float(now)):
            if placement.assignment is not None:
                waiting.remove(placement.ask)
                assert eligible(fleet[placement.assignment.worker], placement.ask)
        held = [(name, one) for name in fleet for one in choosing.held(name)]
        if policy is Policy.HYBRID:
            assert all(len(choosing.held(name)) <= view.slots for name, view in fleet.items())
        for _, assignment in held:
            if ends.random() < 0.5:
                assert choosing.settle(assignment.request_id, now + 0.5) is assignment
    stuck = [one for one in waiting if any(eligible(view, one) for view in fleet.values())]
    assert not stuck or policy is not Policy.HYBRID or len(waiting) < len(asks)


@given(
    speeds=st.lists(st.integers(10, 1000), min_size=2, max_size=20, unique=True), load=st.sampled_from([0.0, 0.7, 1.5])
)
@settings(deadline=None)
def test_the_fastest_of_idle_workers_is_taken(speeds: list[int], load: float) -> None:
    """All else equal, a slower idle worker never gets what a faster idle one could have had."""
    choosing = chooser(*(worker(f"w{speed}", speed) for speed in speeds), load=load)
    asks = [ask(f"r{number}") for number in range(len(speeds))]
    taken = [one.assignment.worker for one in choosing.plan(asks, 0.0) if one.assignment is not None]
    assert taken == [f"w{speed}" for speed in sorted(speeds, reverse=True)][: len(taken)]
    assert taken


@given(
    st.lists(st.tuples(SPEEDS, st.floats(0, 30), st.booleans()), min_size=2, max_size=12),
    st.floats(50, 2000),
    st.sampled_from([0.0, 0.5, 0.9]),
)
@settings(deadline=None, max_examples=200)
def test_the_search_from_the_front_finds_the_best_of_all(
    fleet: list[tuple[float, float, bool]], size: float, load: float
) -> None:
    """Looking at a few workers in order decides as if all had been looked at."""
    views = [
        worker(f"w{number}", perf, warm=("m",) if warm else (), foreign_load=busy_s * perf if busy_s > 5 else 0.0)
        for number, (perf, busy_s, warm) in enumerate(fleet)
    ]
    choosing = chooser(*views, load=load)
    one = ask(size=size, models=("m",))
    explained = choosing.explain(one, 0.0)
    best = min(explained.candidates, key=lambda candidate: candidate.total_s)
    idle = [candidate for candidate in explained.candidates if candidate.idle]
    (placement,) = choosing.plan([one], 0.0) or [None]
    if not idle:
        assert placement is None or placement.assignment is None
        return
    assert placement is not None
    totals = {candidate.worker: candidate.total_s for candidate in explained.candidates}
    alike = [one for one in idle if one.total_s == pytest.approx(min(other.total_s for other in idle))]
    start_now = {one.total_s - explained.theta * one.run_s <= best.total_s for one in alike}
    assert (placement.assignment is not None) in start_now
    if placement.assignment is not None:
        assert placement.assignment.worker in {one.worker for one in alike}
    else:
        assert placement.awaited is not None and totals[placement.awaited] == pytest.approx(best.total_s)


def test_a_busy_faster_worker_is_waited_for_if_it_ends_earlier() -> None:
    """The slow-server rule at low load: 1 s left and 1 s to run beat 10 s on the idle one; under load it is used."""
    for load, expected in ((0.1, {}), (1.2, {"second": "slow"})):
        choosing = chooser(worker("fast", 100), worker("slow", 10), load=load)
        assert placed(choosing.plan([ask("first")], 0.0)) == {"first": "fast"}
        placements = choosing.plan([ask("second")], 0.1)
        assert placed(placements) == expected
        assert placements[0].reason is (Reason.FASTEST_IDLE if expected else Reason.BETTER_WORKER_SOON)


def test_work_ahead_counts_in_what_is_waited_for() -> None:
    """Each ask that waits for the fast worker puts the next one's turn off, until the slow one is better."""
    choosing = chooser(worker("fast", 100), worker("slow", 22))
    choosing.plan([ask("running")], 0.0)
    asks = [ask(f"r{number}") for number in range(6)]
    found = choosing.plan(asks, 0.0)
    assert [one.assignment.worker if one.assignment else one.awaited for one in found] == ["fast"] * 3 + ["slow"]


def test_what_waits_is_placed_when_its_worker_is_free() -> None:
    """The first in line gets the worker it waits for; the others go on waiting."""
    choosing = chooser(worker("fast", 100), worker("slow", 5))
    choosing.plan([ask("running")], 0.0)
    waiting = [ask("one"), ask("two")]
    assert placed(choosing.plan(waiting, 0.1)) == {}
    assert choosing.plan(waiting, 0.2) == []
    choosing.settle("running", 1.0)
    assert placed(choosing.plan(waiting, 1.0)) == {"one": "fast"}


def test_an_overdue_worker_is_given_up() -> None:
    """Whoever waits for a worker that does not become free takes another one in the end, at a moment that is told."""
    choosing = chooser(worker("fast", 100), worker("slow", 20))
    choosing.plan([ask("running")], 0.0)
    one, now = ask("one"), 0.1
    for _ in range(100):
        if found := placed(choosing.plan([one], now)):
            break
        moment = choosing.next_change(ENDPOINT, now)
        assert moment is not None and moment > now
        now = moment
    assert found == {"one": "slow"} and 1.0 < now < 60.0


def test_a_prepared_place_is_filled_shortly_before_the_engine_is_free() -> None:
    """A worker with a second slot gets the next request ``lead_s`` early, not before; the moment is told."""
    choosing = chooser(worker("w", 100, slots=2, lead_s=0.25))
    choosing.plan([ask("first")], 0.0)
    second = ask("second")
    assert placed(choosing.plan([second], 0.5)) == {}
    moment = choosing.next_change(ENDPOINT, 0.5)
    assert moment == pytest.approx(0.75)
    assert placed(choosing.plan([second], 0.76)) == {"second": "w"}
    assert placed(choosing.plan([ask("third")], 0.99)) == {}


def test_until_a_worker_speaks_what_should_be_over_is_over() -> None:
    """Ends are told late: it goes on getting work at its pace, but not for long if it is silent altogether."""
    choosing = chooser(worker("w", 100, slots=2, lead_s=0.25))
    now, given = 0.0, []
    for number in range(12):
        one = ask(f"r{number}")
        while now < 30 and not placed(choosing.plan([one], now)):
            now = choosing.next_change(ENDPOINT, now) or 30.0
        given += [round(now, 3)] if now < 30 else []
    assert given == pytest.approx([0.0, 0.75, 1.75, 2.75, 3.75])


def test_a_report_that_still_shows_a_request_is_believed() -> None:
    """What runs longer than expected keeps its place once its worker has said so."""
    view = worker("w", 100, slots=2, lead_s=0.25)
    choosing = chooser(view)
    choosing.plan([ask("first")], 0.0)
    assert placed(choosing.plan([ask("second")], 0.8)) == {"second": "w"}
    choosing.put(replace(view, heard_at=1.2), 1.2)
    third = ask("third")
    assert placed(choosing.plan([third], 1.8)) == {}
    choosing.settle("first", 1.9)
    assert placed(choosing.plan([third], 2.7)) == {"third": "w"}


def test_a_worker_that_speaks_seldom_is_believed_for_longer() -> None:
    """One that was silent for ten seconds before it told of ends gets work for as long the next time."""
    view = worker("w", 100, slots=2, lead_s=0.25)
    choosing = chooser(view)
    choosing.plan([ask("r")], 0.0)
    choosing.settle("r", 10.0)
    choosing.put(replace(view, heard_at=10.0), 10.0)
    given = [placed(choosing.plan([ask(f"s{number}")], 10.0 + number)) for number in range(10)]
    assert all(given)


def test_a_warm_worker_is_preferred_to_a_faster_cold_one() -> None:
    """A model's load time counts as much as its run."""
    views = [worker("fast", 200, warm=("other",)), worker("warm", 100, warm=("m",), swap_s={"m": 8.0})]
    assert placed(chooser(*views).plan([ask("r", models=("m",))], 0.0)) == {"r": "warm"}
    assert placed(chooser(*views).plan([ask("r", models=("other",))], 0.0)) == {"r": "fast"}
    assert placed(chooser(*views, swap_s=0.1).plan([ask("r", models=("m",))], 0.0)) == {"r": "fast"}


def test_two_jobs_of_a_cold_model_do_not_load_it_twice() -> None:
    """The second one waits for the load that the first has begun, as long as that is shorter than another load."""
    choosing = chooser(*(worker(name, 100, warm=(), swap_s={"m": 8.0}) for name in "ab"), load=0.9)
    found = choosing.plan([ask("one", models=("m",)), ask("two", models=("m",))], 0.0)
    assert placed(found) == {"one": "a", "two": "b"}  # 9 s behind the first are more than 8 s to load
    choosing = chooser(*(worker(name, 1000, warm=(), swap_s={"m": 8.0}) for name in "ab"), load=0.9)
    choosing.plan([ask("one", models=("m",))], 0.0)
    found = choosing.plan([ask("two", models=("m",))], 1.0)
    assert found[0].awaited == "a" and found[0].reason is Reason.MODEL_WARM_SOON


def test_the_models_that_stay_are_those_used_last() -> None:
    """Room for two: a third model pushes out the one that was not used for longest."""
    choosing = chooser(worker("w", 1e6, warm=("a", "b"), room=2))
    for number, model in enumerate(("a", "c")):
        choosing.plan([ask(f"r{number}", models=(model,))], float(10 * number))
        choosing.settle(f"r{number}", 10.0 * number + 9)
    swaps = {
        model: choosing.explain(ask("next", models=(model,)), 30.0).candidates[0].swap_s for model in ("a", "b", "c")
    }
    assert swaps["a"] == swaps["c"] == 0.0 and swaps["b"] > 0


def test_what_is_pushed_out_counts() -> None:
    """Of two cold workers the one with room loads the model; a full one would have to load its own again."""
    views = [worker("full", 200, warm=("a", "b"), room=2), worker("roomy", 150, warm=("a",), room=2)]
    assert placed(chooser(*views).plan([ask("r", models=("m",))], 0.0)) == {"r": "roomy"}


def test_inputs_and_distance_count() -> None:
    """A far worker with a slow line loses a large input to a slower near one."""
    views = [worker("far", 120, latency_s=0.1, s_per_mb=0.1), worker("near", 100)]
    assert placed(chooser(*views).plan([ask("small", input_mb=0.1)], 0.0)) == {"small": "far"}
    assert placed(chooser(*views).plan([ask("large", input_mb=50.0)], 0.0)) == {"large": "near"}


def test_a_price_counts_as_delay() -> None:
    """With a price on time, the dear worker has to be so much faster."""
    views = [worker("dear", 150, price=3.6), worker("cheap", 100)]
    assert placed(chooser(*views).plan([ask("r")], 0.0)) == {"r": "dear"}
    assert placed(chooser(*views, s_per_dollar=1000.0).plan([ask("r")], 0.0)) == {"r": "cheap"}


def test_a_stock_worker_is_not_given_what_it_would_refuse() -> None:
    """It refuses over its queue time, counted in announced cost over its benchmark."""
    choosing = chooser(worker("stock", 10, slots=3, lead_s=100.0, admit_s=10.0))
    found = [placed(choosing.plan([ask(f"r{number}")], 0.0)) for number in range(3)]
    assert found == [{"r0": "stock"}, {"r1": "stock"}, {}]


def test_what_others_gave_it_counts() -> None:
    """A worker whose report shows foreign work is expected to be busy with it."""
    choosing = chooser(worker("busy", 100, foreign_load=1000.0), worker("free", 50))
    assert placed(choosing.plan([ask("r")], 0.0)) == {"r": "free"}


def test_another_replicas_assignment_counts_once() -> None:
    """What is noted occupies the worker like an own assignment, however often it is told."""
    mine, other = (chooser(worker("a", 100), worker("b", 90)) for _ in range(2))
    (placement,) = other.plan([ask("theirs")], 0.0)
    assert placement.assignment is not None
    for _ in range(2):
        mine.note(placement.assignment)
    assert [one.request_id for one in mine.held("a")] == ["theirs"]
    assert placed(mine.plan([ask("mine")], 0.0)) == {"mine": "b"}


def test_an_assignment_that_was_not_granted_is_undone() -> None:
    """Settling frees the place, as if it had never been given."""
    choosing = chooser(worker("w"))
    choosing.plan([ask("r")], 0.0)
    assert choosing.settle("r", 0.0) is not None
    assert choosing.settle("r", 0.0) is None
    assert choosing.assignment("r") is None
    assert placed(choosing.plan([ask("next")], 0.0)) == {"next": "w"}


def test_a_worker_that_goes_hands_back_what_it_held() -> None:
    """Whoever waited for it waits for another."""
    choosing = chooser(worker("fast", 100), worker("slow", 30))
    choosing.plan([ask("lost")], 0.0)
    waiting = ask("waits")
    assert choosing.plan([waiting], 0.0)[0].awaited == "fast"
    assert [one.request_id for one in choosing.drop("fast")] == ["lost"]
    assert placed(choosing.plan([waiting], 0.0)) == {"waits": "slow"}
    assert choosing.drop("fast") == () and choosing.capacity(ENDPOINT) == 30


def test_resting_workers_work_only_where_nobody_else_can() -> None:
    """Packing keeps a worker free, but no request waits for ever because of that."""
    choosing = chooser(worker("small", 100, vram_gib=8), worker("large", 200, vram_gib=80))
    choosing.rest(ENDPOINT, frozenset({"large"}))
    assert choosing.capacity(ENDPOINT) == 100
    found = choosing.plan([ask("any"), ask("another"), ask("huge", vram_gib=40.0)], 0.0)
    assert placed(found) == {"any": "small", "huge": "large"}


def test_several_engines_work_side_by_side() -> None:
    """A host of two GPUs runs two requests, each at half its speed; the third waits for the first to end."""
    choosing = chooser(worker("host", 200, engines=2, slots=2))
    found = choosing.plan([ask("long", 400.0), ask("short"), ask("third")], 0.0)
    assert placed(found) == {"long": "host", "short": "host"}
    assert [one.assignment.expected_finish_at for one in found if one.assignment] == [4.0, 1.0]
    choosing.settle("short", 1.0)
    assert placed(choosing.plan([ask("third")], 1.0)) == {"third": "host"}


def test_nothing_is_starved_by_shorter_waits_of_others() -> None:
    """A request for a rare model is served although the popular one never stops coming."""
    choosing = chooser(*(worker(name, 100, warm=("hot", "warm"), room=2) for name in "abc"), load=0.9)
    chance, rare, now, running = random.Random(1), ask("rare", models=("rare",)), 0.0, {}
    for number in range(300):
        asks = [rare, ask(f"r{number}", models=("hot",), arrived_at=now)]
        for name, found in placed(choosing.plan(asks, now)).items():
            running[name] = (now + chance.uniform(0.9, 1.1), found)
        if "rare" in running:
            break
        now += 0.4
        for name in [name for name, (end, _) in running.items() if end <= now]:
            del running[name]
            choosing.settle(name, now)
    assert "rare" in running and now < 30


@pytest.mark.parametrize("more", [{"vram_gib": 40.0}, {"vram_gib": 1000.0}, {"refused_by": frozenset({"small"})}])
def test_what_nobody_free_can_do_keeps_nobody_else_waiting(more: dict[str, Any]) -> None:
    """However many requests wait for one worker (or for none), a free one serves those behind them."""
    choosing = chooser(worker("small", 100, vram_gib=8), worker("large", 100, vram_gib=80))
    choosing.plan([ask("running", vram_gib=40.0)], 0.0)
    stuck = [ask(f"r{number}", **more) for number in range(5000)]
    for now in (0.1, 0.2):
        assert placed(choosing.plan([*stuck, ask(f"small-{now}")], now)) == {f"small-{now}": "small"}
        choosing.settle(f"small-{now}", now + 0.05)


@pytest.mark.parametrize("policy", Policy)
def test_the_same_seed_decides_the_same(policy: Policy) -> None:
    """No clock and no chance but the injected one."""

    def decisions() -> list[dict[str, str]]:
        choosing = chooser(*(worker(f"w{number}", 50 + 10 * number) for number in range(9)), policy=policy, seed=7)
        found = []
        for number in range(60):
            found.append(placed(choosing.plan([ask(f"r{number}")], number / 10)))
            if number % 3 == 0:
                choosing.settle(f"r{number // 2}", number / 10)
        return found

    assert decisions() == decisions()


def test_chances_are_proportional_to_speed() -> None:
    """Proportional random: a worker three times as fast gets three times as much."""
    choosing = chooser(worker("a", 100), worker("b", 300), policy=Policy.PROPORTIONAL, max_queue_s=1e9)
    found = [name for number in range(4000) for name in placed(choosing.plan([ask(f"r{number}")], 0.0)).values()]
    assert found.count("b") / 4000 == pytest.approx(0.75, abs=0.03)


def test_a_full_worker_is_left_out_at_arrival() -> None:
    """Policies that choose at arrival stop at the queue time that makes a worker full; then requests wait here."""
    for policy in (Policy.PROPORTIONAL, Policy.POWER_OF_TWO, Policy.LEAST_WORK):
        choosing = chooser(worker("a", 100), worker("b", 100), policy=policy, max_queue_s=3.0)
        found = [placed(choosing.plan([ask(f"r{number}")], 0.0)) for number in range(8)]
        assert [len(one) for one in found] == [1] * 6 + [0] * 2


def test_least_work_weighs_queue_and_speed() -> None:
    """It queues where the request ends first."""
    choosing = chooser(worker("fast", 100), worker("slow", 40), policy=Policy.LEAST_WORK)
    found = [*placed(choosing.plan([ask(f"r{number}") for number in range(4)], 0.0)).values()]
    assert found == ["fast", "fast", "slow", "fast"]


def test_a_decision_is_explained() -> None:
    """Candidates with their numbers, the best first; why others are none; the past decision as it was made."""
    choosing = chooser(
        worker("a", 100), worker("b", 50), worker("c", 70, vram_gib=8), worker("d", condition=Condition.DRAINING)
    )
    one = ask("r", vram_gib=12.0)
    before = choosing.explain(one, 0.0)
    assert [candidate.worker for candidate in before.candidates] == ["a", "b"]
    assert before.excluded == {Exclusion.VRAM: 1, Exclusion.NOT_READY: 1}
    assert choosing.explained("r") is None
    choosing.plan([one], 0.0)
    after = choosing.explained("r")
    assert after is not None and after.worker == "a" and after.reason is Reason.EARLIEST_FINISH
    assert after.candidates[0].run_s == pytest.approx(1.0) and "a" in after.text
    waiting = choosing.explain(ask("next", vram_gib=12.0), 0.0)
    assert waiting.reason is Reason.BETTER_WORKER_SOON or waiting.reason is Reason.LATER


def test_an_endpoint_without_workers_says_so() -> None:
    """It is one thing to have no worker, another one that none can do it."""
    assert chooser().plan([ask()], 0.0)[0].reason is Reason.NO_WORKER
    assert chooser(worker("w", vram_gib=8)).plan([ask(vram_gib=24.0)], 0.0)[0].reason is Reason.NONE_ELIGIBLE
    assert chooser().wait(ask(), ahead=0.0, now=0.0) is None


def test_the_expected_wait_fills_all_engines_alike() -> None:
    """Two workers of 100 units a second, one busy for 2 s: 400 units ahead are done 3 s from now."""
    choosing = chooser(worker("a"), worker("b"))
    choosing.plan([ask("r", 200.0)], 0.0)
    found = choosing.wait(ask(size_p90=200.0), ahead=400.0, now=0.0)
    assert found is not None and found.likely_s == pytest.approx(3.0)
    assert found.low_s < found.likely_s < found.high_s
