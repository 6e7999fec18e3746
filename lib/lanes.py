"""Threads of our own for short blocking calls that every job makes; a hop costs two thirds of an executor's.

What is rare or long goes through ``asyncio.to_thread`` as ever.
"""

import asyncio
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")
_Call = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[[], Any]]


class Lane:
    """At most ``count`` threads, started as they are needed; they end when this is closed, or gone. With one thread
    calls are made in their order."""

    def __init__(self, count: int, *, name: str) -> None:
        self._count = count
        self._name = name
        self._threads: list[Thread] = []
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._end = weakref.finalize(self, _end, self._calls, self._threads)

    def run(self, call: Callable[[], T]) -> "asyncio.Future[T]":
        """Make a call in a thread; the future has what it returns or raises, unless it is cancelled first."""
        if not self._end.alive:
            raise RuntimeError("the threads have ended")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._calls.put((loop, future, call))
        if len(self._threads) < self._count:
            thread = Thread(target=_work, args=(self._calls,), name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def close(self) -> None:
        """Make the calls that wait, then end the threads. Blocking; nothing may be run after it."""
        self._end()
        for thread in self._threads:
            thread.join()


def _end(calls: "SimpleQueue[_Call | None]", threads: list[Thread]) -> None:
    for _ in threads:
        calls.put(None)


def _work(calls: "SimpleQueue[_Call | None]") -> None:
    while (asked := calls.get()) is not None:
        loop, future, call = asked
        value = error = None
        try:
            value = call()
        except BaseException as raised:  # noqa: BLE001 - it is told to whom it concerns
            error = raised
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_settle, future, value, error)
        del asked, future, call, value, error  # a thread that waits keeps nothing alive


def _settle(future: "asyncio.Future[Any]", value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
