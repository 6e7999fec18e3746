"""Vast's worker routes: signed work, sessions, the update hook. Handlers check, translate and wait; no work is theirs.

Order of checks as PyWorker's, except that a session lives longer only through a request that passed them all:
JSON, shape, session, signature, payload, admission. Every refusal that PyWorker reports is in the ledger.
"""

import asyncio
import contextlib
import hmac
import logging
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from aiohttp import web

from lib.dialects.port import PayloadDialect
from lib.dialects.vast import translate
from lib.dialects.vast.schema import Envelope, Refusal, decode, envelope, session_reference, session_terms
from lib.dialects.vast.sessions import Session, Sessions
from lib.errors import Draining, NotReady, Overloaded, ServiceError, Unauthorized
from lib.jobs.model import Job, JobSpec, JobStatus
from lib.jobs.ports import LoadLedger
from lib.jobs.service import JobService
from lib.protocol.auth import SignatureCheck
from lib.serving.payloads import json_response, read_body
from lib.settings import FleetSettings, JobsSettings

log = logging.getLogger(__name__)

WORK_ROUTE = "/generate/sync"
BIG_BODY_BYTES = 256 * 1024
"""Bodies above this are decoded and translated in a thread."""
PLAIN_BODY_BYTES = 1024 * 1024
_BIG = web.RequestKey("vast_big_body", bool)
SESSION_CLOSED = {"error": "session already closed"}

request_idx: ContextVar[int | None] = ContextVar("vast_request_idx", default=None)
"""The router's id of the request that is being answered; error bodies carry it."""


class VastDialect:
    """Implements ``lib.dialects.port.Dialect`` for the public listener; ``plain_routes`` are for the plain-HTTP one."""

    name = translate.NAME

    def __init__(
        self,
        *,
        jobs: JobService,
        payload: PayloadDialect,
        signatures: SignatureCheck,
        sessions: Sessions,
        ledger: LoadLedger,
        fleet: FleetSettings,
        settings: JobsSettings,
        max_body_bytes: int,
    ) -> None:
        self._jobs = jobs
        self._payload = payload
        self._signatures = signatures
        self._sessions = sessions
        self._ledger = ledger
        self._fleet = fleet
        self._settings = settings
        self._max_body_bytes = max_body_bytes

    def routes(self) -> Sequence[web.RouteDef]:
        return (
            web.post(WORK_ROUTE, self._work),
            web.post("/session/create", self._session_create),
            web.post("/session/get", self._session_get),
            web.post("/session/health", self._session_health),
            web.post("/session/end", self._session_end),
            web.post("/pyworker/update", self._update),
        )

    def plain_routes(self) -> Sequence[web.RouteDef]:
        """For ``WORKER_HTTP_PORT``: how a job's webhook on this host ends its session."""
        return (web.post("/session/end", self._plain_session_end),)

    def render_error(self, error: ServiceError, request: web.Request) -> web.Response:
        status, body, headers = translate.refusal(error, request_idx.get())
        return json_response(body, status=status, headers=headers)

    # -- work ---------------------------------------------------------------------------------------------------

    async def _work(self, request: web.Request) -> web.Response:
        asked = await self._envelope(request)
        session = self._session_of(asked)
        if session is None and asked.number is not None:
            self._ledger.seen(asked.number)
        await self._authorise(asked)
        if session is not None and session.closed:
            raise Refusal(410, SESSION_CLOSED)
        include_response = self._payload.wants_response(request.headers)
        tag = asked.tag if session is None else None
        with self._sessions.running(session) if session is not None else contextlib.nullcontext():
            job_id = await self._submit(request, asked, session)
            del asked  # a request that waits keeps its job's bytes, not a parsed graph
            try:
                job = await self._jobs.wait(job_id)
            finally:
                if session is not None:
                    session.job_ids.discard(job_id)
        if tag and tag != job.spec.tag:  # it joined a job of another number, which is free by now; so is this one
            self._ledger.replayed(job, tag=tag)
        if session is not None and session.closed and job.status is JobStatus.CANCELLED:
            raise Refusal(410, SESSION_CLOSED)
        return self._answer(job, include_response=include_response)

    async def _submit(self, request: web.Request, asked: Envelope, session: Session | None) -> str:
        tag = asked.tag if session is None else None
        try:
            spec = await self._spec(request, asked)
            spec = translate.job_spec(spec, asked, in_session=session is not None, settings=self._settings)
            job = await self._jobs.submit(spec)
        except (Overloaded, NotReady, Draining):
            self._ledger.rejected(cost=self._settings.workload_units, tag=tag)
            raise
        except ServiceError:
            self._ledger.invalid(tag=tag)
            raise
        if session is not None:
            await self._sessions.join(session, job.job_id)
        elif job.status.terminal:
            self._ledger.replayed(job, tag=tag)
        return job.job_id

    async def _spec(self, request: web.Request, asked: Envelope) -> JobSpec:
        if request[_BIG]:
            return await asyncio.to_thread(self._payload.parse, asked.payload, request.headers)
        return self._payload.parse(asked.payload, request.headers)

    def _answer(self, job: Job, *, include_response: bool) -> web.Response:
        result = self._payload.render(job, include_response=include_response)
        if job.status is JobStatus.COMPLETED:
            return json_response(result)
        status, body, headers = translate.failure(job, result)
        return json_response(body, status=status, headers=headers)

    # -- the door -----------------------------------------------------------------------------------------------

    async def _envelope(self, request: web.Request) -> Envelope:
        data = await self._read(request, self._max_body_bytes)
        asked = envelope(data, partial_auth=self._signatures.unsecured)
        request_idx.set(asked.tag)
        return asked

    async def _read(self, request: web.Request, limit: int) -> dict[str, Any]:
        request_idx.set(None)  # a connection's requests may share their context
        body = await read_body(request, limit=limit)
        request[_BIG] = len(body) >= BIG_BODY_BYTES
        return await asyncio.to_thread(decode, body) if request[_BIG] else decode(body)

    def _session_of(self, asked: Envelope) -> Session | None:
        if asked.session_id is None:
            return None
        session = self._sessions.find(asked.session_id)
        if session is None:
            raise Refusal(410, {"error": "invalid session"})
        return session

    async def _authorise(self, asked: Envelope) -> None:
        try:
            await self._signatures.check(asked.auth_data)
        except Unauthorized:
            tag = asked.tag if asked.session_id is None else None
            self._ledger.rejected(cost=self._settings.workload_units, tag=tag)
            raise

    # -- sessions -----------------------------------------------------------------------------------------------

    async def _session_create(self, request: web.Request) -> web.Response:
        asked = await self._envelope(request)
        terms = session_terms(asked.payload)
        if asked.number is not None:
            self._ledger.seen(asked.number)
        await self._authorise(asked)
        cost = asked.cost if asked.cost is not None else self._settings.workload_units
        try:
            session = self._sessions.open(asked.auth_data, terms, cost=cost, tag=asked.tag)
        except (NotReady, Overloaded):
            self._ledger.rejected(cost=cost, tag=asked.tag)
            raise
        expiration = self._sessions.expires_at(session)
        return json_response({"session_id": session.session_id, "expiration": expiration}, status=201)

    async def _session_get(self, request: web.Request) -> web.Response:
        session_id, auth = await self._reference(request, self._max_body_bytes)
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

    async def _session_health(self, request: web.Request) -> web.Response:
        session_id, auth = await self._reference(request, self._max_body_bytes)
        session = self._sessions.find(session_id)
        if session is not None:
            _check_owner(session, auth)
        return json_response({"ok": session is not None})

    async def _session_end(self, request: web.Request) -> web.Response:
        return await self._end(request, self._max_body_bytes)

    async def _plain_session_end(self, request: web.Request) -> web.Response:
        return await self._end(request, PLAIN_BODY_BYTES)

    async def _end(self, request: web.Request, limit: int) -> web.Response:
        session_id, auth = await self._reference(request, limit)
        session = self._sessions.find(session_id)
        if session is None:
            raise Refusal(400, {"error": f"session with id {session_id} not found"})
        _check_owner(session, auth)
        if not self._sessions.close(session_id):
            raise Refusal(410, SESSION_CLOSED)
        return json_response({"ended": True, "removed_session": session_id})

    async def _reference(self, request: web.Request, limit: int) -> tuple[str, object]:
        return session_reference(await self._read(request, limit))

    # -- update -------------------------------------------------------------------------------------------------

    async def _update(self, request: web.Request) -> web.Response:
        request_idx.set(None)
        token = self._fleet.master_token.get_secret_value() if self._fleet.master_token is not None else ""
        if not token:
            raise Refusal(403, {"error": "forbidden", "message": "Updates are closed: MASTER_TOKEN is not set."})
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if not hmac.compare_digest(given.encode(), token.encode()):
            raise Refusal(401, {"error": "unauthorized"})
        try:
            await asyncio.to_thread(self._fleet.force_update_path.touch)
        except OSError as error:
            raise ServiceError(f"The update flag could not be written: {error.strerror}") from error
        log.info("update asked for", extra={"event": "update.requested"})
        return json_response({"ok": True})


def _check_owner(session: Session, auth: object) -> None:
    if not hmac.compare_digest(*translate.same_auth(session.auth_data, auth)):
        raise Refusal(401, {"error": "session_auth is not valid"})
