"""What the core needs from the outside, as protocols; ``lib.app`` plugs the implementations in."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from lib.errors import ExecutionFailed
from lib.jobs.model import (
    Idempotency,
    Job,
    JobEvent,
    JobFilter,
    OutboxItem,
    Output,
    Preview,
    Progress,
    Workflow,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """A file that a job brought in. ``name`` is what the graph calls it, below an engine's input folder; ``engines``
    are those that have it, each with its ``generation`` then. ``hold`` keeps the file at ``path`` while this lives."""

    path: str
    name: str
    engines: frozenset[tuple[str, int]] = frozenset()
    hold: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A graph ready to post: inputs are local files, placeholders are drawn.

    ``caller_graph`` is what is echoed to the caller: the same graph before our own rewrites.
    ``fetched_inputs`` are files that this job brought in (paths), kept while it lives; ``files`` are the same as an
    engine sees them, which may have been down, or not had them, when the job was prepared.
    """

    graph: Workflow
    caller_graph: Workflow
    fetched_inputs: tuple[str, ...] = ()
    files: tuple[InputFile, ...] = ()
    holds: tuple[object, ...] = field(default=(), repr=False)
    """What must stay while this lives: files that are not its own, such as models, are kept by objects for them."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """A prompt that ended on an engine, in success unless it has a ``failure``; ``token`` is the engine's own, for
    ``collect``."""

    engine: str
    prompt_id: str
    started_at: datetime
    execute_s: float
    """Seconds from ComfyUI's ``execution_start`` to its end, as ComfyUI's own stamps say where present."""
    token: Any = None
    failure: ExecutionFailed | None = None
    """The node that failed, of a job that keeps partial results: ``collect`` has what was there, or raises this."""
    partial: bool = False
    """Not all that was asked for ran: what it took is no measure of such work."""
    node_starts_s: Mapping[str, float] = field(default_factory=dict)
    """See ``Timings``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a finished prompt produced. ``response`` is ``{prompt_id: history entry, "execution_details": {...}}``
    with our rewrites undone and no inlined file data."""

    outputs: tuple[Output, ...]
    response: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    """Those of the ``warnings`` that tell what is missing."""


class Withdrawn(Exception):
    """The engine gave a pending prompt back on request: deleted, verified absent, never started."""


class ExecutionObserver(Protocol):
    """Told by the engine, on the event loop, while a prompt is with it. Calls must not block."""

    def posted(self, prompt_id: str) -> None: ...

    def started(self) -> None: ...

    def progressed(self, progress: Progress) -> None: ...

    def previewed(self, preview: Preview) -> None: ...


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
        prompt_id: str,
        attach: bool = False,
    ) -> Execution:
        """Post the prompt as ``prompt_id`` and follow it to its end; return on success, and where a node failed in a
        job that keeps partial results (``JobSpec.keep_partial``).

        With ``attach`` an earlier life of this worker may have posted it under this id already: if ComfyUI has it
        (running, pending, or in its history) it is followed from there and not posted again; otherwise it is posted.
        EngineUnreachable leaves open whether ComfyUI has it: ask ``holds`` before it is posted under another id.

        When the task is cancelled, the prompt is deleted or interrupted and verified absent before
        ``CancelledError`` goes on. When ``withdraw`` is set before the prompt started, it is deleted, verified
        absent, and ``Withdrawn`` is raised; if it started meanwhile, ``withdraw`` is ignored.

        Raises: InvalidWorkflow, ExecutionFailed, OutOfMemory, JobTimeout, JobCancelled (interrupted by somebody
        else), EngineUnreachable (never posted), EngineDied, Withdrawn.
        """
        ...

    async def holds(self, prompt_ids: Sequence[str]) -> str | None:
        """Return which of these prompts ComfyUI has in its queue, or as finished in its history; ``None`` for none.

        Raises: EngineUnreachable."""
        ...

    async def collect(self, job: Job, execution: Execution) -> Collected:
        """Turn ComfyUI's history of a finished prompt into outputs. The entry stays until ``forget``, unless this
        raises.

        Raises: ExecutionFailed (history says otherwise, or a wanted output did not run; ``execution.failure`` where
        no file is left of it), EngineUnreachable.
        """
        ...

    def forget(self, prompt_id: str) -> None:
        """What was collected is recorded: the history entry may go, soon."""
        ...


Tell = Callable[[str], None]
"""Takes a sentence on how far it is, for the caller; must not block."""


def untold(text: str) -> None:
    """A ``Tell`` that nobody listens to."""


class Away(Protocol):
    """A block in which a job waits for something slow, so that others are prepared meanwhile."""

    def __enter__(self) -> object: ...

    def __exit__(self, *exc: object) -> None: ...


Aside = Callable[[], Away]


class Preparer(Protocol):
    """Brings inputs in and fills placeholders; engine-independent."""

    async def prepare(
        self, job: Job, workflow: Workflow, *, tell: Tell = untold, aside: Aside = nullcontext
    ) -> Prepared:
        """Raises: InvalidWorkflow, UnsafeInput, InputFetchFailed."""
        ...


class Delivery(Protocol):
    """Gets the outputs to where the caller asked; never loses a file because a target fails."""

    async def deliver(self, job: Job, outputs: tuple[Output, ...]) -> tuple[Output, ...]:
        """Return the outputs with ``url``, ``data_base64`` or the reason why not filled in."""
        ...


class Announcer(Protocol):
    """Renders what webhooks are told."""

    def messages(self, job: Job, event: JobEvent) -> tuple[OutboxItem, ...]:
        """Return one message for each of the job's webhooks that wants this event. Pure: a job with large files in it
        is rendered in a thread."""
        ...

    def stored(self, items: tuple[OutboxItem, ...]) -> None:
        """The messages are recorded: send them."""
        ...


class JobStore(Protocol):
    """Remembers jobs. A durable one has written when ``add``, ``write`` and ``finish`` return; ``update`` returns at
    once and is written soon, or never if ``finish`` comes first.

    A job whose ``expires_at`` is past is not found any more, although it is there until it is over. A ``repeatable``
    one that failed is found complete with its request; other finished ones are kept without it."""

    async def add(self, job: Job) -> None: ...

    def update(self, job: Job, outbox: tuple[OutboxItem, ...] = ()) -> None: ...

    async def write(self, job: Job) -> None:
        """Write the state of a job that goes on, now."""
        ...

    async def finish(self, job: Job, outbox: tuple[OutboxItem, ...] = ()) -> None:
        """Write the terminal state and its webhook messages in one step, also of a job that was never added."""
        ...

    async def get(self, job_id: str) -> Job | None: ...

    async def latest(self, request_id: str, *, owner: str = "") -> Job | None:
        """The newest run of a request id of this owner's."""
        ...

    async def run_number(self, request_id: str, *, owner: str = "") -> int:
        """Which run of this request id a new job would be, from 1. Runs that uploaded to a storage are remembered
        longer than their results, as long as their URLs may live."""
        ...

    async def keyed(self, key: Idempotency) -> Job | None:
        """The job that was accepted under an idempotency key in the last 24 hours."""
        ...

    async def listed(self, asked: JobFilter) -> list[Job]:
        """Jobs that fit, newest first, without workflow and response."""
        ...

    async def unfinished(self) -> list[Job]:
        """Jobs of an earlier life that are not over, in the order of acceptance, complete with workflow and secrets."""
        ...

    async def last_sequence(self) -> int:
        """The highest ``Job.sequence`` ever recorded, 0 for none."""
        ...

    async def shorten(self, job_id: str, ttl_s: float) -> Job | None:
        """Have a job be forgotten so many seconds from now at the latest; return it, ``None`` for none."""
        ...

    async def expire(self) -> None:
        """Forget what is past its time or over the bounds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """What the sender has in hand: messages on their way, and hosts (``OutboxItem.host``) that get enough at once.
    Without it the messages of one dead host would hide everybody else's."""

    message_ids: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()


NOTHING_BUSY = Busy()
DUE_BYTES = 16 * 1024 * 1024
"""Most that ``Outbox.due`` brings into memory at once (a single body may be larger)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxState:
    """How much waits to be sent and since when the oldest of it does, and how much was given up."""

    pending_count: int = 0
    oldest_at: datetime | None = None
    dead_count: int = 0


class Outbox(Protocol):
    """Webhook messages that are stored with their jobs, until they are delivered or dead."""

    async def due(self, now: datetime, *, limit: int, busy: Busy = NOTHING_BUSY) -> list[OutboxItem]:
        """Messages to send now, the longest overdue first, without those that ``busy`` names. Fewer than ``limit``,
        and at least one, when their bodies would be over ``DUE_BYTES`` together."""
        ...

    async def next_due(self, *, busy: Busy = NOTHING_BUSY) -> datetime | None:
        """When the next one that is not dead, and not named by ``busy``, will be due."""
        ...

    async def delivered(self, message_id: str) -> None: ...

    async def postpone(self, message_id: str, *, next_at: datetime, error: str) -> None:
        """An attempt failed; count it and try again at ``next_at``."""
        ...

    async def bury(self, message_id: str, *, error: str) -> None:
        """The last attempt failed too; count it. Kept for ``dead`` for a limited time."""
        ...

    async def revive(self, message_id: str, *, owner: str | None, now: datetime) -> bool:
        """Make a dead message due again, its attempts counted from 0; false when there is none of this owner's
        (``None``: anybody's)."""
        ...

    async def dead(self, *, owner: str | None, limit: int) -> list[OutboxItem]:
        """Dead messages, newest first."""
        ...

    async def state(self) -> OutboxState: ...


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

    def joined(self, job: Job, *, tag: int | None) -> None:
        """One more request, of the number ``tag``, is about this unfinished job: the number is free when that is."""
        ...

    def replayed(self, job: Job, *, tag: int | None) -> None:
        """A finished job answered one more request, of the number ``tag``: no new work, but the number is free."""
        ...

    def answered(self, *, tag: int | None) -> None:
        """A request that is no work (a job's state, a cancel) was answered: its number is free, unless work that is
        not finished came under the same one."""
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
