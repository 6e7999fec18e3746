"""SlotQueue: order, depth and fairness hold under any sequence of events."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from lib.jobs.queue import DEPTH, Lease, SlotQueue
from tests.fakes.clock import FakeClock, settle
from tests.fakes.engine import FakeEngine

EVENTS = st.lists(st.tuples(st.sampled_from(["ask", "leave", "end", "sick", "well"]), st.integers(0, 20)), max_size=60)


class Model:
    """Drives a queue as jobs would and checks what must always hold."""

    def __init__(self, engine_count: int) -> None:
        self.engines = [FakeEngine(f"gpu{i}") for i in range(engine_count)]
        self.queue = SlotQueue(self.engines, clock=FakeClock())
        self.sequence = 0
        self.waiting: dict[int, asyncio.Task[Lease]] = {}
        self.held: list[Lease] = []

    async def step(self, event: str, number: int) -> None:
        if event == "ask":
            self.sequence += 1
            self.waiting[self.sequence] = asyncio.ensure_future(self.queue.acquire(self.sequence, expected_s=1.0))
        elif event == "leave" and self.waiting:
            self.waiting.pop(sorted(self.waiting)[number % len(self.waiting)]).cancel()
        elif event == "end" and self.held:
            self.queue.release(self.held.pop(number % len(self.held)))
        elif event in ("sick", "well"):
            self.engines[number % len(self.engines)].healthy = event == "well"
            self.queue.dispatch()
        await settle(3)
        self.collect()

    def collect(self) -> None:
        granted = sorted(seq for seq, task in self.waiting.items() if task.done())
        for seq in granted:
            self.held.append(self.waiting.pop(seq).result())
        left = min(self.waiting, default=None)
        assert left is None or all(seq < left for seq in granted), "an earlier job was passed"
        for engine in self.engines:
            assert sum(lease.engine is engine for lease in self.held) <= DEPTH
        room = any(e.healthy and sum(x.engine is e for x in self.held) < DEPTH for e in self.engines)
        assert not (self.waiting and room), "somebody waits although there is room"

    async def close(self) -> None:
        for task in self.waiting.values():
            task.cancel()
        await settle(3)
        for lease in self.held:
            self.queue.release(lease)
        assert self.queue.posted_count == 0


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, engine_count=st.integers(1, 3))
def test_turns(events: list[tuple[str, int]], engine_count: int) -> None:
    """No engine over its depth, nobody passed, nobody waits while there is room, nothing leaks."""

    async def drive() -> None:
        model = Model(engine_count)
        for event, number in events:
            await model.step(event, number)
        await model.close()

    asyncio.run(drive())


async def test_the_engine_that_is_free_first_gets_the_pending_prompt() -> None:
    """Both engines busy: the next job goes behind the one with less left to do."""
    clock = FakeClock()
    queue = SlotQueue([FakeEngine("long"), FakeEngine("short")], clock=clock)
    queue.started(await queue.acquire(1, expected_s=60))
    queue.started(await queue.acquire(2, expected_s=5))
    await clock.advance(1)
    assert (await queue.acquire(3, expected_s=5)).engine.name == "short"
    assert queue.elapsed_s() == 2


async def test_a_pinned_job_waits_for_its_engine() -> None:
    """The benchmark measures one engine; others' room is not taken."""
    queue = SlotQueue([FakeEngine("a"), FakeEngine("b")], clock=FakeClock())
    for sequence in (1, 2):
        assert (await queue.acquire(sequence, expected_s=1, engine="b")).engine.name == "b"
    pinned = asyncio.ensure_future(queue.acquire(3, expected_s=1, engine="b"))
    assert (await queue.acquire(4, expected_s=1)).engine.name == "a"
    await settle()
    assert not pinned.done()
    pinned.cancel()


async def test_low_priority_gets_a_turn_when_nobody_else_waits() -> None:
    """In their order among themselves. One that has its turn keeps it; the pending one that moves is a normal one."""
    queue = SlotQueue([FakeEngine("gpu0")], clock=FakeClock())
    held = [await queue.acquire(number, expected_s=1, low_priority=True) for number in (1, 2)]
    asked = [(3, True), (4, False), (5, True), (6, False)]
    waiting = [asyncio.create_task(queue.acquire(number, expected_s=1, low_priority=low)) for number, low in asked]
    await settle()
    order = []
    while len(order) < len(waiting):
        queue.release(held.pop(0))
        await settle()
        held += [task.result() for task in waiting if task.done() and task.result().sequence not in order]
        order = [*order, held[-1].sequence]
    assert order == [4, 6, 3, 5]


async def test_of_pending_prompts_a_normal_one_moves_first() -> None:
    """Two engines hold pending prompts, a third falls idle."""
    engines = [FakeEngine(name) for name in ("a", "b", "c")]
    queue = SlotQueue(engines, clock=FakeClock())
    leases = [await queue.acquire(number, expected_s=1, low_priority=number == 4) for number in range(1, 6)]
    for lease in leases[:3]:
        queue.started(lease)
    queue.release(leases[2])
    assert [lease.withdraw.is_set() for lease in leases[3:]] == [False, True]


async def test_a_reserved_queue_gives_turns_to_pinned_jobs_only() -> None:
    """The others keep their order, and get theirs when it opens."""
    queue = SlotQueue([FakeEngine("gpu0")], clock=FakeClock())
    queue.reserve()
    waiting = [asyncio.create_task(queue.acquire(number, expected_s=1)) for number in range(2)]
    pinned = await asyncio.wait_for(queue.acquire(9, expected_s=1, engine="gpu0"), 60)
    assert not any(task.done() for task in waiting)
    queue.release(pinned)
    queue.open()
    assert [(await task).sequence for task in waiting] == [0, 1]


async def test_a_reserved_engine_gets_nothing_but_what_is_pinned_to_it() -> None:
    """The other goes on, up to its depth; a prompt that waits there is not asked back for the reserved one."""
    queue = SlotQueue([FakeEngine("a"), FakeEngine("b")], clock=FakeClock())
    queue.reserve("b")
    leases = [await queue.acquire(number, expected_s=1) for number in range(2)]
    waiting = asyncio.create_task(queue.acquire(2, expected_s=1))
    assert (await asyncio.wait_for(queue.acquire(9, expected_s=1, engine="b"), 60)).engine.name == "b"
    assert {lease.engine.name for lease in leases} == {"a"} and not waiting.done()
    assert not any(lease.withdraw.is_set() for lease in leases)
    queue.open("b")
    assert (await waiting).engine.name == "b"
