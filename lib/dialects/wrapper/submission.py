"""From an HTTP request to an accepted job: its body in either form, its headers, its caller."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from lib.dialects.wrapper.headers import idempotency_key
from lib.dialects.wrapper.parts import Uploads, is_form, read_form, with_files
from lib.dialects.wrapper.translate import Asked, WrapperPayload
from lib.jobs.copies import changed
from lib.jobs.model import Idempotency, Job, JobSpec, OnDisconnect
from lib.jobs.service import JobService
from lib.serving.access import caller_of
from lib.serving.links import base_url_of
from lib.serving.payloads import read_body, require_json
from lib.serving.trace_context import traceparent
from lib.settings import ServerSettings
from lib.workflow.decoding import check

BIG_BODY_BYTES = 256 * 1024
"""Bodies above this are decoded and translated in a thread."""
JOB_REQUEST_ID = web.RequestKey("job_request_id", str)
"""The caller's id, once it is known; error bodies carry it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What became of a request. ``replayed``: an earlier one with the same ``Idempotency-Key`` made this job."""

    job: Job
    replayed: bool = False
    sync_timeout_s: float | None = None


class Submissions:
    """Accepts the requests of all submit routes."""

    def __init__(
        self, *, jobs: JobService, payload: WrapperPayload, server: ServerSettings, uploads: Uploads | None
    ) -> None:
        self._jobs = jobs
        self._payload = payload
        self._server = server
        self._uploads = uploads

    async def accept(self, request: web.Request, *, on_disconnect: OnDisconnect) -> Submitted:
        """Read the request, submit its job, return it as recorded.

        A caller with an ``Idempotency-Key`` means to ask again when the connection is lost: the job is kept then.
        Raises: InvalidRequest, InvalidWorkflow, UnsafeInput, BodyTooLarge, and what ``JobService.submit`` raises.
        """
        key = idempotency_key(request.headers)
        asked = await self._read(request)
        spec = self._completed(asked.spec, request, on_disconnect=on_disconnect, key=key)
        request[JOB_REQUEST_ID] = spec.request_id
        job = await self._jobs.submit(spec)
        if spec.on_disconnect is OnDisconnect.KEEP and job.spec.on_disconnect is not OnDisconnect.KEEP:
            job = await self._jobs.keep(job.job_id)  # it was a synchronous caller's, and is ours too from now on
        return Submitted(job=job, replayed=key is not None and job.status.terminal, sync_timeout_s=asked.sync_timeout_s)

    def base_url(self, request: web.Request) -> str:
        """Return how this caller reaches us; the origin policy has checked the host he names."""
        return base_url_of(request, self._server.public_base_url)

    async def _read(self, request: web.Request) -> Asked:
        limit = self._server.max_body_bytes
        stored: Mapping[str, str] = {}
        if self._uploads is not None and is_form(request):
            tenant = caller_of(request).tenant
            body, stored = await read_form(request, limit=limit, uploads=self._uploads, owner=tenant)
        else:
            require_json(request)
            body = await read_body(request, limit=limit)
        if len(body) < BIG_BODY_BYTES:
            return self._translate(body, stored, request.headers)
        return await asyncio.to_thread(self._translate, body, stored, request.headers)

    def _translate(self, body: bytes, stored: Mapping[str, str], headers: Mapping[str, str]) -> Asked:
        payload: Any = with_files(body, stored) if stored else check(body)
        return self._payload.read(payload, headers)

    def _completed(
        self, spec: JobSpec, request: web.Request, *, on_disconnect: OnDisconnect, key: str | None
    ) -> JobSpec:
        tenant = caller_of(request).tenant
        return changed(
            spec,
            owner=tenant,
            stranger=bool(tenant),
            idempotency=None if key is None else Idempotency(scope=f"{tenant} {request.path}", key=key),
            on_disconnect=on_disconnect if key is None else OnDisconnect.KEEP,
            traceparent=traceparent(request.headers),
            delivery=changed(spec.delivery, base_url=self.base_url(request)),
        )
