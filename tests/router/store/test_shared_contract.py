"""What every ``SharedState`` does."""

import asyncio
from dataclasses import replace

from router.ports import News, NewsKind
from router.store import Stores
from tests.router.store.values import assignment, request, worker
from tests.router.store.worlds import World

Pair = tuple[Stores, Stores]


async def test_numbers_come_once(pair: Pair) -> None:
    """From 1, each to one caller only, each counter by itself."""
    one, other = pair[0].shared, pair[1].shared
    numbers = await asyncio.gather(*(state.next_number("route") for state in (one, other) * 600))
    assert sorted(numbers) == list(range(1, 1201))
    assert await one.next_number("other") == 1


async def test_workers_are_known_to_all_for_their_time(pair: Pair, world: World) -> None:
    """As they were told last, until the time is over or they are dropped."""
    one, other = pair[0].shared, pair[1].shared
    await one.put_worker(worker("sd/1"), ttl_s=10)
    await one.put_worker(worker("sd/2"), ttl_s=30)
    await one.put_worker(later := worker("sd/1", refused_at=5.5), ttl_s=20)
    assert sorted(await other.workers(), key=lambda record: record.worker) == [later, worker("sd/2")]
    await world.clock.advance(20)
    assert list(await other.workers()) == [worker("sd/2")]
    await other.drop_worker("sd/2")
    await other.drop_worker("sd/9")
    assert list(await one.workers()) == []


async def test_requests_are_known_to_all_for_their_time(pair: Pair, world: World) -> None:
    """Each put gives it its time anew."""
    one, other = pair[0].shared, pair[1].shared
    await one.put_request(request(7), ttl_s=10)
    assert await other.request(7) == request(7)
    assert await other.request(8) is None
    await world.clock.advance(9)
    await other.put_request(assigned := replace(request(7), worker="sd/1", reqnum=3), ttl_s=10)
    await world.clock.advance(9)
    assert await one.request(7) == assigned
    await world.clock.advance(1)
    assert await one.request(7) is None


async def test_a_worker_is_never_given_more_than_it_has_slots(pair: Pair) -> None:
    """Whoever asks, and however many at once."""
    asked = [assignment(f"r{number}", f"sd/{number % 3}") for number in range(60)]
    given = await asyncio.gather(
        *(pair[number % 2].shared.reserve(one, slots=4, ttl_s=60) for number, one in enumerate(asked))
    )
    assert sum(given) == 12
    counted = sorted(one.request_id for one in await pair[0].shared.assignments())
    assert counted == sorted(one.request_id for one, yes in zip(asked, given, strict=True) if yes)


async def test_an_assignment_is_counted_once(pair: Pair, world: World) -> None:
    """Again on the same worker it lives on as it was; on another it moves, if there is room."""
    one, other = pair[0].shared, pair[1].shared
    assert await one.reserve(assignment("r1", "sd/1"), slots=1, ttl_s=10)
    await world.clock.advance(9)
    assert await other.reserve(assignment("r1", "sd/1", size=1.0), slots=1, ttl_s=10)
    await world.clock.advance(9)
    assert list(await one.assignments()) == [assignment("r1", "sd/1")]
    assert await one.reserve(assignment("r2", "sd/2"), slots=1, ttl_s=60)
    assert not await one.reserve(assignment("r1", "sd/2"), slots=1, ttl_s=60)
    assert not await one.reserve(assignment("r3", "sd/1"), slots=1, ttl_s=60)
    assert await one.reserve(assignment("r1", "sd/3"), slots=1, ttl_s=60)
    assert await one.reserve(assignment("r3", "sd/1"), slots=1, ttl_s=60)
    assert {item.request_id: item.worker for item in await other.assignments()} == {
        "r1": "sd/3",
        "r2": "sd/2",
        "r3": "sd/1",
    }


async def test_slots_come_back(pair: Pair, world: World) -> None:
    """When the assignment is settled, by anybody, or its time is over."""
    one, other = pair[0].shared, pair[1].shared
    assert await one.reserve(assignment("r1"), slots=1, ttl_s=60)
    await other.settle("r1")
    await other.settle("r1")
    assert list(await one.assignments()) == []
    assert await one.reserve(assignment("r2"), slots=1, ttl_s=5)
    await world.clock.advance(5)
    assert list(await other.assignments()) == []
    assert await other.reserve(assignment("r3"), slots=1, ttl_s=5)
    await one.settle("r2")
    assert list(await one.assignments()) == [assignment("r3")]


async def test_an_office_has_one_holder(pair: Pair, world: World) -> None:
    """Until its time is over, or the holder gives it up; each office by itself."""
    one, other = pair[0].shared, pair[1].shared
    assert await one.lead("scaling", "a", ttl_s=10) == "a"
    assert await other.lead("scaling", "b", ttl_s=10) == "a"
    assert await other.lead("tidying", "b", ttl_s=10) == "b"
    await world.clock.advance(9)
    assert await one.lead("scaling", "a", ttl_s=10) == "a"
    await world.clock.advance(9)
    assert await other.lead("scaling", "b", ttl_s=0) == "a"
    await world.clock.advance(1)
    assert await other.lead("scaling", "b", ttl_s=10) == "b"
    assert await other.lead("scaling", "b", ttl_s=0) == "b"
    assert await one.lead("scaling", "a", ttl_s=10) == "a"


async def test_notes_are_known_to_all_for_their_time(pair: Pair, world: World) -> None:
    """The last one of each name."""
    one, other = pair[0].shared, pair[1].shared
    assert await one.notes() == {}
    await one.put_note("a", {"load": 1.5, "old": True}, ttl_s=10)
    await one.put_note("a", {"load": 2.5, "names": ["x", None]}, ttl_s=10)
    await other.put_note("b", {}, ttl_s=20)
    assert await other.notes() == {"a": {"load": 2.5, "names": ["x", None]}, "b": {}}
    await world.clock.advance(10)
    assert await one.notes() == {"b": {}}


async def test_all_hear_news(pair: Pair) -> None:
    """From when they listen on, in order, their own as well."""
    one, other = pair[0].shared, pair[1].shared
    told = [News(kind=NewsKind.JOB, origin="a", body={"number": number}) for number in range(3)]
    await one.tell(told[0])
    async with one.news() as first, other.news() as second:
        await one.tell(told[1])
        await one.tell(told[2])
        for heard in (first, second):
            assert [await anext(heard), await anext(heard)] == told[1:]
