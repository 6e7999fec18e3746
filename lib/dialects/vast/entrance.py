"""How every signed request comes in: body, envelope, session, signature, in PyWorker's order. Each refusal that
PyWorker reports is in the ledger."""

import asyncio
import hmac
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from lib.dialects.vast.schema import Envelope, Refusal, decode, envelope
from lib.dialects.vast.sessions import Session, Sessions
from lib.dialects.vast.translate import same_auth
from lib.errors import Unauthorized
from lib.jobs.ports import LoadLedger
from lib.protocol.auth import SignatureCheck
from lib.protocol.ticket import TicketCheck, ticket_of
from lib.serving.payloads import Room, read_body

BIG_BODY_BYTES = 256 * 1024
"""Bodies above this are decoded and translated in a thread."""
SESSION_CLOSED = {"error": "session already closed"}

request_idx: ContextVar[int | None] = ContextVar("vast_request_idx", default=None)
"""The router's id of the request that is being answered; error bodies carry it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A request that passed every check; ``big`` = its payload is large."""

    envelope: Envelope
    session: Session | None
    big: bool

    @property
    def tag(self) -> int | None:
        """The router's number, none inside a session: all its requests have the session's own."""
        return None if self.session is not None else self.envelope.tag


class Entrance:
    """Reads and checks. ``cost`` is what a request that is turned away would have been, in workload units; ``room``
    bounds what is read of all requests together before they are checked. With ``tickets_required`` new work needs a
    router's ticket: what a signature opened once, it opens for ever."""

    def __init__(
        self,
        *,
        signatures: SignatureCheck,
        tickets_required: bool = False,
        sessions: Sessions,
        ledger: LoadLedger,
        cost: float,
        max_body_bytes: int,
        room: Room,
    ) -> None:
        self._signatures = signatures
        self.tickets = TicketCheck(signatures)
        self._tickets_required = tickets_required
        self._sessions = sessions
        self._ledger = ledger
        self._cost = cost
        self._max_body_bytes = max_body_bytes
        self._room = room

    async def admit(self, request: web.Request) -> Admitted:
        """Let a request in. Raises: Refusal, InvalidRequest, BodyTooLarge, Unauthorized."""
        asked, big = await self.envelope(request)
        session = self._session_of(asked)
        if session is None:
            self.count(asked)
        await self.authorise(asked, session=session, new=request.match_info.get("job_id") is None)
        if session is not None and session.closed:
            raise Refusal(410, SESSION_CLOSED)
        return Admitted(envelope=asked, session=session, big=big)

    async def envelope(self, request: web.Request) -> tuple[Envelope, bool]:
        """Read the body; the second value tells whether it is big."""
        data, big = await self.read(request, self._max_body_bytes)
        asked = envelope(data, partial_auth=self._signatures.unsecured)
        request_idx.set(asked.tag)
        return asked, big

    async def read(self, request: web.Request, limit: int | None = None) -> tuple[dict[str, Any], bool]:
        """Read a JSON object that need not be an envelope."""
        request_idx.set(None)  # a connection's requests may share their context
        with self._room.taken() as grow:  # the signature is inside, so anybody may send one
            body = await read_body(request, limit=limit or self._max_body_bytes, grow=grow)
            big = len(body) >= BIG_BODY_BYTES
            return (await asyncio.to_thread(decode, body) if big else decode(body)), big

    def count(self, asked: Envelope) -> None:
        """The request arrived, whatever becomes of it."""
        if asked.number is not None:
            self._ledger.seen(asked.number)

    async def authorise(self, asked: Envelope, *, session: Session | None = None, new: bool = True) -> None:
        """Check ticket or signature; ``new``: it is for work, not for a job that its own token opens. Raises:
        Unauthorized."""
        try:
            if session is not None or not new or not await self._has_ticket(asked):
                await self._signatures.check(asked.auth_data)
            if session is not None and self._tickets_required and not _is_same(session, asked):
                raise Unauthorized("auth_data is not that of the session.")
        except Unauthorized:
            tag = asked.tag if asked.session_id is None else None
            self._ledger.rejected(cost=self._cost, tag=tag)
            raise

    async def _has_ticket(self, asked: Envelope) -> bool:
        """Use the request's ticket up. Raises: Unauthorized where one is required and there is no good one."""
        text = ticket_of(asked.auth_data)
        if self._signatures.unsecured or not (text or self._tickets_required):
            return False
        try:
            await self.tickets.spend(text, request_idx=asked.auth_data.get("request_idx"))
        except Unauthorized:
            if self._tickets_required:
                raise
            return False
        return True

    def _session_of(self, asked: Envelope) -> Session | None:
        if asked.session_id is None:
            return None
        session = self._sessions.find(asked.session_id)
        if session is None:
            raise Refusal(410, {"error": "invalid session"})
        return session


def _is_same(session: Session, asked: Envelope) -> bool:
    return hmac.compare_digest(*same_auth(session.auth_data, asked.auth_data))
