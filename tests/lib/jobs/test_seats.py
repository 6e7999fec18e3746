"""lib.jobs.seats: room by count and by bytes, in the order of arrival."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from lib.jobs.seats import Seats
from tests.fakes.clock import settle

COUNT, MOST_BYTES = 3, 10


class Guest:
    """Takes a seat, and keeps it until it is told to go."""

    def __init__(self, seats: Seats, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.seated = False
        self.go = asyncio.Event()
        self.task = asyncio.ensure_future(self._sit(seats))

    async def _sit(self, seats: Seats) -> None:
        async with seats.seat(self.size_bytes):
            self.seated = True
            await self.go.wait()
        self.seated = False


EVENTS = st.lists(st.tuples(st.sampled_from(["come", "go", "give up"]), st.integers(0, 20)), max_size=40)


@settings(max_examples=80, deadline=None)
@given(events=EVENTS)
def test_seats(events: list[tuple[str, int]]) -> None:
    """Never too many, never too much unless alone, nobody overtaken, nobody left standing beside a free seat."""

    async def drive() -> None:
        seats, guests = Seats(COUNT, most_bytes=MOST_BYTES), list[Guest]()
        for event, number in events:
            if event == "come":
                guests.append(Guest(seats, number))
            elif guests:
                guest = guests[number % len(guests)]
                if event == "go" and guest.seated:
                    guest.go.set()
                elif event == "give up":
                    guest.task.cancel()
            await settle(4)
            guests = [guest for guest in guests if not guest.task.done()]
            check(seats, guests)
        for guest in guests:
            guest.task.cancel()
        await settle(4)
        assert seats.taken_count == 0

    asyncio.run(drive())


def check(seats: Seats, guests: list[Guest]) -> None:
    seated = [guest.size_bytes for guest in guests if guest.seated]
    standing = [guest for guest in guests if not guest.seated]
    assert seats.taken_count == len(seated) <= COUNT
    assert sum(seated) <= MOST_BYTES or len(seated) == 1
    assert [guest.seated for guest in guests] == sorted((guest.seated for guest in guests), reverse=True)
    if standing:
        assert len(seated) == COUNT or (seated and sum(seated) + standing[0].size_bytes > MOST_BYTES)


async def test_who_steps_aside_makes_room_and_comes_back_at_once() -> None:
    """Once for all reasons to; what he brought along still counts, and nobody else comes in until there is room."""
    seats = Seats(1, most_bytes=MOST_BYTES)
    seat = seats.seat(6)
    async with seat:
        with seat.aside(), seat.aside():
            second, large = Guest(seats, 4), Guest(seats, 1)
            await settle(4)
            assert second.seated and not large.seated
        second.go.set()
        await settle(4)
        assert not large.seated
    await settle(4)
    assert large.seated
    large.go.set()
    await settle(4)
    assert seats.taken_count == 0


async def test_who_gives_up_in_the_moment_of_the_turn_leaves_the_seat() -> None:
    """Cancelled after the seat was given and before the first step: the next one gets it."""
    seats = Seats(1)
    first = Guest(seats, 0)
    await settle(2)
    second, third = Guest(seats, 0), Guest(seats, 0)
    await settle(2)
    first.go.set()
    await asyncio.sleep(0)
    second.task.cancel()
    await settle(4)
    assert third.seated
    third.go.set()
    await settle(4)
    assert seats.taken_count == 0
