"""What the health of all engines together means for the worker, and that a restarted one is warm before it works."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from lib.app.boot import Warm
from lib.app.condition import Condition
from lib.clock import Clock
from lib.comfy.engine import ComfyEngine
from lib.comfy.ports import Server
from lib.errors import ServiceError
from lib.jobs.queue import SlotQueue
from lib.jobs.service import JobService
from lib.lifecycle import Tasks
from lib.telemetry.metrics import WorkerMetrics

log = logging.getLogger(__name__)
TROUBLE = "engines"
WARMING = "ComfyUI was restarted and runs the warm-up again"


class EngineWatch:
    """Closes admission while no engine is fit, opens it when one is back. For one that is only recycled, jobs wait.

    When none came back for ``patience_s`` seconds, the jobs that wait for one are failed with the cause. ``servers``
    are the engines', in the same order. A warm-up that fails is tried again after ``retry_s`` seconds.
    """

    def __init__(
        self,
        engines: Sequence[ComfyEngine],
        *,
        servers: Sequence[Server],
        condition: Condition,
        queue: SlotQueue,
        service: JobService,
        metrics: WorkerMetrics,
        tasks: Tasks,
        clock: Clock,
        patience_s: float,
        retry_s: float,
    ) -> None:
        self._engines = tuple(engines)
        self._servers = {engine.name: server for engine, server in zip(engines, servers, strict=True)}
        self._condition = condition
        self._queue = queue
        self._service = service
        self._metrics = metrics
        self._tasks = tasks
        self._clock = clock
        self._patience_s = patience_s
        self._retry_s = retry_s
        self._was_ready = False
        self._timer: asyncio.TimerHandle | None = None
        self._warm: Warm | None = None
        self._warmed: dict[str, int] = {}
        """The generation of each engine that was warmed up."""
        self._cold: dict[str, str] = {}
        """Engines that are warmed up, or could not be: why."""
        self._planned: set[str] = set()
        """Engines whose last end was planned."""
        for engine in self._engines:
            engine.on_health(self._listener(engine))
            metrics.engine(engine.name, up=engine.healthy)

    async def wait_ready(self) -> None:
        """Return when all engines answer, or, after the patience, as soon as any does."""
        await self._wait_all()
        count = sum(engine.healthy for engine in self._engines)
        log.info("BACKENDS_READY: %d backend(s) reachable, ready to serve", count, extra={"event": "engines.ready"})
        self._was_ready = True

    def keep_warm(self, warm: Warm | None) -> None:
        """From now on an engine that was started anew does nothing before it was warmed up; those that are up are."""
        self._warm = warm
        up = (engine.name for engine in self._engines if engine.healthy)
        self._warmed = {name: self._servers[name].generation for name in up}

    async def _wait_all(self) -> None:
        waits = [asyncio.ensure_future(engine.wait_ready()) for engine in self._engines]  # noqa: TID251 - awaited here
        try:
            _, late = await asyncio.wait(waits, timeout=self._patience_s)
            if not late:
                return
            reasons = "; ".join(
                f"{engine.name}: {engine.down_reason}" for engine in self._engines if not engine.healthy
            )
            log.error(
                "BACKENDS_READY_TIMEOUT: not all of %d backend(s) reachable after %.0fs",
                len(self._engines),
                self._patience_s,
                extra={"event": "engines.late", "reasons": reasons},
            )
            if len(late) == len(waits):
                text = f"ComfyUI does not answer after {self._patience_s:.0f} s ({reasons})"
                self._condition.trouble(TROUBLE, text)
                self._service.engines_lost(text)  # jobs that were accepted while the worker started
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                self._condition.cleared(TROUBLE)
        finally:
            for wait in waits:
                wait.cancel()

    def _listener(self, engine: ComfyEngine) -> Callable[[bool], None]:
        def changed(healthy: bool) -> None:
            self._metrics.engine(engine.name, up=healthy)
            if healthy:
                self._check_warm(engine.name)
            elif engine.recycling:
                self._planned.add(engine.name)
            else:
                self._planned.discard(engine.name)
            self._judge()
            self._queue.dispatch()

        return changed

    # -- warm ----------------------------------------------------------------------------------------------------

    def _check_warm(self, name: str) -> None:
        """Before anybody is given a turn on it."""
        if self._warm is None or name in self._cold or self._is_warm(name):
            return
        self._cold[name] = WARMING
        self._queue.reserve(name)
        self._tasks.spawn(self._warm_up(name, self._warm), name=f"warm-up {name}")

    def _is_warm(self, name: str) -> bool:
        return self._warmed.get(name) == self._servers[name].generation

    async def _warm_up(self, name: str, warm: Warm) -> None:
        """Until it succeeds. What ends meanwhile is waited for by the run itself."""
        while not self._is_warm(name):
            generation = self._servers[name].generation
            try:
                await warm(name)
            except ServiceError as error:
                self._cold[name] = f"the warm-up after the restart of ComfyUI failed: {error.message}"
                log.warning("%s", self._cold[name], extra={"event": "engine.cold", "engine": name})
                self._judge()
                await self._clock.sleep(self._retry_s)
            else:
                self._warmed[name] = generation
        del self._cold[name]
        log.info("warm again", extra={"event": "engine.warm", "engine": name})
        self._queue.open(name)
        self._judge()

    # -- what it means -------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        up = [engine.name for engine in self._engines if engine.healthy]
        if any(name not in self._cold for name in up):
            self._calm()
            if self._was_ready:
                self._condition.cleared(TROUBLE)
            return
        if not self._was_ready or self._condition.draining:
            return
        if not any(engine.recycling or engine.name in self._planned for engine in self._engines):
            self._condition.trouble(TROUBLE, self._trouble())
        if any(self._cold[name] == WARMING for name in up):
            self._calm()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._patience_s, self._lost)

    def _calm(self) -> None:
        """Jobs need not be given up."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _lost(self) -> None:
        """Jobs that were still being prepared come to wait later: they are failed at the next turn of the timer."""
        log.error("BACKEND_UNRECOVERABLE: %s", self._reason(), extra={"event": "engines.lost"})
        self._condition.trouble(TROUBLE, self._trouble())
        self._timer = asyncio.get_running_loop().call_later(self._patience_s, self._lost)
        self._service.engines_lost(self._reason())

    def _trouble(self) -> str:
        reason = self._reason()
        return reason if any(engine.healthy for engine in self._engines) else f"ComfyUI is down: {reason}"

    def _reason(self) -> str:
        reasons = (self._cold.get(engine.name) if engine.healthy else engine.down_reason for engine in self._engines)
        return "; ".join(reason for reason in reasons if reason) or "unknown"
