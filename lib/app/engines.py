"""What the health of all engines together means for the worker."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from lib.app.condition import Condition
from lib.comfy.engine import ComfyEngine
from lib.jobs.queue import SlotQueue
from lib.jobs.service import JobService
from lib.telemetry.metrics import WorkerMetrics

log = logging.getLogger(__name__)
TROUBLE = "engines"


class EngineWatch:
    """Closes admission while no engine is healthy, opens it when one is back. For one that is only recycled, jobs wait.

    When none came back for ``patience_s`` seconds, the jobs that wait for one are failed with the cause.
    """

    def __init__(
        self,
        engines: Sequence[ComfyEngine],
        *,
        condition: Condition,
        queue: SlotQueue,
        service: JobService,
        metrics: WorkerMetrics,
        patience_s: float,
    ) -> None:
        self._engines = tuple(engines)
        self._condition = condition
        self._queue = queue
        self._service = service
        self._metrics = metrics
        self._patience_s = patience_s
        self._was_ready = False
        self._timer: asyncio.TimerHandle | None = None
        for engine in self._engines:
            engine.on_health(self._listener(engine))
            metrics.engine(engine.name, up=engine.healthy)

    async def wait_ready(self) -> None:
        """Return when all engines answer, or, after the patience, as soon as any does."""
        await self._wait_all()
        count = sum(engine.healthy for engine in self._engines)
        log.info("BACKENDS_READY: %d backend(s) reachable, ready to serve", count, extra={"event": "engines.ready"})
        self._was_ready = True

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
            self._judge()
            self._queue.dispatch()

        return changed

    def _judge(self) -> None:
        if any(engine.healthy for engine in self._engines):
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._was_ready:
                self._condition.cleared(TROUBLE)
        elif self._was_ready and not self._condition.draining:
            if not any(engine.recycling for engine in self._engines):
                self._condition.trouble(TROUBLE, f"ComfyUI is down: {self._reason()}")
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(self._patience_s, self._lost)

    def _lost(self) -> None:
        """Jobs that were still being prepared come to wait later: they are failed at the next turn of the timer."""
        log.error("BACKEND_UNRECOVERABLE: %s", self._reason(), extra={"event": "engines.lost"})
        self._condition.trouble(TROUBLE, f"ComfyUI is down: {self._reason()}")
        self._timer = asyncio.get_running_loop().call_later(self._patience_s, self._lost)
        self._service.engines_lost(self._reason())

    def _reason(self) -> str:
        return "; ".join(str(engine.down_reason) for engine in self._engines if engine.down_reason) or "unknown"
