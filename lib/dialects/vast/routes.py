"""Vast's worker routes: signed work, the update hook; sessions and what follows a submit are beside this module.
Handlers check, translate and wait; no work is theirs.

Order of checks as PyWorker's, except that a session lives longer only through a request that passed them all:
JSON, shape, session, signature, payload, admission. Every refusal that PyWorker reports is in the ledger.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import nullcontext

from aiohttp import web

from lib.dialects.port import PayloadDialect
from lib.dialects.vast import translate
from lib.dialects.vast.entrance import SESSION_CLOSED, Admitted, Entrance, request_idx
from lib.dialects.vast.jobs import JobRoutes
from lib.dialects.vast.schema import Refusal
from lib.dialects.vast.session_routes import SessionRoutes
from lib.dialects.vast.sessions import Sessions
from lib.errors import Draining, NotReady, Overloaded, ServiceError
from lib.jobs.model import Job, JobSpec, JobStatus, OnDisconnect
from lib.jobs.ports import LoadLedger
from lib.jobs.service import JobService
from lib.protocol.auth import SignatureCheck
from lib.protocol.ticket import TicketCheck
from lib.serving.links import base_url_of
from lib.serving.payloads import Room, json_response
from lib.serving.signing import Signer, same
from lib.settings import FleetSettings, JobsSettings

log = logging.getLogger(__name__)

ACCEPTED = 202


class VastDialect:
    """Implements ``lib.dialects.port.Dialect`` for the public listener; ``plain_routes`` are for the plain-HTTP one.

    ``base_url`` is how callers reach the public listener, for links; the request's own host when it is empty.
    ``longest_wait_s`` bounds a long poll."""

    name = translate.NAME

    def __init__(
        self,
        *,
        jobs: JobService,
        payload: PayloadDialect,
        signatures: SignatureCheck,
        signer: Signer,
        sessions: Sessions,
        ledger: LoadLedger,
        fleet: FleetSettings,
        settings: JobsSettings,
        base_url: str,
        longest_wait_s: float,
        max_body_bytes: int,
    ) -> None:
        self._jobs = jobs
        self._payload = payload
        self._signer = signer
        self._sessions = sessions
        self._ledger = ledger
        self._fleet = fleet
        self._settings = settings
        self._base_url = base_url
        cost = settings.workload_units
        self._entrance = Entrance(
            signatures=signatures,
            tickets_required=fleet.tickets_required,
            sessions=sessions,
            ledger=ledger,
            cost=cost,
            max_body_bytes=max_body_bytes,
            room=Room(settings.max_queue_bytes),
        )
        self._session_routes = SessionRoutes(entrance=self._entrance, sessions=sessions, ledger=ledger, cost=cost)
        self._job_routes = JobRoutes(
            jobs=jobs,
            payload=payload,
            entrance=self._entrance,
            sessions=sessions,
            ledger=ledger,
            signer=signer,
            base_url=base_url,
            longest_wait_s=longest_wait_s,
        )

    def routes(self) -> Sequence[web.RouteDef]:
        return (
            web.post("/generate/sync", self._sync),
            web.post("/generate", self._submitted),
            web.post("/generate/stream", self._streamed),
            *self._job_routes.routes(),
            *self._session_routes.routes(),
            web.post("/pyworker/update", self._update),
        )

    @property
    def tickets(self) -> TicketCheck:
        """The check that spends tickets, for whoever takes them beside this: each is good once on the whole worker."""
        return self._entrance.tickets

    def plain_routes(self) -> Sequence[web.RouteDef]:
        """For ``WORKER_HTTP_PORT``: how a job's webhook on this host ends its session, or a session's end a job."""
        return (*self._session_routes.plain_routes(), *self._job_routes.plain_routes())

    def render_error(self, error: ServiceError, request: web.Request) -> web.Response:
        status, body, headers = translate.refusal(error, request_idx.get())
        return json_response(body, status=status, headers=headers)

    # -- work ---------------------------------------------------------------------------------------------------

    async def _sync(self, request: web.Request) -> web.Response:
        admitted = await self._entrance.admit(request)
        session = admitted.session
        include_response = self._payload.wants_response(request.headers)
        with self._sessions.running(session) if session is not None else nullcontext():
            job_id = (await self._submit(request, admitted, keep=False)).job_id
            del admitted  # a request that waits keeps its job's bytes, not a parsed graph
            try:
                job = await self._jobs.wait(job_id)
            finally:
                if session is not None:
                    session.job_ids.discard(job_id)
        if session is not None and session.closed and job.status is JobStatus.CANCELLED:
            raise Refusal(410, SESSION_CLOSED)
        result = self._payload.render(job, include_response=include_response)
        status, body, headers = translate.answer(job, result)
        return json_response(body, status=status, headers=headers)

    async def _submitted(self, request: web.Request) -> web.Response:
        job = await self._submit(request, await self._entrance.admit(request), keep=True)
        token = self._signer.job_token(job.job_id)
        accepted = self._payload.render_accepted(job, base_url=self._base(request), job_token=token)
        return json_response({**accepted, "job_token": token}, status=ACCEPTED)

    async def _streamed(self, request: web.Request) -> web.StreamResponse:
        """The stream can be taken up again by its job's token, so the job outlives the connection."""
        job_id = (await self._submit(request, await self._entrance.admit(request), keep=True)).job_id
        return await self._payload.stream(
            request,
            job_id,
            include_response=self._payload.wants_response(request.headers),
            job_token=self._signer.job_token(job_id),
            base_url=self._base(request),
        )

    async def _submit(self, request: web.Request, admitted: Admitted, *, keep: bool) -> Job:
        """Hand the job over and settle to whom it belongs: session, number of the router's, nobody's connection."""
        tag, session = admitted.tag, admitted.session
        try:
            spec = await self._spec(request, admitted, keep=keep)
            job = await self._jobs.submit(spec)
        except (Overloaded, NotReady, Draining):
            self._ledger.rejected(cost=self._settings.workload_units, tag=tag)
            raise
        except ServiceError:
            self._ledger.invalid(tag=tag)
            raise
        if session is not None:
            await self._sessions.join(session, job, hold=keep)
        elif job.status.terminal:
            self._ledger.replayed(job, tag=tag)
        elif tag != job.spec.tag:
            self._ledger.joined(job, tag=tag)
        if keep and not job.status.terminal and job.spec.on_disconnect is OnDisconnect.CANCEL:
            job = await self._jobs.keep(job.job_id)  # it joined one whose caller waits
        return job

    async def _spec(self, request: web.Request, admitted: Admitted, *, keep: bool) -> JobSpec:
        asked = admitted.envelope
        if admitted.big:
            spec = await asyncio.to_thread(self._payload.parse, asked.payload, request.headers)
        else:
            spec = self._payload.parse(asked.payload, request.headers)
        return translate.job_spec(
            spec, asked, tag=admitted.tag, keep=keep, base_url=self._base(request), settings=self._settings
        )

    def _base(self, request: web.Request) -> str:
        return base_url_of(request, self._base_url)

    # -- update -------------------------------------------------------------------------------------------------

    async def _update(self, request: web.Request) -> web.Response:
        request_idx.set(None)
        token = self._fleet.master_token.get_secret_value() if self._fleet.master_token is not None else ""
        if not token:
            raise Refusal(403, {"error": "forbidden", "message": "Updates are closed: MASTER_TOKEN is not set."})
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if not same(token, given):
            raise Refusal(401, {"error": "unauthorized"})
        try:
            await asyncio.to_thread(self._fleet.force_update_path.touch)
        except OSError as error:
            raise ServiceError(f"The update flag could not be written: {error.strerror}") from error
        log.info("update asked for", extra={"event": "update.requested"})
        return json_response({"ok": True})
