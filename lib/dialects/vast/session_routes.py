"""The session routes: create, get, health, end; and what a webhook on this host may do without TLS."""

import hmac
from collections.abc import Sequence

from aiohttp import web

from lib.dialects.vast import translate
from lib.dialects.vast.entrance import SESSION_CLOSED, Entrance
from lib.dialects.vast.schema import Refusal, session_reference, session_terms
from lib.dialects.vast.sessions import Session, Sessions
from lib.errors import NotReady, Overloaded
from lib.jobs.ports import LoadLedger
from lib.serving.payloads import json_response

PLAIN_BODY_BYTES = 1024 * 1024


class SessionRoutes:
    """``cost`` is that of a session whose creator names none, in workload units."""

    def __init__(self, *, entrance: Entrance, sessions: Sessions, ledger: LoadLedger, cost: float) -> None:
        self._entrance = entrance
        self._sessions = sessions
        self._ledger = ledger
        self._cost = cost

    def routes(self) -> Sequence[web.RouteDef]:
        """For the public listener."""
        return (
            web.post("/session/create", self._create),
            web.post("/session/get", self._get),
            web.post("/session/health", self._health),
            web.post("/session/end", self._end),
        )

    def plain_routes(self) -> Sequence[web.RouteDef]:
        """For the plain one."""
        return (web.post("/session/end", self._plain_end),)

    async def _create(self, request: web.Request) -> web.Response:
        asked, _ = await self._entrance.envelope(request)
        terms = session_terms(asked.payload)
        self._entrance.count(asked)
        await self._entrance.authorise(asked)
        cost = asked.cost if asked.cost is not None else self._cost
        try:
            session = self._sessions.open(asked.auth_data, terms, cost=cost, tag=asked.tag)
        except (NotReady, Overloaded):
            self._ledger.rejected(cost=cost, tag=asked.tag)
            raise
        expiration = self._sessions.expires_at(session)
        return json_response({"session_id": session.session_id, "expiration": expiration}, status=201)

    async def _get(self, request: web.Request) -> web.Response:
        session_id, auth = await self._reference(request)
        session = self._sessions.find(session_id)
        if session is None:
            raise Refusal(400, {"error": "session does not exist"})
        _check_owner(session, auth)
        return json_response(
            {
                "session_id": session.session_id,
                "auth_data": session.auth_data,
                "lifetime": session.terms.lifetime_s,
                "expiration": self._sessions.expires_at(session),
                "created_at": session.created_at,
                "on_close_route": session.terms.on_close_route,
                "on_close_payload": session.terms.on_close_payload,
            }
        )

    async def _health(self, request: web.Request) -> web.Response:
        session_id, auth = await self._reference(request)
        session = self._sessions.find(session_id)
        if session is not None:
            _check_owner(session, auth)
        return json_response({"ok": session is not None})

    async def _end(self, request: web.Request) -> web.Response:
        return self._ended(*await self._reference(request))

    async def _plain_end(self, request: web.Request) -> web.Response:
        return self._ended(*await self._reference(request))

    def _ended(self, session_id: str, auth: object) -> web.Response:
        session = self._sessions.find(session_id)
        if session is None:
            raise Refusal(400, {"error": f"session with id {session_id} not found"})
        _check_owner(session, auth)
        if not self._sessions.close(session_id):
            raise Refusal(410, SESSION_CLOSED)
        return json_response({"ended": True, "removed_session": session_id})

    async def _reference(self, request: web.Request) -> tuple[str, object]:
        data, _ = await self._entrance.read(request, PLAIN_BODY_BYTES)
        return session_reference(data)


def _check_owner(session: Session, auth: object) -> None:
    if not hmac.compare_digest(*translate.same_auth(session.auth_data, auth)):
        raise Refusal(401, {"error": "session_auth is not valid"})
