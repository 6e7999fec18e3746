"""Jobs that are accepted while the worker starts, and wait here until it is ready."""

import asyncio
from collections.abc import Awaitable, Callable

from lib.errors import ServiceError
from lib.jobs.live import LiveJob
from lib.jobs.model import JobSpec
from lib.lifecycle import Tasks

WAITING = "Waiting for the worker to be ready"
READY = "The worker is ready"


class Patience:
    """``starting`` says whether the worker comes up (it is not ready, and nothing is wrong); ``until_ready`` returns
    when it is ready, ``None``: nobody waits for that."""

    def __init__(
        self, *, starting: Callable[[], bool], until_ready: Callable[[], Awaitable[object]] | None, tasks: Tasks
    ) -> None:
        self._starting = starting
        self._until_ready = until_ready
        self._tasks = tasks
        self._watch: asyncio.Task[None] | None = None
        self._waiting: dict[asyncio.Future[None], None] = {}

    def holds(self, spec: JobSpec) -> bool:
        """Whether a job that comes now waits here."""
        return spec.patient and not spec.internal and self._until_ready is not None and self._starting()

    async def wait(self, live: LiveJob) -> None:
        """Return when the worker is ready for this job, in the order of their coming. Raises what ``fail`` is given."""
        until_ready = self._until_ready
        if until_ready is None or live.recovered or not self.holds(live.job.spec):
            return
        if self._watch is None or self._watch.done():
            self._watch = self._tasks.spawn(self._open(until_ready), name="patient jobs")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = None
        try:
            await turn
        finally:
            self._waiting.pop(turn, None)
        live.change(message=READY)

    def fail(self, error: ServiceError) -> None:
        """It will not be ready: tell everybody who waits."""
        for turn in self._waiting:
            if not turn.done():
                turn.set_exception(error)

    async def _open(self, until_ready: Callable[[], Awaitable[object]]) -> None:
        try:
            await until_ready()
        except ServiceError as error:
            self.fail(error)
            return
        for turn in self._waiting:
            if not turn.done():
                turn.set_result(None)
