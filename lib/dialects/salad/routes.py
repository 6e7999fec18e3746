"""Routes of comfyui-api on the API listener. Handlers read, translate and wait; the work is JobService's."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from lib.dialects.salad import results
from lib.dialects.salad.docs import operations
from lib.dialects.salad.downloads import Downloading, Models
from lib.dialects.salad.endpoints import endpoint_operations
from lib.dialects.salad.render import error_of
from lib.dialects.salad.schema import SaladInterrupt, parse
from lib.dialects.salad.submission import Submissions, Submitted
from lib.dialects.salad.translate import NAME, SaladPayload
from lib.errors import InvalidRequest, JobAlreadyFinished, JobNotFound, ServiceError
from lib.jobs.model import Job, JobStatus
from lib.jobs.service import JobService
from lib.lifecycle import Tasks
from lib.serving.access import Need, Needs, caller_of
from lib.serving.links import base_url_of
from lib.serving.openapi import Operation
from lib.serving.payloads import dumps, json_response
from lib.settings import SaladSettings, ServerSettings
from lib.workflow.parameters import Options, no_options

if TYPE_CHECKING:
    from lib.workflow.endpoints.folder import WorkflowFolder

INTERRUPTED = "Prompt was interrupted"
WAIT = "wait"
YAML_TYPE = "application/yaml"
_PATH = "{path:.+}"
Document = Callable[[], Awaitable[Mapping[str, Any]]]


class SaladDialect:
    """Implements ``JobDialect``.

    ``models``: ComfyUI's; ``document``: the OpenAPI document of the listener, asked for at each request; ``folder``:
    workflow endpoints, where there are any; ``options``: what ComfyUI offers for an input of a node class.
    """

    name = NAME

    def __init__(
        self,
        *,
        jobs: JobService,
        payload: SaladPayload,
        models: Models,
        document: Document,
        tasks: Tasks,
        server: ServerSettings,
        settings: SaladSettings,
        folder: "WorkflowFolder | None" = None,
        options: Options = no_options,
    ) -> None:
        self._jobs = jobs
        self._models = models
        self._document = document
        self._server = server
        self._settings = settings
        self._folder = folder
        self._options = options
        self._downloading = Downloading(models=models, tasks=tasks)
        self._submissions = Submissions(jobs=jobs, payload=payload, server=server, settings=settings)

    def routes(self) -> Sequence[web.RouteDef]:
        """Return what is mounted on the API listener. ``/health``, ``/ready`` and ``/docs`` are everybody's, and not
        here."""
        return [
            web.post("/prompt", self._prompt),
            web.post(f"/workflow/{_PATH}", self._workflow),
            web.post(f"/workflows/{_PATH}", self._workflow),
            web.post("/interrupt", self._interrupt),
            web.get("/models", self._show_models),
            web.post("/download", self._download),
            web.get("/docs/json", self._show_json),
            web.get("/docs/yaml", self._show_yaml),
        ]

    def needs(self) -> Needs:
        """Say what the routes ask of callers, where that is not just a key."""
        submits = ("/prompt", f"/workflow/{_PATH}", f"/workflows/{_PATH}", "/download")
        return dict.fromkeys(submits, Need.SUBMIT) | dict.fromkeys(("/docs/json", "/docs/yaml"), Need.FREE)

    def operations(self) -> Sequence[Operation]:
        """Describe the routes for the docs page, those of single workflow files aside."""
        return operations()

    async def endpoint_operations(self) -> Sequence[Operation]:
        """Describe the workflow endpoints as they are now, with what ComfyUI offers now."""
        if self._folder is None:
            return ()
        await self._folder.refresh()
        endpoints = self._folder.endpoints.values()
        shown = self._models.shown(self._options, tenant=None)
        return endpoint_operations(endpoints, options=shown, tables=self._settings.markdown_descriptions)

    def render_error(self, error: ServiceError, request: web.Request) -> web.Response:
        """Answer in the form of Salad's server, always with the reason."""
        return results.refused(error)

    async def show(self, request: web.Request, job: Job) -> web.Response:
        """Answer with the job's state, or as ``/prompt`` would have, after ``?wait=`` seconds."""
        wait_s = self._wait_s(request.query)
        if wait_s and not job.status.terminal:
            job = await self._jobs.wait_for(job.job_id, wait_s)
        about = {"id": job.spec.request_id}
        if not job.status.terminal:
            return json_response({**about, "status": job.status, "progress": round(job.progress.percent, 2)})
        job = await self._jobs.whole(job)
        lost = job.status is JobStatus.COMPLETED and error_of(job) is not None
        status = {"status": JobStatus.FAILED if lost else job.status}
        return await results.finished(job, about, behind=status)

    async def cancel(self, request: web.Request, job: Job) -> web.Response:
        """Stop this job, whether it waits or runs, or say that it is over."""
        try:
            await self._jobs.cancel(job.job_id, reason=INTERRUPTED, wait=False)
        except JobAlreadyFinished:
            return _not_interrupted(job.spec.request_id)
        return json_response({"id": job.spec.request_id, "interrupted": "success"})

    # -- submit -------------------------------------------------------------------------------------------------

    async def _prompt(self, request: web.Request) -> web.Response:
        return await self._answer(await self._submissions.prompt(request))

    async def _workflow(self, request: web.Request) -> web.Response:
        name = request.match_info["path"]
        endpoint = None if self._folder is None else await self._folder.find(name)
        if endpoint is None:
            path = request.path[request.path.index("/workflow") :]  # a router's requests have a prefix of their own
            return results.no_route(request, path=path)
        options = self._models.shown(self._options, tenant=_told_as(request))
        return await self._answer(await self._submissions.workflow(request, endpoint, options=options))

    async def _answer(self, submitted: Submitted) -> web.Response:
        if submitted.job is not None:
            return results.accepted(submitted.job, submitted.echo, behind=submitted.behind)
        job = await self._jobs.wait(submitted.job_id)
        return await results.finished(job, submitted.echo, behind=submitted.behind)

    # -- act and ask --------------------------------------------------------------------------------------------

    async def _interrupt(self, request: web.Request) -> web.Response:
        named = parse(SaladInterrupt, await self._submissions.body(request)).id
        try:
            job = await self._jobs.find(named, owner=caller_of(request).owner)
            if job.spec.dialect == NAME:
                return await self.cancel(request, job)
        except JobNotFound:
            pass
        return _not_interrupted(named)

    async def _show_models(self, request: web.Request) -> web.Response:
        return json_response(await self._models.listed(tenant=_told_as(request)), headers=results.NOT_STORED)

    async def _download(self, request: web.Request) -> web.Response:
        body = await self._submissions.body(request)
        return await self._downloading.answer(body, owner=caller_of(request).tenant)

    async def _show_json(self, request: web.Request) -> web.Response:
        return json_response(await self._own_document(request), headers=results.NOT_STORED)

    async def _show_yaml(self, request: web.Request) -> web.Response:
        document = await self._own_document(request)
        return web.Response(
            text=await asyncio.to_thread(_as_yaml, document), content_type=YAML_TYPE, headers=results.NOT_STORED
        )

    async def _own_document(self, request: web.Request) -> dict[str, Any]:
        """With a server that tools of other hosts can name, as in Salad's document."""
        own = {"default": base_url_of(request, self._server.public_base_url)}
        servers = [{"url": "{accessDomainName}", "variables": {"accessDomainName": own}}]
        return {**await self._document(), "servers": servers}

    def _wait_s(self, query: Mapping[str, str]) -> float:
        try:
            asked = float(query.get(WAIT, 0.0))
        except ValueError:
            asked = math.nan
        if not math.isfinite(asked) or asked < 0:
            raise InvalidRequest("wait must be a number of seconds, 0 or more", details={"field": WAIT})
        return min(asked, self._server.long_poll_max_s)


def _told_as(request: web.Request) -> str:
    """The tenant whose models the caller is told of; "" where he may know of everybody's."""
    caller = caller_of(request)
    return "" if caller.owner is None else caller.tenant


def _as_yaml(document: Mapping[str, Any]) -> str:
    import yaml  # rarely wanted

    plain = orjson.loads(dumps(document))  # PyYAML knows no enumerations
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # of libyaml, four times as fast; callers need no key
    return str(yaml.dump(plain, Dumper=dumper, sort_keys=False, allow_unicode=True))


def _not_interrupted(request_id: str) -> web.Response:
    return json_response({"id": request_id, "interrupted": JobStatus.FAILED}, status=HTTPStatus.NOT_FOUND)
