"""Job objects as they go out, encoded where it delays nobody."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from lib.jobs.model import Job
from lib.serving.payloads import JSON_TYPE, dumps

BIG_CHARS = 1024 * 1024
"""Results that inline more than this are encoded in a thread."""
NOT_STORED = {"Cache-Control": "no-store"}
Render = Callable[[Job], Mapping[str, Any]]


async def answer(job: Job, render: Render) -> web.Response:
    """Return 200 with what ``render`` makes of the job, however the job came out."""
    big = sum(len(item.data_base64 or "") for item in job.outputs) > BIG_CHARS
    encoded = await asyncio.to_thread(_encoded, job, render) if big else _encoded(job, render)
    return web.Response(body=encoded, headers=NOT_STORED, content_type=JSON_TYPE, charset="utf-8")


def _encoded(job: Job, render: Render) -> bytes:
    return dumps(render(job))
