"""An engine under the test's control: prompts start and end when the test says so."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

from lib.errors import EngineDied, EngineUnreachable, ExecutionFailed, ServiceError
from lib.jobs.model import Job, Output, OutputKind, Preview, Progress, Workflow
from lib.jobs.ports import Aside, Collected, Execution, ExecutionObserver, Prepared, Tell, Withdrawn, untold


class Silent:
    """Implements ``lib.jobs.ports.ExecutionObserver``: nobody is there any more."""

    def posted(self, prompt_id: str) -> None: ...

    def started(self) -> None: ...

    def progressed(self, progress: Progress) -> None: ...

    def previewed(self, preview: Preview) -> None: ...


class Posted:
    """One prompt that is with the engine."""

    def __init__(self, job: Job, prompt_id: str, observer: ExecutionObserver) -> None:
        self.job = job
        self.prompt_id = prompt_id
        self.observer = observer
        self.running = False
        self.owned = True
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
        self.history: dict[str, tuple[Job, ServiceError | None]] = {}
        """Prompts that ended while their worker was away, and how."""
        self.ran: list[str] = []
        self.cancelled: list[str] = []
        self.attached: list[str] = []
        self.forgotten: list[str] = []
        self.most_posted = 0
        self.execute_s = 1.0
        self.deaf = False
        """It can't be asked for its prompts."""
        self.collect_errors: list[ServiceError] = []
        self.left_files = True
        """Whether there is a file of a prompt in which a node failed."""
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
        if not self.healthy:
            raise EngineUnreachable("refused")
        entry = self._attach(prompt_id, observer) if attach else None
        if entry is None:
            entry = Posted(job, prompt_id, observer)
            self.posted.append(entry)
            self.most_posted = max(self.most_posted, len(self.posted))
            observer.posted(prompt_id)
        self._start_next()
        return await self._follow(entry, withdraw)

    async def holds(self, prompt_ids: Sequence[str]) -> str | None:
        if self.deaf:
            raise EngineUnreachable("no answer")
        held = {*self.history, *(entry.prompt_id for entry in self.posted)}
        return next((name for name in prompt_ids if name in held), None)

    async def collect(self, job: Job, execution: Execution) -> Collected:
        if self.collect_errors:
            raise self.collect_errors.pop()
        if execution.failure is not None and not self.left_files:
            raise execution.failure
        problems = (execution.failure.message,) if execution.failure is not None else ()
        output = Output(node_id="9", kind=OutputKind.IMAGE, source_key="images", filename="a.png", size_bytes=10)
        return Collected(outputs=(output,), response={"p": {}}, warnings=problems, problems=problems)

    def forget(self, prompt_id: str) -> None:
        self.history.pop(prompt_id, None)
        self.forgotten.append(prompt_id)

    def finish(self, error: ServiceError | None = None) -> None:
        """End the running prompt."""
        running = next(entry for entry in self.posted if entry.running)
        if not running.owned:
            self.history[running.prompt_id] = running.job, error
            self.posted.remove(running)
            self._start_next()
        elif error is None:
            running.end.set_result(None)
        else:
            running.end.set_exception(error)

    def die(self) -> None:
        """ComfyUI is gone, with everything it held."""
        self.healthy = False
        self.history.clear()
        for entry in [entry for entry in self.posted if entry.owned]:
            entry.end.set_exception(EngineDied("ComfyUI ended with code -9", started=entry.running))
        self.posted = [entry for entry in self.posted if entry.owned]

    def lose(self) -> None:
        """ComfyUI came up anew and empty."""
        self.die()
        self.healthy = True

    def sever(self) -> None:
        """The worker was killed: its prompts stay, and nobody hears of them any more."""
        for entry in self.posted:
            entry.observer, entry.owned = Silent(), False
            entry.end = asyncio.get_running_loop().create_future()

    def _attach(self, prompt_id: str, observer: ExecutionObserver) -> Posted | None:
        if prompt_id in self.history:
            self.attached.append(prompt_id)
            job, error = self.history.pop(prompt_id)
            entry = Posted(job, prompt_id, observer)
            observer.posted(prompt_id)
            observer.started()
            entry.running = True
            entry.end.set_result(None) if error is None else entry.end.set_exception(error)
            return entry
        found = next((entry for entry in self.posted if entry.prompt_id == prompt_id), None)
        if found is not None:
            self.attached.append(prompt_id)
            found.observer, found.owned = observer, True
            observer.posted(prompt_id)
            if found.running:
                observer.started()
        return found

    async def _follow(self, entry: Posted, withdraw: asyncio.Event) -> Execution:
        end = entry.end
        asked = asyncio.ensure_future(withdraw.wait())
        try:
            await asyncio.wait({end, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not end.done() and not entry.running:
                raise Withdrawn
            failure = await _failure(end, keep=entry.job.spec.keep_partial)
            return Execution(
                engine=self.name,
                prompt_id=entry.prompt_id,
                started_at=datetime.now(UTC),
                execute_s=self.execute_s,
                failure=failure,
                partial=failure is not None,
            )
        except asyncio.CancelledError:
            if entry.end is end:
                self.cancelled.append(entry.job.spec.request_id)
                if self.removal is not None:
                    await self.removal.wait()
            raise
        finally:
            asked.cancel()
            if entry.end is end and entry in self.posted:
                self.posted.remove(entry)
            self._start_next()

    def _start_next(self) -> None:
        if not self.healthy or not self.posted or any(entry.running for entry in self.posted):
            return
        entry = self.posted[0]
        entry.running = True
        self.ran.append(entry.job.spec.request_id)
        entry.observer.started()
        if self.automatic and not entry.end.done():
            self.finish()


async def _failure(end: "asyncio.Future[None]", *, keep: bool) -> ExecutionFailed | None:
    try:
        await asyncio.shield(end)
    except ExecutionFailed as error:
        if not keep:
            raise
        return error
    return None


class FakePreparer:
    """Implements ``lib.jobs.ports.Preparer``; a job named in ``held`` waits there until it is released."""

    def __init__(self) -> None:
        self.held: dict[str, asyncio.Event] = {}
        self.error: ServiceError | None = None
        self.begun: list[str] = []
        self.steps_aside = False

    async def prepare(
        self, job: Job, workflow: Workflow, *, tell: Tell = untold, aside: Aside = nullcontext
    ) -> Prepared:
        self.begun.append(job.spec.request_id)
        if self.error is not None:
            raise self.error
        if (event := self.held.get(job.spec.request_id)) is not None:
            with aside() if self.steps_aside else nullcontext():
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
    """Implements the part of ``lib.jobs.ports.LoadLedger`` that the core calls, as two lists."""

    def __init__(self) -> None:
        self.received_jobs: list[str] = []
        self.finished_jobs: list[tuple[str, Any]] = []

    def received(self, job: Job) -> None:
        self.received_jobs.append(job.spec.request_id)

    def finished(self, job: Job) -> None:
        self.finished_jobs.append((job.spec.request_id, job.status))
