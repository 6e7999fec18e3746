"""Runs code of an operator's files: each call in a thread of its own, with a deadline, its faults told apart from ours.

Whatever such code does, the event loop goes on: what calculates for long, or waits without ``await``, holds its own
thread only. A thread can't be ended from outside; one that outlives its deadline keeps its seat until it returns, and
none of them keeps the process from ending.
"""

import asyncio
import contextvars
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TypeVar

from lib.errors import Overloaded, ServiceError
from lib.workflow.template import TemplateError

log = logging.getLogger(__name__)
T = TypeVar("T")
SEATS = 8
GRACE_S = 1.0
"""A coroutine is stopped later than the caller stops waiting, so that the caller is who says why."""


class ForeignError(Exception):
    """An operator's code failed. The text is ``<type>: <message>``; the cause is the exception itself."""


class Runner:
    """Threads for operators' code, at most ``seats`` at a time."""

    def __init__(self, *, seats: int = SEATS) -> None:
        self._seats = asyncio.Semaphore(seats)

    async def run(self, work: Callable[[], T], *, limit_s: float, name: str) -> T:
        """Return what ``work`` returns, from a thread.

        Raises: ForeignError, or the ServiceError or TemplateError that ``work`` raised; TimeoutError when it takes
        longer than ``limit_s``; Overloaded when no thread was free as long as that.
        """
        try:
            async with asyncio.timeout(limit_s):
                await self._seats.acquire()
        except TimeoutError:
            raise Overloaded("All threads for workflow files are taken; some of their code may never end.") from None
        loop, future = asyncio.get_running_loop(), Future[T]()
        future.set_running_or_notify_cancel()  # from here on nobody takes the result's place
        future.add_done_callback(partial(self._free, loop))
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(_fulfil, future, work), name=name, daemon=True).start()
        try:
            async with asyncio.timeout(limit_s):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            log.warning(
                "code of a workflow file takes too long",
                extra={"event": "workflow.slow", "name_": name, "limit_s": limit_s},
            )
            raise

    def _free(self, loop: asyncio.AbstractEventLoop, _: object) -> None:
        """Called in the thread that ends."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._seats.release)


def finish(result: T | Awaitable[T], *, limit_s: float) -> T:
    """Return a result, or wait in this thread, with an event loop of its own, for one that comes later."""
    if not inspect.isawaitable(result):
        return result
    waiting: Awaitable[T] = result

    async def wait() -> T:
        async with asyncio.timeout(limit_s + GRACE_S):
            return await waiting

    return asyncio.run(wait())


def _fulfil(future: "Future[T]", work: Callable[[], T]) -> None:
    try:
        future.set_result(_guarded(work))
    except (ServiceError, TemplateError, ForeignError) as error:
        future.set_exception(error)


def _guarded(work: Callable[[], T]) -> T:
    try:
        return work()
    except (ServiceError, TemplateError):
        raise
    except Exception as error:
        raise ForeignError(_described(error)) from error
    except (SystemExit, asyncio.CancelledError) as error:
        raise ForeignError(_described(error)) from error


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
