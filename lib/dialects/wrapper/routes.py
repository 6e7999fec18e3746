"""Routes of the API wrapper on the API listener. Handlers read, translate and wait; the work is JobService's."""

import re
from collections.abc import Sequence

from aiohttp import hdrs, web

from lib.clock import Clock
from lib.dialects.wrapper import results
from lib.dialects.wrapper.answers import Shown
from lib.dialects.wrapper.docs import operations
from lib.dialects.wrapper.headers import APPLIED_HEADER, PREFER_HEADER, REPLAYED_HEADER, Preference, preference, wait_s
from lib.dialects.wrapper.parts import Uploads
from lib.dialects.wrapper.queues import QueueSizes
from lib.dialects.wrapper.render import STATUS, UNKNOWN_ID, render_refusal, status_url
from lib.dialects.wrapper.streaming import Streaming
from lib.dialects.wrapper.submission import JOB_REQUEST_ID, Submissions, Submitted
from lib.dialects.wrapper.translate import NAME, WrapperPayload
from lib.errors import JobAlreadyFinished, JobConflict, JobNotFound, ServiceError
from lib.jobs.model import Job, JobStatus, OnDisconnect
from lib.jobs.service import JobService
from lib.serving.access import Need, Needs, caller_of
from lib.serving.errors import error_headers, status_of
from lib.serving.openapi import Operation
from lib.serving.payloads import json_response
from lib.serving.signing import Signer
from lib.serving.sse import EventStreams
from lib.settings import ServerSettings

ACCEPTED = "Request accepted"
CANCELLED_BY_CLIENT = "Request cancelled by client"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_JOB = "{job_id:[^/]+}"
_HEADERS = web.RequestKey("job_headers", dict[str, str])


class WrapperDialect:
    """Implements ``Dialect``, and ``PayloadDialect`` by its payload format.

    ``uploads``: where the files of multipart requests go; without it those are refused. With a ``signer`` links
    carry the job's token, for callers whose keys do not travel with a link.
    """

    name = NAME

    def __init__(
        self,
        *,
        jobs: JobService,
        payload: WrapperPayload,
        streams: EventStreams,
        clock: Clock,
        server: ServerSettings,
        uploads: Uploads | None = None,
        signer: Signer | None = None,
    ) -> None:
        self._jobs = jobs
        self._server = server
        self._signer = signer
        self._sizes = QueueSizes(jobs, clock=clock)
        self._submissions = Submissions(jobs=jobs, payload=payload, server=server, uploads=uploads)
        self._streaming = Streaming(jobs=jobs, streams=streams, sizes=self._sizes, clock=clock)
        self.parse = payload.parse
        self.wants_response = payload.wants_response
        self.render = payload.render
        self.render_accepted = payload.render_accepted
        self.render_webhook = payload.render_webhook

    def routes(self) -> Sequence[web.RouteDef]:
        """Return what is mounted on the API listener."""
        return [
            web.post("/generate", self._generate),
            web.post("/generate/sync", self._generate_sync),
            web.post("/generate/stream", self._generate_stream),
            web.get(f"/generate/stream/{_JOB}", self._resume_stream, allow_head=False),
            web.get(f"/result/{_JOB}", self._result, allow_head=False),
            web.post(f"/cancel/{_JOB}", self._cancel),
            web.get("/queue-info", self._queue_info),
        ]

    def needs(self) -> Needs:
        """Say what the routes ask of callers, where that is not just a key."""
        return dict.fromkeys(("/generate", "/generate/sync", "/generate/stream"), Need.SUBMIT)

    def operations(self) -> Sequence[Operation]:
        """Describe the routes for the docs page."""
        return operations()

    def render_error(self, error: ServiceError, request: web.Request) -> web.Response:
        """Answer in the wrapper's form: a ``detail`` list, or a result that failed."""
        status = status_of(error, STATUS)
        named = request.match_info.get("job_id", "")
        own = error_headers(error, status)
        if isinstance(error, JobNotFound) and "/cancel/" in request.path:
            return json_response({"error": f"Request {named} not found"}, status=status, headers=own)
        body = render_refusal(error, request.get(JOB_REQUEST_ID, named))
        if isinstance(error, JobConflict) and (other := error.details.get("job_id")):
            base_url, token = self._submissions.base_url(request), self._token(str(other))
            body["status_url"] = own[hdrs.LOCATION] = status_url(base_url, str(other), job_token=token)
        return json_response(body, status=status, headers=own)

    async def stream(
        self,
        request: web.Request,
        job_id: str,
        *,
        include_response: bool,
        job_token: str | None = None,
        base_url: str | None = None,
    ) -> web.StreamResponse:
        """Answer with the job's events until its end, or from where the reader left. Raises: JobNotFound."""
        return await self._streaming.answer(
            request,
            await self._jobs.get(job_id),
            include_response=include_response,
            base_url=base_url or self._submissions.base_url(request),
            job_token=job_token,
            headers=request.get(_HEADERS, {}),
        )

    # -- submit -------------------------------------------------------------------------------------------------

    async def _generate(self, request: web.Request) -> web.Response:
        submitted = await self._submit(request, OnDisconnect.KEEP)
        return self._accepted(submitted.job, request, fresh=not submitted.replayed)

    async def _generate_sync(self, request: web.Request) -> web.Response:
        prefer = preference(request.headers.getall(PREFER_HEADER, ()))
        submitted = await self._submit(request, OnDisconnect.CANCEL)
        caps = (submitted.sync_timeout_s, prefer.cap_s if prefer is not None else None)
        cap_s = min((cap for cap in caps if cap is not None), default=None)
        job_id = submitted.job.job_id
        del submitted  # whoever waits keeps neither body nor graph alive
        job = await self._jobs.wait(job_id, at_most_s=cap_s)
        if job.status.terminal:
            return await self._answer(job, request)
        return self._accepted(job, request, applied=prefer)

    async def _generate_stream(self, request: web.Request) -> web.StreamResponse:
        submitted = await self._submit(request, OnDisconnect.KEEP)
        return await self._stream(request, submitted.job.job_id)

    async def _submit(self, request: web.Request, on_disconnect: OnDisconnect) -> Submitted:
        submitted = await self._submissions.accept(request, on_disconnect=on_disconnect)
        request[_HEADERS] = {REPLAYED_HEADER: "true"} if submitted.replayed else {}
        return submitted

    # -- ask ----------------------------------------------------------------------------------------------------

    async def _resume_stream(self, request: web.Request) -> web.StreamResponse:
        job = await self._find(request)
        return await self._stream(request, job.job_id)

    async def _result(self, request: web.Request) -> web.Response:
        return await self.show(request, await self._find(request))

    async def _cancel(self, request: web.Request) -> web.Response:
        return await self.cancel(request, await self._find(request))

    async def show(self, request: web.Request, job: Job) -> web.Response:
        """Answer with the job's state or result, after ``?wait=``."""
        limit_s = wait_s(request.query, most_s=self._server.long_poll_max_s)
        if limit_s and not job.status.terminal:
            job = await self._jobs.wait_for(job.job_id, limit_s)
        return await self._answer(await self._jobs.whole(job), request)

    async def cancel(self, request: web.Request, job: Job) -> web.Response:
        """Cancel the job, or say that it is over."""
        named = request.match_info["job_id"]
        if not job.status.terminal:
            try:
                job = await self._jobs.cancel(job.job_id, reason=CANCELLED_BY_CLIENT)
            except JobAlreadyFinished:
                job = await self._jobs.get(job.job_id)
            else:
                if job.status is JobStatus.CANCELLED:
                    message = f"Successfully cancelled request {named}"
                    return json_response({"message": message, "status": job.status})
        return json_response({"message": f"Request {named} is already {job.status}", "status": job.status})

    async def _queue_info(self, request: web.Request) -> web.Response:
        return json_response(self._sizes.queue_info())

    async def _find(self, request: web.Request) -> Job:
        named = request.match_info["job_id"]
        if not _ID.fullmatch(named):
            raise JobNotFound(UNKNOWN_ID)
        return await self._jobs.find(named, owner=caller_of(request).owner)

    # -- answer -------------------------------------------------------------------------------------------------

    async def _answer(self, job: Job, request: web.Request) -> web.Response:
        include_response = self.wants_response(request.headers)
        return await results.answer(job, include_response=include_response, headers=request.get(_HEADERS, {}))

    def _accepted(
        self, job: Job, request: web.Request, *, applied: Preference | None = None, fresh: bool = False
    ) -> web.Response:
        """Answer 202. Upstream's clients know a ``fresh`` job as pending, however far it is when they hear of it."""
        base_url = self._submissions.base_url(request)
        body = self.render_accepted(job, base_url=base_url, job_token=self._token(job.job_id))
        if fresh:
            body.update(status=Shown.PENDING, message=ACCEPTED)
        own = {**request.get(_HEADERS, {}), str(hdrs.LOCATION): str(body["status_url"])}
        if applied is not None:
            own[APPLIED_HEADER] = applied.applied
        return json_response(body, status=202, headers=own)

    async def _stream(self, request: web.Request, job_id: str) -> web.StreamResponse:
        include_response = self.wants_response(request.headers)
        token = self._token(job_id)
        return await self.stream(request, job_id, include_response=include_response, job_token=token)

    def _token(self, job_id: str) -> str | None:
        return None if self._signer is None else self._signer.job_token(job_id)
