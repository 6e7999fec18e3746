"""A job's result as it goes out, encoded where it delays nobody."""

import asyncio
from collections.abc import Mapping

from aiohttp import web

from lib.dialects.wrapper.render import http_status, render
from lib.jobs.model import Job
from lib.serving.errors import error_headers
from lib.serving.payloads import JSON_TYPE, dumps

BIG_CHARS = 1024 * 1024
"""Results that inline more than this are encoded in a thread."""


def is_big(job: Job) -> bool:
    """Whether encoding the result would hold up the event loop."""
    return sum(len(output.data_base64 or "") for output in job.outputs) > BIG_CHARS


async def answer(job: Job, *, include_response: bool, headers: Mapping[str, str]) -> web.Response:
    """Return the result with the status that it deserves; a failed job is never 2xx."""
    status = http_status(job)
    own = error_headers(job.error, status) if job.error is not None else {}
    encoded = await asyncio.to_thread(_encode, job, include_response) if is_big(job) else _encode(job, include_response)
    return web.Response(
        body=encoded, status=status, headers={**headers, **own}, content_type=JSON_TYPE, charset="utf-8"
    )


def _encode(job: Job, include_response: bool) -> bytes:
    return dumps(render(job, include_response=include_response))
