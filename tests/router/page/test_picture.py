"""The picture that all readers share: drawn while somebody looks, and then only what changed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from router.endpoint_settings import GroupSettings
from router.page import picture as module
from router.page.facts import HELD, NAME, TROUBLE, WARM, Desired
from router.page.picture import LEAST_REST_S, SOON_S, Picture
from router.registry import Epoch
from tests.fakes.clock import settle
from tests.fakes.router_world import Replica, one_endpoint

Make = Callable[..., Awaitable[Replica]]


def picture_of(router: Replica, **options: Any) -> Picture:
    fields = {"desired": lambda endpoint: None, "clock": router.clock, "epoch": Epoch(router.clock)}
    return Picture(router.dispatcher, **fields | options)


async def later(router: Replica, seconds: float = LEAST_REST_S) -> None:
    await router.clock.advance(seconds)
    await settle()


async def test_nothing_is_kept_while_nobody_looks(router: Replica) -> None:
    """Not before the first reader, not after the last."""
    picture = picture_of(router)
    await router.report(1)
    assert picture.version == 0
    with picture.watched():
        with picture.watched():
            await picture.refresh()
        assert set(picture.rows) == {"ep/1"}
        await router.report(1)
        assert picture.version > 0
    version = picture.version
    await router.report(1)
    assert (picture.version, picture.rows, picture.endpoints) == (version, {}, {})


async def test_only_what_changed_is_drawn_anew(router: Replica) -> None:
    """A worker that nothing happened to keeps its row, whatever others do."""
    await router.report(1)
    await router.report(2)
    picture = picture_of(router)
    with picture.watched():
        await picture.refresh()
        before = dict(picture.rows)
        await router.give("7", models=())
        await later(router)
        await picture.refresh()
        changed = {key for key in before if picture.rows[key] is not before[key]}
        assert len(changed) == 1
        (row,) = (picture.rows[key].facts for key in changed)
        assert (row["held_count"], [one["id"] for one in row["held"]]) == (1, ["7"])
        assert row["free_at"] is not None


async def test_a_rest_follows_each_picture(router: Replica) -> None:
    """Four a second at most, however much happens."""
    picture = picture_of(router)
    with picture.watched():
        await picture.refresh()
        await router.report(1)
        await picture.refresh()
        assert picture.rows == {}
        resting = router.tasks.spawn(picture.rest(), name="rest")
        await settle()
        assert not resting.done()
        await later(router)
        assert resting.done()
        await picture.refresh()
        assert set(picture.rows) == {"ep/1"}


async def test_many_readers_are_told_less_often(router: Replica) -> None:
    """Together they get no more of the loop's time than one."""
    picture = picture_of(router)
    with picture.watched():
        await picture.refresh()
        picture.spent(0.05)
        await router.report(1)
        await later(router, LEAST_REST_S + 0.05 * module.REST_FACTOR - 0.01)
        await picture.refresh()
        assert picture.rows == {}
        await later(router, 0.02)
        await picture.refresh()
        assert set(picture.rows) == {"ep/1"}


async def test_a_change_during_a_picture_is_not_lost(router: Replica) -> None:
    """Who has seen a version hears of the next one, also if it came before he asked."""
    picture = picture_of(router)
    with picture.watched():
        seen = await picture.refresh()
        await router.report(1)
        assert await picture.refresh() == seen
        async with asyncio.timeout(60):
            await picture.changed(since=seen)
        waiting = router.tasks.spawn(picture.changed(since=picture.version), name="waiting")
        await settle()
        assert not waiting.done()
        await router.report(1)
        assert waiting.done()


async def test_a_large_fleet_lets_others_have_their_turn(router: Replica) -> None:
    """The first picture of many workers is drawn in pieces."""
    for number in range(1, module.AT_ONCE * 2 + 2):
        await router.report(number, url=f"http://10.0.0.1:{number}")
    picture, turns = picture_of(router), []
    with picture.watched():
        drawing = router.tasks.spawn(picture.refresh(), name="refresh")
        while not drawing.done():
            turns.append(len(picture.rows))
            await asyncio.sleep(0)
    assert turns[1:] == [module.AT_ONCE, module.AT_ONCE * 2][: len(turns) - 1] and len(turns) >= 3


async def test_figures_of_an_endpoint(make: Make) -> None:
    """What comes in against what can be done, what waits, what is wanted."""
    router = await make(endpoints=one_endpoint(groups=(GroupSettings(name="g", gpu_name="RTX 3090"),)))
    await router.report(1)
    await router.report(2, error_msg="broken")
    picture = picture_of(router, desired=lambda endpoint: Desired(capacity=250.0, workers=3))
    await router.give("1")
    waiting = router.waiting("2", tenant="studio")
    await settle()
    with picture.watched():
        await picture.refresh()
        facts = picture.endpoints["ep"]
        assert (facts["ready"], facts["workers"], facts["conditions"]) == (1, 2, {"ready": 1, "error": 1})
        assert (facts["capacity"], facts["waiting"], facts["running"]) == (100.0, 1, 1)
        assert [(one["id"], one["tenant"]) for one in facts["queue"]] == [("2", "studio")]
        assert facts["desired"] == {"capacity": 250.0, "workers": 3}
        assert picture.rows["ep/1"].facts["gpu"] == "RTX 3090"
        await router.done("1")
        await later(router, SOON_S)
        await picture.refresh()
        assert picture.endpoints["ep"]["waiting"] == 0
    assert waiting.worker == "ep/1"


async def test_a_worker_that_became_slow_is_drawn_though_it_was_silent(router: Replica) -> None:
    """Slowness is against others of its kind, so theirs change it."""
    for number in (1, 2, 3):
        await router.report(number, gpu_name="RTX 4090")
    picture = picture_of(router)
    with picture.watched():
        await picture.refresh()
        assert picture.rows["ep/3"].facts["slow"] is None
        for number in (1, 2):
            await router.report(number, max_perf=300.0)
        await later(router)
        await picture.refresh()
        assert picture.rows["ep/3"].facts["slow"] == 0.33


async def test_what_a_worker_says_has_a_length(router: Replica) -> None:
    """Nobody makes the page of others large."""
    models = ["m" * 5000 + str(number) for number in range(100)]
    long = {"gpu_name": "g" * 5000, "models_warm": models, "models": models, "url": "http://10.0.0.1/" + "u" * 5000}
    await router.report(1, slots=100, engines=100, **long)
    for number in range(60):
        await router.give(str(number))
    picture = picture_of(router)
    with picture.watched():
        await picture.refresh()
        facts = picture.rows["ep/1"].facts
    assert (len(facts["held"]), facts["held_count"]) == (HELD, 60)
    assert (len(facts["warm"]), facts["warm_count"], facts["installed"]) == (WARM, 100, 100)
    assert max(len(facts["gpu"]), *map(len, facts["warm"])) <= NAME
    assert len(repr(facts)) < 2500 and len(facts["trouble"]) <= TROUBLE


async def test_an_endpoint_that_is_gone_takes_its_workers_along(router: Replica) -> None:
    """They are shown no more."""
    endpoints = router.dispatcher.endpoints
    made = endpoints.add(endpoints.find("ep").settings.model_copy(update={"name": "new"}), api_key="", created_at=0.0)
    picture = picture_of(router)
    with picture.watched():
        await picture.refresh()
        assert set(picture.endpoints) == {"ep", "new"}
        endpoints.remove(made)
        await later(router)
        await picture.refresh()
        assert set(picture.endpoints) == {"ep"}
