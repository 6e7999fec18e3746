"""From an HTTP request to an accepted job: read, translated, submitted."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from aiohttp import web

from lib.dialects.salad.echo import lean
from lib.dialects.salad.probes import is_full
from lib.dialects.salad.schema import SaladWorkflowRequest, parse
from lib.dialects.salad.translate import Asked, SaladPayload
from lib.errors import Overloaded
from lib.jobs.model import Job, OnDisconnect
from lib.jobs.service import JobService
from lib.serving.access import caller_of
from lib.serving.links import base_url_of
from lib.serving.payloads import check_json, read_body
from lib.serving.trace_context import traceparent
from lib.settings import SaladSettings, ServerSettings
from lib.workflow.decoding import check
from lib.workflow.endpoints.endpoint import Endpoint
from lib.workflow.parameters import Options

BIG_BYTES = 256 * 1024
"""Bodies above this are decoded and translated in a thread."""
BUSY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """An accepted request. ``job`` is there where its caller is answered at once: who waits keeps no graph alive.
    ``behind`` is what its answers end with."""

    job_id: str
    echo: Mapping[str, Any] = field(repr=False)
    behind: Mapping[str, Any] = field(default_factory=dict, repr=False)
    job: Job | None = None


class Submissions:
    """Accepts what ``/prompt`` and the workflow endpoints are sent."""

    def __init__(
        self,
        *,
        jobs: JobService,
        payload: SaladPayload,
        server: ServerSettings,
        settings: SaladSettings,
    ) -> None:
        self._jobs = jobs
        self._payload = payload
        self._server = server
        self._settings = settings

    async def prompt(self, request: web.Request) -> Submitted:
        """Accept a body of ``/prompt``.

        Raises: InvalidRequest, InvalidWorkflow, UnsafeInput, BodyTooLarge, and what ``JobService.submit`` raises.
        """
        self._check_room()
        body = await self._read(request)
        if len(body) < BIG_BYTES:
            return await self._submitted(request, self._prompt(body))
        return await self._submitted(request, await asyncio.to_thread(self._prompt, body))

    async def workflow(self, request: web.Request, endpoint: Endpoint, *, options: Options) -> Submitted:
        """Accept a body of a workflow endpoint. ``options``: what ComfyUI offers. Raises: as ``prompt``."""
        self._check_room()
        body = await self._read(request)
        big = len(body) >= BIG_BYTES
        given = await asyncio.to_thread(check, body) if big else check(body)
        asked = parse(SaladWorkflowRequest, given)
        bound = await endpoint.bind(asked.input, options=options)
        identity = {"endpoint": endpoint.name, "body": given}
        ask = partial(self._payload.ask, asked, bound.graph, identity=identity)
        translated = await asyncio.to_thread(ask) if big else ask()
        return await self._submitted(request, translated, behind={"input": lean(bound.values)})

    async def body(self, request: web.Request) -> Any:
        """Return a small decoded body. Raises: InvalidRequest, BodyTooLarge."""
        return check(await self._read(request))

    async def _read(self, request: web.Request) -> bytes:
        """Salad's server answers 400 whatever is wrong with a body, its type included."""
        check_json(request)
        return await read_body(request, limit=self._server.max_body_bytes)

    def _prompt(self, body: bytes) -> Asked:
        return self._payload.read(check(body))

    def _check_room(self) -> None:
        if is_full(self._jobs, self._settings.max_queue_depth):
            text = f"The queue is full (MAX_QUEUE_DEPTH={self._settings.max_queue_depth}); retry shortly"
            raise Overloaded(text, retry_after_s=BUSY_S)

    async def _submitted(
        self, request: web.Request, asked: Asked, *, behind: Mapping[str, Any] | None = None
    ) -> Submitted:
        tenant = caller_of(request).tenant
        base_url = base_url_of(request, self._server.public_base_url)
        spec = replace(
            asked.spec,
            owner=tenant,
            stranger=bool(tenant),
            traceparent=traceparent(request.headers),
            delivery=replace(asked.spec.delivery, base_url=base_url),
        )
        job = await self._jobs.submit(spec)
        if spec.on_disconnect is OnDisconnect.KEEP and job.spec.on_disconnect is not OnDisconnect.KEEP:
            job = await self._jobs.keep(job.job_id)  # it was a waiting caller's, and is kept from now on
        return Submitted(job_id=job.job_id, echo=asked.echo, behind=behind or {}, job=job if asked.at_once else None)
