"""What the relay's halves hand to each other: what a request is worth, and how a worker is called for it.

A worker of ours serves its whole API below ``/relay`` of its public listener to who shows a ticket of ours
(``X-Pyworker-Ticket``). A ticket is good for one HTTP request. It names the tenant (``sub``), whose jobs and names are
his own on the worker too, and the base of links in answers (``base``). What is submitted with it counts on the worker
as the request of its ``request_idx``, in reports and ``/delete_requests/``.
"""

from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
from aiohttp import web

from lib.errors import ServiceError
from lib.serving.access import Needs
from lib.serving.middleware import ErrorRenderer
from router.model import Priority
from router.registry import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A request as routing sees it: the arguments of ``Learning.ask`` that its body decides."""

    cost: float
    kind: str
    prior: float
    family: str = ""
    models: tuple[str, ...] = ()
    vram_gib: float = 0.0
    dialect: str = ""
    input_mb: float = 0.0
    priority: Priority | None = None
    """What the body asks for; None: the tenant's own."""
    patience_s: float | None = None
    """So long its caller waits, by the body; what takes longer is kept, and answered with a link. None: to the end."""


class Sizing(Protocol):
    """Reads requests, large ones in a thread."""

    async def work(self, endpoint: str, dialect: str, body: bytes, *, path: str = "") -> Work:
        """``path`` is the kind of a request that holds no graph. Raises: InvalidRequest, with the dialect's place of
        what is wrong. What only a worker can judge passes."""
        ...


class WorkerLost(ServiceError):
    """The worker did not answer, or its answer broke off. ``answered``: a part of the answer had come already."""

    retryable = True

    def __init__(self, message: str, *, answered: bool = False) -> None:
        super().__init__(message)
        self.answered = answered


class WorkerBusy(ServiceError):
    """The worker refuses the request (429, 503, or a ticket that it does not know): another one may do it. ``status``
    is what it answered."""

    retryable = True

    def __init__(self, message: str, *, status: int = 503, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One HTTP request to a worker. ``path`` is that of its API listener, with the query (``/generate?x=1``).

    ``request_idx`` is the number of the job that it submits; of a call that submits nothing it is 0. ``headers`` go
    through as they are, except those of a connection and of the caller's own key."""

    method: str
    path: str
    tenant: str
    request_idx: int = 0
    headers: Mapping[str, str]
    body: bytes | AsyncIterable[bytes] | None = None
    answer_s: float | None = None
    """So long the worker may take until its answer begins; None: as long as it reports that it lives."""


class Upstream(Protocol):
    """Calls workers."""

    def call(self, worker: Worker, call: Call) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """The worker's answer, whatever its status, its body not read yet. While it is awaited the worker is watched:
        one that is gone, or stale, ends the call. Raises: WorkerLost (also out of ``body`` reads inside the context),
        WorkerBusy."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who asks for what: the endpoint that the path or the key names, the tenant of the key ("" = the endpoint's own)
    and the tenant's priority."""

    endpoint: str
    tenant: str
    priority: Priority = Priority.HIGH


class Keeping(Protocol):
    """Takes a request as a job that is kept (``POST /generate`` of the wrapper, Salad's ``/prompt`` with a webhook),
    whose body was read and sized by then. It answers 202, or the result where that comes within ``wait_s``."""

    async def __call__(
        self, request: web.Request, *, visitor: Visitor, dialect: str, body: bytes, work: Work, wait_s: float = 0.0
    ) -> web.StreamResponse: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JobsHalf:
    """What ``router.relay.jobs.build_jobs`` gives. ``keep`` is called for requests on paths of synchronous ones that
    nobody waits for to the end: ``POST /generate/sync`` with ``Prefer: respond-async`` (RFC 7240, with its ``wait``) or
    ``sync_timeout_s``, ``POST /prompt`` and ``/workflow/...`` with a webhook or an upload behind the answer."""

    keep: Keeping
    routes: Sequence[web.RouteDef] = ()
    needs: Needs = field(default_factory=dict)
    loops: Mapping[str, Coroutine[Any, Any, object]] = field(default_factory=dict)
    health: Callable[[], Mapping[str, Any]] | None = None
    stop: Callable[[], Awaitable[object]] | None = None
    render_error: ErrorRenderer | None = None
    """For errors on ``routes``."""
