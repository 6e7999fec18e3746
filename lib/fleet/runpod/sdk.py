"""Runs RunPod's own SDK, in a process that the worker starts: ``python -m lib.fleet.runpod.sdk SOCKET [--refresh]``.

The SDK takes jobs, stops them, posts results and heartbeats; its handler here hands each job to the worker over the
socket. It has a process of its own because it wants one: ``runpod.serverless.start`` sets signal handlers, which only
a main thread may; its heartbeat forks, and a fork of the worker would hold the worker's listeners and its signals; a
failed fitness check ends the process on the spot, which here leaves the worker the time to end in order.

Nothing of the worker is imported but the frames.
"""

import argparse
import asyncio
import itertools
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from lib.fleet.runpod.frames import HEAD, Kind, Message, parse

Job = Mapping[str, Any]
PROGRESS_PATIENCE_S = 10.0


class Line:
    """The socket to the worker. Any thread may send, and none waits for it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._outgoing: queue.SimpleQueue[Message | None] = queue.SimpleQueue()

    def send(self, kind: Kind, ticket: int = 0, body: Any = None) -> None:
        self._outgoing.put(Message(kind=kind, ticket=ticket, body=body))

    def close(self) -> None:
        """Nothing more will be sent."""
        self._outgoing.put(None)

    def write(self) -> None:
        """Send what there is to send until the line is closed. Blocks; runs in a thread of its own."""
        while (message := self._outgoing.get()) is not None:
            self._connection.sendall(message.to_frame())

    def receive(self) -> Message | None:
        """Return the next message; ``None`` when the worker is gone."""
        head = self._exactly(HEAD.size)
        content = head and self._exactly(*HEAD.unpack(head))
        return parse(content) if content else None

    def _exactly(self, size: int) -> bytes:
        parts = bytearray(size)
        view, filled = memoryview(parts), 0
        while filled < size:
            count = self._connection.recv_into(view[filled:])
            if not count:
                return b""
            filled += count
        return bytes(parts)


class Relay:
    """What the SDK calls. ``update`` posts one piece of progress and returns when it is there; ``taken`` gives the ids
    of all jobs that the SDK has taken and not done with."""

    def __init__(
        self, line: Line, *, update: Callable[[Job, Any], None], taken: Callable[[], list[str]], room: int = 1
    ) -> None:
        self._line = line
        self._update = update
        self._taken = taken
        self._room = room
        self._tickets = itertools.count(1)
        self._inboxes: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Queue[Message]]] = {}
        self._begun: dict[int, str] = {}
        self._judged = threading.Event()
        self._unfit: str | None = None

    def comfyui(self) -> None:
        """The fitness check that RunPod sees by this name: return when the worker is ready.

        Raises: RuntimeError with the reason why it will not be."""
        self._judged.wait()
        if self._unfit is not None:
            raise RuntimeError(self._unfit)

    def concurrency(self, current: int) -> int:
        """Say how many jobs may be in hand; called before each take.

        With 0 the SDK takes none and asks again each second. But then it starts none either: a job that it took and
        did not start yet would stay behind, so until it has started, the limit is what is in hand."""
        if self._room:
            return self._room
        taken = self._taken()
        return 0 if set(taken) <= set(self._begun.values()) else len(taken)

    async def handle(self, job: Job) -> Any:
        """Have the worker do one job; return its answer. Cancelled when RunPod stops the job."""
        ticket, task = next(self._tickets), asyncio.current_task()
        inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._inboxes[ticket] = asyncio.get_running_loop(), inbox
        self._begun[ticket] = str(job["id"])
        if task is not None:  # the SDK posts the result in this very task
            task.add_done_callback(lambda _: self._done(ticket))
        try:
            self._line.send(Kind.TAKEN, ticket, job)
            while (message := await inbox.get()).kind is Kind.PROGRESS:
                await asyncio.to_thread(self._update, job, message.body)
                self._line.send(Kind.TOLD, ticket)
            return message.body
        except asyncio.CancelledError:
            self._line.send(Kind.STOPPED, ticket)
            raise
        finally:
            del self._inboxes[ticket]

    def listen(self) -> None:
        """Take what the worker says until it is gone. Blocks; runs in a thread of its own."""
        while (message := self._line.receive()) is not None:
            if message.kind is Kind.ROOM:
                self._room = message.body
            elif message.kind in (Kind.FIT, Kind.UNFIT):
                self._unfit = message.body
                self._judged.set()
            elif (found := self._inboxes.get(message.ticket)) is not None:
                loop, inbox = found
                loop.call_soon_threadsafe(inbox.put_nowait, message)

    def _done(self, ticket: int) -> None:
        del self._begun[ticket]
        self._line.send(Kind.POSTED, ticket)


def finish(call: Callable[[], None]) -> None:
    """Call, and wait for the threads that it started. The SDK posts progress from one, and gives no handle on it."""
    before = set(threading.enumerate())
    call()
    for thread in set(threading.enumerate()) - before:
        if thread.daemon:
            thread.join(PROGRESS_PATIENCE_S)


def main() -> int:
    """Serve until the SDK ends; the exit status is what it makes of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("socket", type=int)
    parser.add_argument("--refresh", action="store_true")
    options = parser.parse_args()
    del sys.argv[1:]  # the SDK reads them as well

    from runpod import serverless
    from runpod.serverless.modules.worker_state import JobsProgress

    line = Line(socket.socket(fileno=options.socket))
    relay = Relay(
        line,
        update=lambda job, news: finish(lambda: serverless.progress_update(job, news)),
        taken=lambda: [str(job) for job in JobsProgress()],
    )
    threading.Thread(target=line.write, daemon=True).start()
    threading.Thread(target=_listen, args=(relay,), daemon=True).start()
    serverless.register_fitness_check(relay.comfyui)
    serverless.start(
        {"handler": relay.handle, "concurrency_modifier": relay.concurrency, "refresh_worker": options.refresh}
    )
    return 0


def _listen(relay: Relay) -> None:
    """A worker that is gone leaves nothing to do: end, with the heartbeat that the SDK forked."""
    try:
        relay.listen()
    finally:
        os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
