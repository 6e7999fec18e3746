"""What RunPod's SDK calls, over a real socket to a worker under the test's control."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from lib.fleet.runpod.frames import Kind, Message
from lib.fleet.runpod.sdk import Line, Relay, finish


@dataclass
class World:
    """A relay whose SDK has taken ``taken``; ``worker`` is the other end of its line."""

    worker: Line
    relay: Relay
    taken: list[str] = field(default_factory=list)
    updates: list[Any] = field(default_factory=list)

    async def hears(self) -> tuple[Kind, int, Any]:
        message = await asyncio.to_thread(self.worker.receive)
        assert message is not None
        return message.kind, message.ticket, message.body


@pytest.fixture
def world() -> Iterator[World]:
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    taken, updates = list[str](), list[Any]()
    worker, line = Line(ours), Line(theirs)
    relay = Relay(line, update=lambda job, news: updates.append((job["id"], news)), taken=lambda: taken)
    listening, *writing = [threading.Thread(target=work) for work in (relay.listen, line.write, worker.write)]
    for thread in (listening, *writing):
        thread.start()
    yield World(worker=worker, relay=relay, taken=taken, updates=updates)
    line.close()
    worker.close()
    for thread in writing:
        thread.join()
    ours.shutdown(socket.SHUT_RDWR)
    listening.join()
    ours.close()
    theirs.close()


async def test_a_job_goes_to_the_worker_and_its_answer_comes_back(world: World) -> None:
    """Taken, told of progress before the end, answered; done with once the SDK's task is over."""
    job = {"id": "a", "input": {"workflow": "x" * 200_000}}
    handling = asyncio.create_task(world.relay.handle(job))
    kind, ticket, body = await world.hears()
    assert (kind, body) == (Kind.TAKEN, job)
    world.worker.send(Kind.PROGRESS, ticket, {"percent": 5})
    assert await world.hears() == (Kind.TOLD, ticket, None)
    world.worker.send(Kind.RESULT, ticket, {"images": []})
    assert await handling == {"images": []}
    assert world.updates == [("a", {"percent": 5})]
    assert await world.hears() == (Kind.POSTED, ticket, None)


async def test_a_stop_reaches_the_worker_and_is_raised_again(world: World) -> None:
    """The SDK posts nothing then; what the worker still says of it reaches nobody."""
    handling = asyncio.create_task(world.relay.handle({"id": "a"}))
    _, ticket, _ = await world.hears()
    handling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handling
    assert await world.hears() == (Kind.STOPPED, ticket, None)
    assert await world.hears() == (Kind.POSTED, ticket, None)
    world.worker.send(Kind.RESULT, ticket, {"images": []})


async def test_the_same_id_twice_is_two_jobs(world: World) -> None:
    """RunPod may hand a job out again; each run of the handler gets its own answer."""
    first = asyncio.create_task(world.relay.handle({"id": "a"}))
    _, one, _ = await world.hears()
    second = asyncio.create_task(world.relay.handle({"id": "a"}))
    _, two, _ = await world.hears()
    world.worker.send(Kind.RESULT, two, 2)
    world.worker.send(Kind.RESULT, one, 1)
    assert await asyncio.gather(first, second) == [1, 2]


async def test_no_job_is_left_behind_when_there_is_no_room(world: World) -> None:
    """0 stops the SDK from taking, and from starting: not before all that it took has started."""
    assert world.relay.concurrency(1) == 1
    await said(world, Kind.ROOM, 2)
    assert world.relay.concurrency(1) == 2
    world.taken.append("a")
    await said(world, Kind.ROOM, 0)
    assert world.relay.concurrency(2) == 1
    handling = asyncio.create_task(world.relay.handle({"id": "a"}))
    _, ticket, _ = await world.hears()
    assert world.relay.concurrency(2) == 0
    world.worker.send(Kind.RESULT, ticket, 1)
    await handling


async def said(world: World, kind: Kind, body: Any) -> None:
    """Say something, and wait until it was heard: a job's own message behind it is."""
    world.worker.send(kind, body=body)
    taken, world.taken[:] = list(world.taken), []
    handling = asyncio.create_task(world.relay.handle({"id": "marker"}))
    _, ticket, _ = await world.hears()
    world.worker.send(Kind.RESULT, ticket)
    await handling
    await world.hears()
    world.taken[:] = taken


async def test_fitness_waits_for_the_worker(world: World) -> None:
    """The SDK begins when the worker is ready, and reports why when it will not be."""
    checking = asyncio.create_task(asyncio.to_thread(world.relay.comfyui))
    await asyncio.sleep(0)
    assert not checking.done()
    world.worker.send(Kind.UNFIT, body="ComfyUI does not answer")
    with pytest.raises(RuntimeError, match="ComfyUI does not answer"):
        await checking
    world.worker.send(Kind.FIT)


async def test_a_worker_that_is_ready_is_fit(world: World) -> None:
    """Then the check returns."""
    world.worker.send(Kind.FIT)
    await asyncio.to_thread(world.relay.comfyui)


def test_threads_that_a_call_starts_are_waited_for() -> None:
    """So one piece of progress is there before the next, and before the result."""
    done = list[str]()
    gate = threading.Event()

    def work() -> None:
        gate.wait(10)
        done.append("posted")

    def call() -> None:
        threading.Thread(target=work, daemon=True).start()
        gate.set()

    finish(call)
    assert done == ["posted"]


def test_frames_are_whole() -> None:
    """A message comes out as it went in, whatever its size and characters."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender, receiver = Line(ours), Line(theirs)
        body = {"text": "ü" * 3, "none": None, "numbers": [1, 2.5]}
        sender.send(Kind.RESULT, 7, body)
        sender.close()
        sender.write()
        assert receiver.receive() == Message(kind=Kind.RESULT, ticket=7, body=body)
        ours.close()
        assert receiver.receive() is None
