"""From an HTTP request to a recorded job: read, translated, accepted, or recorded as one that failed at once."""

import asyncio
import uuid
from dataclasses import dataclass, replace

from aiohttp import web

from lib.dialects.runpod.translate import Asked, RunPodPayload
from lib.jobs.model import Job, OnDisconnect
from lib.jobs.service import JobService
from lib.serving.access import caller_of
from lib.serving.links import base_url_of
from lib.serving.payloads import check_json, read_body
from lib.serving.trace_context import traceparent
from lib.settings import ServerSettings
from lib.workflow.decoding import check

BIG_BODY_BYTES = 256 * 1024
"""Bodies above this are decoded and translated in a thread."""
OWN_ID = web.RequestKey("runpod_id", str)
"""The id of the job that a request asks for; error bodies carry it, since a client may look at nothing else."""
SYNC = "sync-"
SUFFIX = "-u1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submissions:
    """Accepts what ``/run`` and ``/runsync`` send."""

    jobs: JobService
    payload: RunPodPayload
    server: ServerSettings

    async def accept(self, request: web.Request, *, awaited: bool) -> Job:
        """Read the request and return its job as recorded. ``awaited``: its caller waits for the result; should he
        leave, it is cancelled, unless the result goes somewhere else.

        Raises: InvalidRequest, UnsafeInput, BodyTooLarge, and what ``JobService.submit`` raises.
        """
        request_id = f"{SYNC if awaited else ''}{uuid.uuid4()}{SUFFIX}"
        request[OWN_ID] = request_id
        asked = await self._read(request, request_id)
        cancelled = awaited and not asked.told_elsewhere
        tenant = caller_of(request).tenant
        spec = replace(
            asked.spec,
            owner=tenant,
            stranger=bool(tenant),
            on_disconnect=OnDisconnect.CANCEL if cancelled else OnDisconnect.KEEP,
            traceparent=traceparent(request.headers),
            delivery=replace(asked.spec.delivery, base_url=base_url_of(request, self.server.public_base_url)),
        )
        return await (self.jobs.submit(spec) if asked.refused is None else self.jobs.refuse(spec, asked.refused))

    async def again(self, job: Job) -> Job:
        """Submit a job that failed once more, under its id; nobody waits for it. One that was refused is so again."""
        spec = replace(job.spec, on_disconnect=OnDisconnect.KEEP)
        if spec.workflow or job.error is None:
            return await self.jobs.submit(spec)
        return await self.jobs.refuse(spec, job.error)

    async def _read(self, request: web.Request, request_id: str) -> Asked:
        check_json(request)
        body = await read_body(request, limit=self.server.max_body_bytes)
        if len(body) < BIG_BODY_BYTES:
            return self._translated(body, request_id)
        return await asyncio.to_thread(self._translated, body, request_id)

    def _translated(self, body: bytes, request_id: str) -> Asked:
        return self.payload.read(check(body), request_id=request_id)
