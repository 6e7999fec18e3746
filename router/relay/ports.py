"""What the relay's halves hand to each other: what a request is worth, and how a worker is called for it.

A worker of ours serves its whole API below ``/relay`` of its public listener to who shows a ticket of ours
(``X-Pyworker-Ticket``). A ticket is good for one HTTP request. It names the tenant (``sub``), whose jobs and names are
his own on the worker too, and the base of links in answers (``base``). What is submitted with it counts on the worker
as the request of its ``request_idx``, in reports and ``/delete_requests/``.
"""

from collections.abc import AsyncIterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import aiohttp

from lib.errors import ServiceError
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


class Sizing(Protocol):
    """Reads requests, large ones in a thread."""

    async def work(self, endpoint: str, dialect: str, body: bytes) -> Work:
        """Raises: InvalidRequest, with the dialect's place of what is wrong. What only a worker can judge passes."""
        ...


class WorkerLost(ServiceError):
    """The worker did not answer, or its answer broke off. ``answered``: a part of the answer had come already."""

    def __init__(self, message: str, *, answered: bool = False) -> None:
        super().__init__(message)
        self.answered = answered


class WorkerBusy(ServiceError):
    """The worker refuses the request (429, 503, or a ticket that it does not know): another one may do it."""


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
