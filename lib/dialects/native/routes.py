"""Our own routes on the API listener: jobs of every dialect, their files, uploads, dead letters."""

from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from aiohttp import web

from lib.clock import Clock
from lib.dialects.native import inputs, outputs, translate
from lib.dialects.native.docs import operations
from lib.dialects.native.inputs import Inputs
from lib.dialects.native.outputs import OutputFiles
from lib.dialects.native.schema import DeadLetters, JobPage, Revived
from lib.dialects.native.translate import MOST_PER_PAGE, PAGE, OutputNames
from lib.errors import ServiceError
from lib.jobs.model import Job, JobView
from lib.jobs.ports import Outbox
from lib.jobs.service import JobService
from lib.serving.access import Need, Needs, caller_of
from lib.serving.middleware import render_plain
from lib.serving.openapi import Operation
from lib.serving.payloads import json_response

ACCEPTED = 202


class NativeDialect:
    """Implements ``Dialect``. ``wake`` tells the sender of webhooks that something is due again."""

    name = translate.NAME

    def __init__(
        self,
        *,
        jobs: JobService,
        names: OutputNames,
        files: OutputFiles,
        uploads: Inputs,
        outbox: Outbox,
        wake: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._jobs = jobs
        self._names = names
        self._files = files
        self._uploads = uploads
        self._outbox = outbox
        self._wake = wake
        self._clock = clock

    def routes(self) -> Sequence[web.RouteDef]:
        """Return what is mounted on the API listener."""
        return [
            web.get("/jobs", self._list_jobs),
            web.get("/jobs/{job_id}", self._show_job),
            *self._files.routes(),
            *self._uploads.routes(),
            web.get("/webhooks/dead", self._dead),
            web.post("/webhooks/dead/{message_id}/retry", self._retry),
        ]

    def needs(self) -> Needs:
        """Say what the routes ask of callers, where that is not a key."""
        return {outputs.MOUNTED: Need.LINK, inputs.ROUTE: Need.SUBMIT}

    def operations(self) -> Sequence[Operation]:
        """Describe the routes for the docs page."""
        return operations()

    def render_error(self, error: ServiceError, request: web.Request) -> web.Response:
        """Answer with our own error body."""
        return render_plain(error, request)

    async def _list_jobs(self, request: web.Request) -> web.Response:
        caller = caller_of(request)
        asked = translate.listing(request.query, caller)
        found = await self._jobs.listed(replace(asked, limit=asked.limit + 1))
        shown = found[: asked.limit]
        more = translate.next_page(request.query, shown[-1]) if len(found) > len(shown) else None
        page = JobPage(jobs=[translate.job_object(job, names=self._names, caller=caller) for job in shown], next=more)
        headers = {"Link": f'<{more}>; rel="next"'} if more else None
        return json_response(translate.dumped(page), headers=headers)

    async def _show_job(self, request: web.Request) -> web.Response:
        caller = caller_of(request)
        job = await self._jobs.find(request.match_info["job_id"], owner=caller.owner)
        view = None if job.status.terminal else await self._view(job)
        shown = translate.job_object(job, names=self._names, caller=caller, view=view)
        return json_response(translate.dumped(shown), headers={"Cache-Control": "no-store"})

    async def _view(self, job: Job) -> JobView | None:
        async with aclosing(self._jobs.watch(job.job_id)) as views:
            return await anext(views, None)

    async def _dead(self, request: web.Request) -> web.Response:
        caller = caller_of(request)
        limit = translate.number(request.query, "limit", most=MOST_PER_PAGE, default=PAGE)
        items = await self._outbox.dead(owner=caller.owner, limit=limit)
        letters = DeadLetters(messages=[translate.dead_letter(item, caller) for item in items])
        return json_response(translate.dumped(letters))

    async def _retry(self, request: web.Request) -> web.Response:
        message_id = request.match_info["message_id"]
        if not await self._outbox.revive(message_id, owner=caller_of(request).owner, now=self._clock.now()):
            raise web.HTTPNotFound
        self._wake()
        return json_response(translate.dumped(Revived(message_id=message_id)), status=ACCEPTED)
