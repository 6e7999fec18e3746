"""Starting, supervising and ending the process's loops. The only module that creates tasks.

*Vital* loops end the process with their cause. *Best-effort* work goes through ``every``, which logs, counts, goes on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Self, TypeVar

from lib.clock import Clock, SystemClock

log = logging.getLogger(__name__)
T = TypeVar("T")


class Tasks:
    """Named tasks with an owner: an async context manager that cancels and awaits what is left when it closes.

    A *vital* task that fails sets ``failed``; ``lib.app`` waits on it. ``failure`` is its exception.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.failed = asyncio.Event()
        self.failure: BaseException | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.cancel()

    def spawn(self, work: Coroutine[Any, Any, T], *, name: str, vital: bool = False) -> asyncio.Task[T]:
        """Run ``work`` as a task; nobody else needs to keep a reference."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._vital_done if vital else self._done)
        return task

    async def cancel(self) -> None:
        """Cancel all tasks and wait until they are gone."""
        while tasks := [task for task in self._tasks if task is not asyncio.current_task()]:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task failed", extra={"event": "task.failed", "task": task.get_name()}, exc_info=error)

    def _vital_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("vital task failed", extra={"event": "task.vital_failed", "task": task.get_name()}, exc_info=error)
        self.failure = self.failure or error
        self.failed.set()


async def every(
    interval_s: float, work: Callable[[], Awaitable[object]], *, name: str, clock: Clock | None = None
) -> None:
    """Call ``work`` every ``interval_s`` seconds for ever; a failing tick is logged, the loop goes on."""
    clock = clock or SystemClock()
    while True:
        await clock.sleep(interval_s)
        try:
            await work()
        except Exception:  # one of the three edges that may catch everything
            log.exception("periodic work failed", extra={"event": "every.failed", "loop": name})
