"""Errors of the jobs' routes, in the form of the API that was called; and numbers in queries. Pure."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from aiohttp import hdrs, web

from lib import errors
from lib.errors import InvalidRequest, JobConflict, JobNotFound, NotReady, ServiceError, StorageFailed
from lib.protocol.runpod import Shown
from lib.serving.errors import error_fields, error_headers, status_of
from lib.serving.middleware import render_plain
from lib.serving.payloads import json_response
from router.ports import Damaged, StoreDown
from router.relay.answers import render_wrapper
from router.relay.jobs import wrapper_view
from router.relay.jobs.accepting import RETRY_S
from router.relay.jobs.forms import End

log = logging.getLogger(__name__)

OWN_ID = web.RequestKey("relay_job_id", str)
OWN_STATE = web.RequestKey("relay_job_state", Shown)
STATUS_BASE = web.RequestKey("relay_base", str)
RUNPOD_STATUS: Mapping[type[ServiceError], int] = {InvalidRequest: 400}
WRAPPER_STATUS: Mapping[type[ServiceError], int] = {
    errors.RateLimited: 429,
    errors.Overloaded: 503,
    errors.OutputNotFound: 410,
}
UNKNOWN_ID = "Job ID not found"


def render_error(error: ServiceError, request: web.Request) -> web.Response:
    """A store that is down is a service that is not ready; a record that is damaged stays so."""
    if isinstance(error, Damaged):
        error = StorageFailed("The record of this job can't be read any more; send it again.")
    elif isinstance(error, StoreDown):
        log.warning("a job can't be read", extra={"event": "relay.unread", "reason": error.message})
        error = NotReady("The router's store does not answer; ask again.", retry_after_s=RETRY_S)
    resource = request.match_info.route.resource
    path = resource.canonical if resource is not None else ""
    if "/v2/" in path:
        return _runpod(error, request, path)
    if path.endswith("/generate") or "/result/" in path or "/cancel/" in path:
        return _wrapper(error, request, path)
    return render_plain(error, request)


def number(query: Mapping[str, str], name: str, *, least: float = 0.0, most: float, otherwise: float) -> float:
    """A number of the query; out of range is the nearest value in it. Raises: InvalidRequest."""
    text = query.get(name)
    if text is None:
        return otherwise
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        problem = {"type": "value_error", "loc": ["query", name], "msg": f"{name} must be a number, 0 or more"}
        raise InvalidRequest(problem["msg"], details={"field": name, "errors": [problem]})  # type: ignore[arg-type]
    return min(max(value, least), most)


def _wrapper(error: ServiceError, request: web.Request, path: str) -> web.Response:
    named = request.match_info.get("job_id", "")
    if isinstance(error, JobNotFound) and "/cancel/" in path:
        return json_response({"error": f"Request {named} not found"}, status=status_of(error))
    if isinstance(error, InvalidRequest):
        return render_wrapper(error, request)
    status = status_of(error, WRAPPER_STATUS)
    headers = error_headers(error, status)
    unread = bool(named) and isinstance(error, NotReady)
    state = wrapper_view.PENDING if unread else End.FAILED  # what can't be told now is no end
    told = {"id": named, "status": state, "comfyui_response": {}, "output": [], "timings": {}}
    body = error_fields(error) | told
    if isinstance(error, JobConflict) and (other := error.details.get("job_id")):
        body["id"] = error.details.get("request_id", "")
        body["status_url"] = headers[hdrs.LOCATION] = f"{request.get(STATUS_BASE, '')}/result/{other}"
    return json_response(body, status=status, headers=headers)


def _runpod(error: ServiceError, request: web.Request, path: str) -> web.Response:
    """With ``id`` and ``status`` wherever the route is about a job, as a client may look at nothing else: a final one,
    except where the job can only not be told of now."""
    status = status_of(error, RUNPOD_STATUS)
    message = UNKNOWN_ID if isinstance(error, JobNotFound) and "job_id" in request.match_info else error.message
    body: dict[str, Any] = {"error": message, "code": error.code, "retryable": error.retryable}
    if name := request.get(OWN_ID) or request.match_info.get("job_id"):
        otherwise = Shown.IN_QUEUE if isinstance(error, NotReady) else Shown.FAILED
        gone = isinstance(error, JobNotFound)
        body |= {"id": name, "status": Shown.FAILED if gone else request.get(OWN_STATE, otherwise)}
    if "/stream/" in path:
        body["stream"] = []
    if error.details:
        body["details"] = dict(error.details)
    return json_response(body, status=status, headers=error_headers(error, status))
