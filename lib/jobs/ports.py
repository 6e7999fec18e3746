"""What the core needs from the outside, as protocols; ``lib.app`` plugs the implementations in."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from lib.jobs.model import Job, Output, Progress, Workflow


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A graph ready to post: inputs are local files, placeholders are drawn.

    ``caller_graph`` is what is echoed to the caller: the same graph before our own rewrites.
    ``fetched_inputs`` are files that this job brought in (paths), kept while it lives.
    """

    graph: Workflow
    caller_graph: Workflow
    fetched_inputs: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """A prompt that ended in success on an engine; ``token`` is the engine's own, for ``collect``."""

    engine: str
    prompt_id: str
    started_at: datetime
    execute_s: float
    """Seconds from ComfyUI's ``execution_start`` to its end, as ComfyUI's own stamps say where present."""
    token: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a finished prompt produced. ``response`` is ``{prompt_id: history entry, "execution_details": {...}}``
    with our rewrites undone and no inlined file data."""

    outputs: tuple[Output, ...]
    response: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Withdrawn(Exception):
    """The engine gave a pending prompt back on request: deleted, verified absent, never started."""


class ExecutionObserver(Protocol):
    """Told by the engine, on the event loop, while a prompt is with it. Calls must not block."""

    def posted(self, prompt_id: str) -> None: ...

    def started(self) -> None: ...

    def progressed(self, progress: Progress) -> None: ...


class Engine(Protocol):
    """One ComfyUI process. ``execute`` is called for at most two jobs at a time (one running, one pending)."""

    @property
    def name(self) -> str: ...

    @property
    def healthy(self) -> bool:
        """Whether a prompt may be posted now."""
        ...

    async def execute(
        self,
        job: Job,
        prepared: Prepared,
        *,
        observer: ExecutionObserver,
        withdraw: asyncio.Event,
        timeout_s: float | None,
    ) -> Execution:
        """Post the prompt and follow it to its end; return on success.

        When the task is cancelled, the prompt is deleted or interrupted and verified absent before
        ``CancelledError`` goes on. When ``withdraw`` is set before the prompt started, it is deleted, verified
        absent, and ``Withdrawn`` is raised; if it started meanwhile, ``withdraw`` is ignored.

        Raises: InvalidWorkflow, ExecutionFailed, OutOfMemory, JobTimeout, JobCancelled (interrupted by somebody
        else), EngineUnreachable (never posted), EngineDied, Withdrawn.
        """
        ...

    async def collect(self, job: Job, execution: Execution) -> Collected:
        """Turn ComfyUI's history of a finished prompt into outputs; forgets the history entry afterwards.

        Raises: ExecutionFailed (history says otherwise, or a wanted output did not run), EngineUnreachable.
        """
        ...


class Preparer(Protocol):
    """Brings inputs in and fills placeholders; engine-independent."""

    async def prepare(self, job: Job, workflow: Workflow) -> Prepared:
        """Raises: InvalidWorkflow, UnsafeInput, InputFetchFailed."""
        ...


class Delivery(Protocol):
    """Gets the outputs to where the caller asked; never loses a file because a target fails."""

    async def deliver(self, job: Job, outputs: tuple[Output, ...]) -> tuple[Output, ...]:
        """Return the outputs with ``url``, ``data_base64`` or the reason why not filled in."""
        ...


class CostModel(Protocol):
    """Size of a job in workload units, fixed at submit."""

    def cost(self, spec_cost: float | None, workflow: bytes) -> float: ...


class JobStore(Protocol):
    """Remembers jobs. ``finish`` writes the terminal state (and, in a durable store, its outbox) in one step."""

    async def add(self, job: Job) -> None: ...

    async def update(self, job: Job) -> None: ...

    async def finish(self, job: Job) -> None: ...

    async def get(self, job_id: str) -> Job | None: ...

    async def latest(self, request_id: str) -> Job | None:
        """The newest run of a request id."""
        ...


class LoadLedger(Protocol):
    """Exact load accounting of a worker; told by the core and by the dialect at the door, read by the reporter.

    Costs are in workload units. ``tag`` is a router's own number for a request (Vast: ``request_idx``), given back to
    it when the request is over; ``None`` and 0 mean that there is none. No call blocks.
    """

    def received(self, job: Job) -> None:
        """The job is accepted."""
        ...

    def finished(self, job: Job) -> None:
        """The job is terminal (completed, failed or cancelled, as its status says)."""
        ...

    def seen(self, number: int) -> None:
        """A request with this number of the router's (``reqnum``) arrived, whatever becomes of it."""
        ...

    def rejected(self, *, cost: float, tag: int | None) -> None:
        """Work was refused that another worker may take: no right, no room, no session left."""
        ...

    def invalid(self, *, tag: int | None) -> None:
        """A request was wrong in itself and never became a job: no load, but the router's number is free again."""
        ...

    def replayed(self, job: Job, *, tag: int | None) -> None:
        """A finished job answered one more request, of the number ``tag``: no new work, but the number is free."""
        ...

    def session_opened(self, session_id: str, *, cost: float, tag: int | None) -> None:
        """The session's cost is load until it is closed."""
        ...

    def session_joined(self, session_id: str, job_id: str) -> None:
        """The accepted job runs inside this session, whose cost already stands for it in the load."""
        ...

    def session_closed(self, session_id: str) -> None: ...


JobListener = Callable[[Job], None]
"""Called on the event loop with each new snapshot; must not block."""
