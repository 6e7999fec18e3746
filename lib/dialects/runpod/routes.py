"""Routes of RunPod's serverless API, as its own clients use them. Handlers read, translate and wait; the work is
JobService's.

Success is 200 and nothing else, also for a job that failed: RunPod's clients take any other status for a failed call.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from aiohttp import web

from lib.clock import Clock
from lib.dialects.runpod import queries, results
from lib.dialects.runpod.answers import Purged
from lib.dialects.runpod.counts import RunPodCounts
from lib.dialects.runpod.docs import operations
from lib.dialects.runpod.queries import PREFIX
from lib.dialects.runpod.render import error_text, shown
from lib.dialects.runpod.streams import Streams
from lib.dialects.runpod.submission import OWN_ID, Submissions
from lib.dialects.runpod.translate import NAME, RunPodPayload
from lib.errors import (
    Draining,
    InvalidRequest,
    JobAlreadyFinished,
    JobNotFound,
    NotReady,
    ServiceError,
)
from lib.jobs.model import Job, JobFilter, JobStatus
from lib.jobs.service import JobService
from lib.protocol.runpod import Shown
from lib.serving.access import Need, Needs, caller_of
from lib.serving.errors import error_headers, status_of
from lib.serving.openapi import Operation
from lib.serving.origins import refuse_links
from lib.serving.payloads import json_response
from lib.settings import RunPodSettings, ServerSettings

STATUS: Mapping[type[ServiceError], int] = {InvalidRequest: 400}
"""Where RunPod's statuses differ from our table."""
RETRIED = "Only a job that is FAILED or TIMED_OUT, and whose request is kept, can be tried again"
UNKNOWN_ID = "Job ID not found"
CANCELLED_BY_CLIENT = "Request cancelled by client"
MOST_LISTED = 100
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PATH_ID = "{job_id:[^/]+}"
_STATE = web.RequestKey("runpod_state", Shown)
_STREAMED = web.RequestKey("runpod_stream", bool)


class RunPodDialect:
    """Implements ``JobDialect``. ``counts`` are what ``health`` tells."""

    name = NAME

    def __init__(
        self,
        *,
        jobs: JobService,
        payload: RunPodPayload,
        counts: RunPodCounts,
        clock: Clock,
        server: ServerSettings,
        settings: RunPodSettings,
    ) -> None:
        self._jobs = jobs
        self._payload = payload
        self._counts = counts
        self._settings = settings
        self._submissions = Submissions(jobs=jobs, payload=payload, server=server)
        self._streams = Streams(jobs=jobs, clock=clock, interval_s=settings.stream_interval_s)

    def routes(self) -> Sequence[web.RouteDef]:
        """Return what is mounted on the API listener. ``/health`` without the prefix is everybody's, and not here."""
        return [*self._routes(""), *self._routes(PREFIX), web.get(f"{PREFIX}/health", self._health)]

    def _routes(self, prefix: str) -> Sequence[web.RouteDef]:
        return [
            web.post(f"{prefix}/run", self._run),
            web.post(f"{prefix}/runsync", self._runsync),
            web.get(f"{prefix}/status/{_PATH_ID}", self._status),
            web.post(f"{prefix}/status/{_PATH_ID}", self._status),
            web.get(f"{prefix}/status-sync/{_PATH_ID}", self._status_sync, allow_head=False),
            web.post(f"{prefix}/status-sync/{_PATH_ID}", self._status_sync),
            web.get(f"{prefix}/stream/{_PATH_ID}", self._stream, allow_head=False),
            web.post(f"{prefix}/stream/{_PATH_ID}", self._stream),
            web.post(f"{prefix}/cancel/{_PATH_ID}", self._cancel),
            web.post(f"{prefix}/retry/{_PATH_ID}", self._retry),
            web.post(f"{prefix}/purge-queue", self._purge),
            web.get(f"{prefix}/requests", self._requests),
        ]

    def needs(self) -> Needs:
        """Say what the routes ask of callers, where that is not just a key."""
        submits = ("run", "runsync", f"retry/{_PATH_ID}")
        return {f"{prefix}/{path}": Need.SUBMIT for prefix in ("", PREFIX) for path in submits}

    def operations(self) -> Sequence[Operation]:
        """Describe the routes for the docs page."""
        return operations()

    def render_error(self, error: ServiceError, request: web.Request) -> web.Response:
        """Answer with a text under ``error``; where the route is about a job with its ``id`` and ``status`` too, final
        unless the job lives, since RunPod's asyncio client looks at these alone."""
        status = status_of(error, STATUS)
        message = UNKNOWN_ID if isinstance(error, JobNotFound) else error.message
        body: dict[str, Any] = {"error": message, "code": error.code, "retryable": error.retryable}
        if name := request.get(OWN_ID) or request.match_info.get("job_id"):
            gone = isinstance(error, JobNotFound)
            body |= {"id": name, "status": Shown.FAILED if gone else request.get(_STATE, Shown.FAILED)}
        if request.get(_STREAMED):
            body["stream"] = []
        if error.details:
            body["details"] = dict(error.details)
        return json_response(body, status=status, headers=error_headers(error, status))

    async def show(self, request: web.Request, job: Job) -> web.Response:
        """Answer with the job object; ``?ttl=`` has the job forgotten after so many milliseconds."""
        _note(request, job)
        ttl_s = queries.ttl_s(request.query)
        if ttl_s is not None:
            refuse_links(request)
        response = await self._answer(job)
        if ttl_s is not None:
            await self._jobs.shorten(job.job_id, ttl_s)
        return response

    async def cancel(self, request: web.Request, job: Job) -> web.Response:
        """Have the job stopped and say so at once, RunPod's clients wait three seconds; one that is over stays so."""
        _note(request, job)
        if not shown(job).final:
            try:
                job = await self._jobs.cancel(job.job_id, reason=CANCELLED_BY_CLIENT, wait=False)
            except JobAlreadyFinished:
                job = await self._jobs.get(job.job_id)
        return json_response(self._payload.render_brief(job))

    # -- submit -------------------------------------------------------------------------------------------------

    async def _run(self, request: web.Request) -> web.Response:
        job = await self._submissions.accept(request, awaited=False)
        if job.status.terminal:
            return await self._answer(job)
        return _accepted(job, Shown.IN_QUEUE)

    async def _runsync(self, request: web.Request) -> web.Response:
        wait_s = queries.wait_s(request.query)
        job = await self._submissions.accept(request, awaited=True)
        if not job.status.terminal:
            job_id = job.job_id
            del job  # whoever waits keeps no pictures alive
            job = await self._waited(job_id, wait_s)
        return await self._answer(job) if shown(job).final else _accepted(job, shown(job))

    async def _waited(self, job_id: str, wait_s: float) -> Job:
        try:
            return await self._jobs.wait(job_id, at_most_s=wait_s)
        except (Draining, NotReady):  # it goes on in the worker's next life
            return await self._jobs.get(job_id)

    async def _retry(self, request: web.Request) -> web.Response:
        job = await self._find(request)
        if job.status is not JobStatus.FAILED or not job.spec.repeatable:
            raise InvalidRequest(f"{RETRIED}; this one is {shown(job)}")
        return _accepted(await self._submissions.again(job), Shown.IN_QUEUE)

    # -- ask ----------------------------------------------------------------------------------------------------

    async def _status(self, request: web.Request) -> web.Response:
        return await self.show(request, await self._find(request))

    async def _status_sync(self, request: web.Request) -> web.Response:
        wait_s = queries.wait_s(request.query)
        job = await self._find(request)
        if not shown(job).final:
            job_id = job.job_id
            del job
            job = await self._jobs.wait_for(job_id, wait_s)
        return await self._answer(job)

    async def _stream(self, request: web.Request) -> web.Response:
        request[_STREAMED] = True
        refuse_links(request)  # what is told once would be told to nobody
        wait_s = queries.wait_s(request.query, usual_s=self._settings.stream_wait_s)
        job = await self._find(request)
        if not shown(job).final:
            job = await self._streams.news(job, wait_s)
        if shown(job).final:
            return await self._ending(job)
        news = self._streams.take(job)
        return json_response(_streamed(job, [] if news is None else [news]))

    async def _ending(self, job: Job) -> web.Response:
        """Tell the end, once: RunPod's Python client never stops asking about a cancelled job but for an error."""
        status = shown(job)
        with self._streams.ending(job) as first:
            if status is Shown.CANCELLED and not first:
                raise JobNotFound("The job was cancelled, and its stream is over.")
            if status is Shown.COMPLETED and first:
                job = await self._jobs.whole(job)
                return await results.answer(job, lambda job: _streamed(job, [self._payload.output(job)]))
            failed = status in (Shown.FAILED, Shown.TIMED_OUT)
            return json_response(_streamed(job, []) | ({"error": error_text(job)} if failed else {}))

    async def _requests(self, request: web.Request) -> web.Response:
        asked = JobFilter(owner=caller_of(request).owner, dialect=NAME, limit=MOST_LISTED)
        newest = {job.spec.request_id: job for job in reversed(await self._jobs.listed(asked))}
        return json_response({"requests": [self._payload.render_brief(job) for job in reversed(newest.values())]})

    async def _health(self, request: web.Request) -> web.Response:
        return json_response(self._counts.health(), headers=results.NOT_STORED)

    # -- act ----------------------------------------------------------------------------------------------------

    async def _cancel(self, request: web.Request) -> web.Response:
        return await self.cancel(request, await self._find(request))

    async def _purge(self, request: web.Request) -> web.Response:
        """Cancel what this caller has in the queue."""
        owner = caller_of(request).owner
        waiting = [
            job.job_id
            for job in self._jobs.live_jobs
            if job.spec.dialect == NAME and owner in (None, job.spec.owner) and shown(job) is Shown.IN_QUEUE
        ]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._remove(job_id)) for job_id in waiting]
        removed = sum(task.result() for task in tasks)
        return json_response(Purged(removed=removed, status=JobStatus.COMPLETED).model_dump())

    async def _remove(self, job_id: str) -> bool:
        with suppress(JobAlreadyFinished, JobNotFound):
            await self._jobs.cancel(job_id, reason="Removed from the queue", wait=False)
            return True
        return False

    # -- find and answer ----------------------------------------------------------------------------------------

    async def _find(self, request: web.Request) -> Job:
        """Return the newest run of the job that the path names. Raises: JobNotFound."""
        named, owner = request.match_info["job_id"], caller_of(request).owner
        if named == queries.LATEST:
            newest = await self._jobs.listed(JobFilter(owner=owner, dialect=NAME, limit=1))
            named = newest[0].job_id if newest else ""
        if not _ID.fullmatch(named):
            raise JobNotFound(UNKNOWN_ID)
        job = await self._jobs.find(named, owner=owner)
        if job.spec.dialect != NAME:
            raise JobNotFound(UNKNOWN_ID)
        _note(request, job)
        return job

    async def _answer(self, job: Job) -> web.Response:
        return await results.answer(await self._jobs.whole(job), self._payload.render)


def _note(request: web.Request, job: Job) -> None:
    """Have an error's body name the job; the job itself would be kept alive by the request."""
    request[OWN_ID], request[_STATE] = job.spec.request_id, shown(job)


def _accepted(job: Job, status: Shown) -> web.Response:
    return json_response({"id": job.spec.request_id, "status": status})


def _streamed(job: Job, chunks: Sequence[Any]) -> dict[str, Any]:
    stream = [{"output": chunk} for chunk in chunks]
    return {"id": job.spec.request_id, "status": shown(job), "stream": stream}
