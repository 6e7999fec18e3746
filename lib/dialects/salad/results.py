"""Answers about jobs: the result or the failure, with the request before it, encoded where it delays nobody."""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web

from lib.dialects.salad.failures import failure
from lib.dialects.salad.render import encoded, error_of, graph_of, is_big, result
from lib.errors import ServiceError
from lib.jobs.model import Job
from lib.serving.errors import error_headers
from lib.serving.payloads import JSON_TYPE, json_response

NOT_STORED = {"Cache-Control": "no-store"}
NO_FIELDS: Mapping[str, Any] = {}


def accepted(job: Job, echo: Mapping[str, Any], *, behind: Mapping[str, Any] = NO_FIELDS) -> web.Response:
    """Answer that a job goes on without its caller; ``echo`` is what is told of its request again, ``behind`` what
    comes last."""
    body = encoded({**graph_of(job), **echo, "status": "ok", **behind})
    return web.Response(
        body=body, status=HTTPStatus.ACCEPTED, headers=NOT_STORED, content_type=JSON_TYPE, charset="utf-8"
    )


async def finished(job: Job, echo: Mapping[str, Any], *, behind: Mapping[str, Any] = NO_FIELDS) -> web.Response:
    """Answer with the end of a job; see ``accepted``."""
    if (error := error_of(job)) is not None:
        return refused(error, {"id": job.spec.request_id, **behind})
    made = await asyncio.to_thread(_completed, job, echo, behind) if is_big(job) else _completed(job, echo, behind)
    return web.Response(body=made, headers=NOT_STORED, content_type=JSON_TYPE, charset="utf-8")


def refused(error: ServiceError, more: Mapping[str, Any] = NO_FIELDS) -> web.Response:
    """Answer with what went wrong."""
    status, body = failure(error)
    return json_response({**body, **more}, status=status, headers=error_headers(error, status))


def no_route(request: web.Request, *, path: str = "") -> web.Response:
    """Answer on a path that nobody has, or a workflow file that is not there, as Fastify does."""
    status = HTTPStatus.NOT_FOUND
    text = f"Route {request.method}:{path or request.path} not found"
    return json_response({"message": text, "error": status.phrase, "statusCode": status}, status=status)


def _completed(job: Job, echo: Mapping[str, Any], behind: Mapping[str, Any]) -> bytes:
    return encoded({**graph_of(job), **echo, **result(job), **behind})
