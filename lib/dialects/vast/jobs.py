"""A job after its submit answer, on the public listener: result, events, cancel, for who has the job's token.

A signature of Vast's proves no identity, so it opens none of these: without the token a job is not there. With it a
link works alone; inside the envelope the request counts as no work, and its number is given back at once.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass

from aiohttp import web

from lib.dialects.port import PayloadDialect
from lib.dialects.vast import translate
from lib.dialects.vast.entrance import Entrance, request_idx
from lib.dialects.vast.schema import wait_s
from lib.dialects.vast.session_routes import PLAIN_BODY_BYTES
from lib.dialects.vast.sessions import Sessions
from lib.errors import JobAlreadyFinished, JobNotFound
from lib.jobs.model import Job
from lib.jobs.ports import LoadLedger
from lib.jobs.service import JobService
from lib.serving.access import TOKEN_PARAMETER, token_of
from lib.serving.links import base_url_of
from lib.serving.payloads import json_response
from lib.serving.signing import Signer

RESULT, CANCEL, STREAM = "/result/{job_id}", "/cancel/{job_id}", "/generate/stream/{job_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request shows and wants: the token, and how long to wait for the end."""

    token: str
    wait: object = None


class JobRoutes:
    """``longest_wait_s`` bounds a long poll; ``base_url`` is for links, the request's own host when empty."""

    def __init__(
        self,
        *,
        jobs: JobService,
        payload: PayloadDialect,
        entrance: Entrance,
        sessions: Sessions,
        ledger: LoadLedger,
        signer: Signer,
        base_url: str,
        longest_wait_s: float,
    ) -> None:
        self._jobs = jobs
        self._payload = payload
        self._entrance = entrance
        self._sessions = sessions
        self._ledger = ledger
        self._signer = signer
        self._base_url = base_url
        self._longest_wait_s = longest_wait_s

    def routes(self) -> Sequence[web.RouteDef]:
        """For the public listener. The SDK only POSTs, so POST equals GET."""
        return (
            web.get(RESULT, self._result, allow_head=False),
            web.post(RESULT, self._result),
            web.post(CANCEL, self._cancel),
            web.get(STREAM, self._stream, allow_head=False),
        )

    def plain_routes(self) -> Sequence[web.RouteDef]:
        """For the plain one: what a session may have done when it ends."""
        return (web.post(CANCEL, self._plain_cancel),)

    async def _result(self, request: web.Request) -> web.Response:
        async with self._asked(request) as asked:
            job = await self._job(request, asked.token)
            patience_s = wait_s(asked.wait, most=self._longest_wait_s)
            if patience_s and not job.status.terminal:
                job = await self._jobs.wait_for(job.job_id, patience_s)
            if job.status.terminal:
                job = await self._jobs.wait(job.job_id)  # with what is not kept in memory: inlined files
            result = self._payload.render(job, include_response=self._payload.wants_response(request.headers))
            status, body, headers = translate.answer(job, result)
            return json_response(body, status=status, headers={**headers, "Cache-Control": "no-store"})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        request_idx.set(None)
        token = token_of(request)
        job = await self._job(request, token)
        return await self._payload.stream(
            request,
            job.job_id,
            include_response=self._payload.wants_response(request.headers),
            job_token=token,
            base_url=base_url_of(request, self._base_url),
        )

    async def _cancel(self, request: web.Request) -> web.Response:
        async with self._asked(request) as asked:
            return await self._cancelled(request, asked.token)

    async def _plain_cancel(self, request: web.Request) -> web.Response:
        data, _ = await self._entrance.read(request, PLAIN_BODY_BYTES)
        return await self._cancelled(request, _text(data.get(TOKEN_PARAMETER)) or token_of(request))

    async def _cancelled(self, request: web.Request, token: str) -> web.Response:
        job, already = await self._job(request, token), False
        try:
            job = await self._jobs.cancel(job.job_id, reason="Request cancelled by client")
        except JobAlreadyFinished:
            job, already = await self._jobs.get(job.job_id), True
        return json_response(translate.cancel_answer(job, already=already))

    @asynccontextmanager
    async def _asked(self, request: web.Request) -> AsyncIterator[Asked]:
        """Read a request: a link with a token and no body, or an envelope."""
        wait = request.query.get("wait")
        if not request.can_read_body and (request.method == "GET" or token_of(request)):
            request_idx.set(None)
            yield Asked(token=token_of(request), wait=wait)
            return
        admitted = await self._entrance.admit(request)
        payload, session = admitted.envelope.payload, admitted.session
        token = _text(payload.get(TOKEN_PARAMETER)) or token_of(request)
        with self._sessions.running(session) if session is not None else nullcontext():
            try:
                yield Asked(token=token, wait=payload.get("wait", wait))
            finally:
                self._ledger.answered(tag=admitted.tag)

    async def _job(self, request: web.Request, token: str) -> Job:
        """The job that the path names by either of its ids, if this is its token. Raises: JobNotFound."""
        name = request.match_info["job_id"]
        if token and self._signer.job_token_valid(name, token):
            return await self._jobs.get(name)
        job = await self._jobs.find(name, owner="") if token else None
        if job is None or not self._signer.job_token_valid(job.job_id, token):
            raise JobNotFound("No such job, or not with this job_token; results are kept for a limited time.")
        return job


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
