"""Requests that a router of ours relays: below ``/relay/`` of the public listener, each with a ticket of its own.

The ticket says whose the request is (a tenant, for whom nobody else's jobs are there), what links in the answer begin
with, and the router's number of the job that it submits: reports and ``/delete_requests/`` tell of it as they do of one
that came in Vast's envelope.
"""

import re
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass

from aiohttp import web

from lib.errors import Draining, Forbidden, NotReady, Overloaded, ServiceError, Unauthorized
from lib.jobs.copies import changed
from lib.jobs.model import Job, JobSpec
from lib.jobs.ports import LoadLedger
from lib.jobs.service import JobService
from lib.protocol.ticket import TICKET_HEADER, Ticket, TicketCheck
from lib.serving.access import BEARER, CALLER, Access, Caller, Need
from lib.serving.links import BASE_URL
from lib.serving.signing import Signer
from lib.telemetry.logs import set_caller

PREFIX = "/relay"
NO_TICKET = f"Requests to {PREFIX}/ come from a router, with a new ticket each in '{TICKET_HEADER}'; call the router."
NO_OWNER = f"The ticket names no tenant, so it opens no more of {PREFIX}/ than links of ours do; call the router."
_SUB = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?:/(?:[A-Za-z0-9][A-Za-z0-9._-]{0,63})?){0,3}")
"""Tenants' names are parts of keys in buckets."""


@dataclass(slots=True, eq=False, kw_only=True)
class Relayed:
    """A relayed request while it is answered. ``tag`` is the router's number for the job that it submits, ``cost`` what
    one that is turned away would have been; ``taken``: what becomes of the number is settled."""

    tag: int | None
    submits: bool
    ledger: LoadLedger
    cost: float
    taken: bool = False

    async def submitted(self, spec: JobSpec, submit: Callable[[JobSpec], Awaitable[Job]]) -> Job:
        """Submit under the router's number. Raises: what ``submit`` does."""
        self.taken = True
        try:
            return await submit(changed(spec, tag=self.tag))
        except (Overloaded, NotReady, Draining):
            self.ledger.rejected(cost=self.cost, tag=self.tag)
            raise
        except ServiceError:
            self.ledger.invalid(tag=self.tag)
            raise

    def over(self) -> None:
        """It is answered: without a job its number is free."""
        if self.tag is None or self.taken:
            return
        if self.submits:
            self.ledger.invalid(tag=self.tag)
        else:
            self.ledger.answered(tag=self.tag)


_current: ContextVar[Relayed | None] = ContextVar("relayed", default=None)
_RELAYED = web.RequestKey("relayed", Relayed)


class RelayedJobs(JobService):
    """The job service that gives jobs of relayed requests their router's number. Of all others nothing changes."""

    async def submit(self, spec: JobSpec) -> Job:
        relayed = _current.get()
        if relayed is None:
            return await super().submit(spec)
        job = await relayed.submitted(spec, super().submit)
        if job.status.terminal:
            relayed.ledger.replayed(job, tag=relayed.tag)
        elif job.spec.tag != relayed.tag:
            relayed.ledger.joined(job, tag=relayed.tag)
        return job

    async def refuse(self, spec: JobSpec, error: ServiceError) -> Job:
        relayed = _current.get()
        if relayed is None:
            return await super().refuse(spec, error)
        refuse = super().refuse
        job = await relayed.submitted(spec, lambda tagged: refuse(tagged, error))
        if job.spec.tag != relayed.tag:  # it repeats another one; the number of a new one is told to be over already
            relayed.ledger.joined(job, tag=relayed.tag)
        return job


class TicketGate(Access):
    """Lets in who shows a good ticket, which is spent then, before anything of the body is read.

    A ticket without a tenant opens what a link or token of ours opens. ``base_url`` is for links where the ticket names
    no base."""

    def __init__(self, *, tickets: TicketCheck, signer: Signer, ledger: LoadLedger, cost: float, base_url: str) -> None:
        super().__init__(required=True, signer=signer)
        self._tickets = tickets
        self._ledger = ledger
        self._cost = cost
        self._base_url = base_url

    async def admit(self, request: web.Request, need: Need) -> None:
        """Put caller, links' base and number on the request. Raises: Unauthorized, Forbidden."""
        text = request.headers.get(TICKET_HEADER, "")
        if not text:
            raise Unauthorized(NO_TICKET)
        ticket = await self._tickets.spend(text.strip())
        self._take(request, ticket, submits=need is Need.SUBMIT)
        caller = BEARER if self.has_token(request) else _tenant(ticket)
        if caller is not None:
            request[CALLER] = caller
            set_caller(caller.name)
        elif need not in (Need.FREE, Need.LINK):
            raise Unauthorized(NO_OWNER)
        if need is Need.ADMIN:
            raise Forbidden("No router may see this; ask the worker's API listener.")

    def release(self, request: web.Request) -> None:
        """The request is over."""
        if (relayed := request.get(_RELAYED)) is not None:
            _current.set(None)
            relayed.over()

    def _take(self, request: web.Request, ticket: Ticket, *, submits: bool) -> None:
        if base_url := ticket.base or self._base_url:
            request[BASE_URL] = base_url
        tag = ticket.request_idx if ticket.request_idx > 0 else None
        if tag is not None:
            self._ledger.seen(-tag)  # beside the numbers that routes are counted by (reqnum)
        relayed = Relayed(tag=tag, submits=submits, ledger=self._ledger, cost=self._cost)
        request[_RELAYED] = relayed
        _current.set(relayed)


def _tenant(ticket: Ticket) -> Caller | None:
    """Raises: Unauthorized, for a name that may not be."""
    if not ticket.sub:
        return None
    if _SUB.fullmatch(ticket.sub) is None:
        raise Unauthorized("The ticket's tenant is no name that this worker takes.")
    return Caller(name=ticket.sub, tenant=ticket.sub, owner=ticket.sub)
