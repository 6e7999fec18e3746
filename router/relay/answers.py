"""The few errors that are the router's own, in the form of the API that was called. Pure."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web

from lib import errors
from lib.errors import ServiceError
from lib.serving.errors import error_fields, error_headers, status_of
from lib.serving.payloads import json_response

WRAPPER_STATUS: Mapping[type[ServiceError], int] = {errors.RateLimited: 429, errors.Overloaded: 503}
SALAD_STATUS: Mapping[type[ServiceError], int] = {**WRAPPER_STATUS, errors.InvalidRequest: 400}


def render_wrapper(error: ServiceError, request: web.Request) -> web.Response:
    """As the API wrapper answers: a ``detail`` list, or a result that failed; streams have a ``detail`` text."""
    status = status_of(error, WRAPPER_STATUS)
    fields = error_fields(error)
    if isinstance(error, errors.InvalidRequest):
        fields.pop("details", None)
        body = fields | {"detail": error.details.get("errors", [])}
    elif request.path.endswith("/stream"):
        body = fields | {"detail": error.message}
    else:
        failed = {"id": "", "status": "failed", "comfyui_response": {}, "output": [], "timings": {}}
        body = fields | failed
    return json_response(body, status=status, headers=error_headers(error, status))


def render_salad(error: ServiceError, request: web.Request) -> web.Response:
    """As comfyui-api answers: of a 400 ``error`` is the reason, of anything else the status in words."""
    status = status_of(error, SALAD_STATUS)
    shown = error.message if status == HTTPStatus.BAD_REQUEST else _phrase(status)
    body: dict[str, Any] = {"statusCode": status, "code": error.code, "error": shown, "message": error.message}
    body["retryable"] = error.retryable
    return json_response(body, status=status, headers=error_headers(error, status))


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
