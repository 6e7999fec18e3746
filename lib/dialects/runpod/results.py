"""Job objects as they go out: with the files that the store does not keep, and encoded where it delays nobody."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from lib.jobs.model import Job, JobStatus
from lib.jobs.service import JobService
from lib.serving.payloads import JSON_TYPE, dumps

BIG_CHARS = 1024 * 1024
"""Results that inline more than this are encoded in a thread."""
NOT_STORED = {"Cache-Control": "no-store"}
Render = Callable[[Job], Mapping[str, Any]]


async def whole(jobs: JobService, job: Job) -> Job:
    """Return a completed job with its inlined files, which the store forgets. Raises: JobNotFound."""
    files = [item for item in job.outputs if item.filename]
    told = all(item.data_base64 is not None or item.error is not None for item in files)
    if job.status is not JobStatus.COMPLETED or not job.spec.delivery.inline_base64 or told:
        return job
    return await jobs.wait(job.job_id)


async def answer(job: Job, render: Render) -> web.Response:
    """Return 200 with what ``render`` makes of the job, however the job came out."""
    big = sum(len(item.data_base64 or "") for item in job.outputs) > BIG_CHARS
    encoded = await asyncio.to_thread(_encoded, job, render) if big else _encoded(job, render)
    return web.Response(body=encoded, headers=NOT_STORED, content_type=JSON_TYPE, charset="utf-8")


def _encoded(job: Job, render: Render) -> bytes:
    return dumps(render(job))
