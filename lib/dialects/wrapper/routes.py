"""Routes of the API wrapper on the API listener. Handlers read, translate and wait; the work is JobService's."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from lib.dialects.wrapper import translate
from lib.dialects.wrapper.docs import operations
from lib.dialects.wrapper.translate import WrapperPayload
from lib.errors import ServiceError
from lib.jobs.model import Job, JobSpec
from lib.jobs.service import JobService
from lib.serving.errors import error_headers, status_of
from lib.serving.openapi import Operation
from lib.serving.payloads import json_response, read_body, require_json
from lib.workflow.decoding import check

BIG_BODY_BYTES = 256 * 1024
"""Bodies above this are decoded and translated in a thread."""
_JOB_REQUEST_ID = web.RequestKey("job_request_id", str)


class WrapperDialect:
    """Implements ``Dialect``, and ``PayloadDialect`` by its payload format."""

    name = translate.NAME

    def __init__(self, *, jobs: JobService, payload: WrapperPayload, max_body_bytes: int) -> None:
        self._jobs = jobs
        self._payload = payload
        self._max_body_bytes = max_body_bytes
        self.parse = payload.parse
        self.wants_response = payload.wants_response
        self.render = payload.render
        self.render_webhook = payload.render_webhook

    def routes(self) -> Sequence[web.RouteDef]:
        """Return what is mounted on the API listener."""
        return [web.post("/generate/sync", self._generate_sync)]

    def operations(self) -> Sequence[Operation]:
        """Describe the routes for the docs page."""
        return operations()

    def render_error(self, error: ServiceError, request: web.Request) -> web.Response:
        """Answer in the wrapper's form: a ``detail`` list, or a result that failed."""
        status = status_of(error, translate.STATUS)
        body = translate.render_refusal(error, request.get(_JOB_REQUEST_ID, ""))
        return json_response(body, status=status, headers=error_headers(error, status))

    async def _generate_sync(self, request: web.Request) -> web.Response:
        job_id = await self._submit(request)
        return self._answer(await self._jobs.wait(job_id), request.headers)

    async def _submit(self, request: web.Request) -> str:
        """Return the id only: whoever waits keeps neither body nor graph alive."""
        spec = await self._spec(request)
        request[_JOB_REQUEST_ID] = spec.request_id
        return (await self._jobs.submit(spec)).job_id

    async def _spec(self, request: web.Request) -> JobSpec:
        require_json(request)
        body = await read_body(request, limit=self._max_body_bytes)
        if len(body) < BIG_BODY_BYTES:
            return self._translate(body, request.headers)
        return await asyncio.to_thread(self._translate, body, request.headers)

    def _translate(self, body: bytes, headers: Mapping[str, str]) -> JobSpec:
        return self._payload.parse(check(body), headers)

    def _answer(self, job: Job, headers: Mapping[str, str]) -> web.Response:
        status = translate.http_status(job)
        body: dict[str, Any] = self._payload.render(job, include_response=self._payload.wants_response(headers))
        return json_response(body, status=status, headers=error_headers(job.error, status) if job.error else None)
