"""An engine under the test's control: prompts start and end when the test says so."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from lib.errors import EngineDied, ServiceError
from lib.jobs.model import Job, Output, OutputKind, Workflow
from lib.jobs.ports import Collected, Execution, ExecutionObserver, Prepared, Withdrawn


class Posted:
    """One prompt that is with the engine."""

    def __init__(self, job: Job, observer: ExecutionObserver) -> None:
        self.job = job
        self.observer = observer
        self.running = False
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class FakeEngine:
    """Implements ``lib.jobs.ports.Engine``. The first posted prompt runs, the next one is pending, as in ComfyUI.

    ``automatic`` ends each prompt as soon as it runs.
    """

    def __init__(self, name: str = "gpu0", *, automatic: bool = False) -> None:
        self.name = name
        self.healthy = True
        self.automatic = automatic
        self.posted: list[Posted] = []
        self.ran: list[str] = []
        self.cancelled: list[str] = []
        self.kept: set[str] = set()
        """Prompt ids that an earlier life of the worker posted."""
        self.most_posted = 0
        self.collect_errors: list[ServiceError] = []
        self.removal: asyncio.Event | None = None
        """A cancelled prompt is off the engine when this is set, where there is one."""

    async def execute(
        self,
        job: Job,
        prepared: Prepared,
        *,
        observer: ExecutionObserver,
        withdraw: asyncio.Event,
        timeout_s: float | None,
        prompt_id: str,
        attach: bool = False,
    ) -> Execution:
        entry = Posted(job, observer)
        self.posted.append(entry)
        self.most_posted = max(self.most_posted, len(self.posted))
        observer.posted(prompt_id)
        self._start_next()
        asked = asyncio.ensure_future(withdraw.wait())
        try:
            await asyncio.wait({entry.end, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not entry.end.done() and not entry.running:
                raise Withdrawn
            await entry.end
            return Execution(engine=self.name, prompt_id="p", started_at=datetime.now(UTC), execute_s=1.0)
        except asyncio.CancelledError:
            self.cancelled.append(job.spec.request_id)
            if self.removal is not None:
                await self.removal.wait()
            raise
        finally:
            asked.cancel()
            if entry in self.posted:
                self.posted.remove(entry)
            self._start_next()

    async def holds(self, prompt_ids: Sequence[str]) -> str | None:
        return next((name for name in prompt_ids if name in self.kept), None)

    async def collect(self, job: Job, execution: Execution) -> Collected:
        if self.collect_errors:
            raise self.collect_errors.pop()
        output = Output(node_id="9", kind=OutputKind.IMAGE, source_key="images", filename="a.png", size_bytes=10)
        return Collected(outputs=(output,), response={"p": {}})

    def finish(self, error: ServiceError | None = None) -> None:
        """End the running prompt."""
        running = next(entry for entry in self.posted if entry.running)
        if error is None:
            running.end.set_result(None)
        else:
            running.end.set_exception(error)

    def die(self) -> None:
        """ComfyUI is gone, with everything it held."""
        self.healthy = False
        for entry in self.posted:
            entry.end.set_exception(EngineDied("ComfyUI ended with code -9", started=entry.running))

    def _start_next(self) -> None:
        if not self.healthy or not self.posted or any(entry.running for entry in self.posted):
            return
        entry = self.posted[0]
        entry.running = True
        self.ran.append(entry.job.spec.request_id)
        entry.observer.started()
        if self.automatic and not entry.end.done():
            entry.end.set_result(None)


class FakePreparer:
    """Implements ``lib.jobs.ports.Preparer``; a job named in ``held`` waits there until it is released."""

    def __init__(self) -> None:
        self.held: dict[str, asyncio.Event] = {}
        self.error: ServiceError | None = None

    async def prepare(self, job: Job, workflow: Workflow) -> Prepared:
        if self.error is not None:
            raise self.error
        if (event := self.held.get(job.spec.request_id)) is not None:
            await event.wait()
        return Prepared(graph=workflow, caller_graph=workflow)


class FakeDelivery:
    """Implements ``lib.jobs.ports.Delivery``; a clear ``gate`` holds all but the jobs named in ``ungated``."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.delivered: list[str] = []
        self.ungated: set[str] = set()

    async def deliver(self, job: Job, outputs: tuple[Output, ...]) -> tuple[Output, ...]:
        if job.spec.request_id not in self.ungated:
            await self.gate.wait()
        self.delivered.append(job.spec.request_id)
        return outputs


class FakeLedger:
    """Implements ``lib.jobs.ports.LoadLedger`` as two lists."""

    def __init__(self) -> None:
        self.received_jobs: list[str] = []
        self.finished_jobs: list[tuple[str, Any]] = []

    def received(self, job: Job) -> None:
        self.received_jobs.append(job.spec.request_id)

    def finished(self, job: Job) -> None:
        self.finished_jobs.append((job.spec.request_id, job.status))


class ConstantCost:
    """Implements ``lib.jobs.ports.CostModel``."""

    def cost(self, spec_cost: float | None, workflow: bytes) -> float:
        return spec_cost if spec_cost is not None else 100.0
