"""What went wrong, in Salad's words and keys: ``error``, ``location``, ``message``, ``statusCode``. Pure.

Of a 400 ``error`` is the reason, of anything else the status in words, as comfyui-api's server (Fastify) writes it; the
reason is in ``message`` either way.
"""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from lib import errors
from lib.errors import ErrorCode, ServiceError
from lib.serving.errors import status_of

STATUS: Mapping[type[ServiceError], int] = {
    errors.InvalidRequest: 400,
    errors.InputFetchFailed: 400,
    errors.Overloaded: 503,
    errors.RateLimited: 429,
    errors.EngineUnreachable: 500,
    errors.EngineDied: 500,
    errors.StorageFailed: 500,
    errors.JobTimeout: 500,
    errors.JobCancelled: 500,
}
"""Where Salad's statuses differ from our table: every job that failed is 500, a full queue 503."""
PROMPT = "prompt"
REJECTED = "Failed to queue prompt: "
TOO_LARGE = "Request body is too large"
UNCONFIGURED = "unconfigured"
"""Names the upload block whose storage is of no use here: ``s3``, ``hf_upload``, ..."""
GENERATED = frozenset({"generate_workflow"})
"""Problems of a workflow file's code, which has no field to name."""
_CODES = {ErrorCode.BODY_TOO_LARGE: "FST_ERR_CTP_BODY_TOO_LARGE"}
_SITE = re.compile(r"workflow\.(?P<node>.+?)\.inputs\.(?P<field>[^.]+)")
_NODE_FIELDS = frozenset({"class_type", "inputs", "_meta"})
_MEDIA = {
    "image": "image",
    "mask": "image",
    "directory": "images",
    "folder": "images",
    "video": "video",
    "file": "video",
    "audio": "audio",
    "audio_file": "audio",
    "model_file": "file",
}
"""What a loader's input brings in, by its name."""
_MODEL = re.compile(r".*name\d*|.*(?:ckpt|lora|vae|unet|clip|model|config|control|encoder|gligen).*")
DOWNLOADED = "url"
"""The field of ``/download``."""
_OF_A_NODE = ("exception_type", "node_id", "node_type", "traceback")


def failure(error: ServiceError) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status of an error and its body."""
    status, text = status_of(error, STATUS), reason(error)
    shown = text if status == HTTPStatus.BAD_REQUEST else _phrase(status)
    message = error.message if UNCONFIGURED in error.details else text
    facts = {"statusCode": status, "code": _CODES.get(error.code, error.code), "error": shown, "message": message}
    return status, facts | {"retryable": error.retryable} | _facts(error)


def told_failure(error: ServiceError) -> dict[str, Any]:
    """Return what a webhook is told of an error: ``error`` is the reason."""
    return {"error": reason(error), "code": error.code} | _facts(error)


def reason(error: ServiceError) -> str:
    """Return what is wrong in a sentence: Salad's, with the cause behind it."""
    details = error.details
    if isinstance(error, errors.BodyTooLarge):
        return TOO_LARGE
    if isinstance(error, errors.ExecutionFailed):
        return str(details.get("exception_message") or error.message)
    if isinstance(error, errors.InvalidWorkflow) and "node_errors" in details:
        return f"{REJECTED}{error.message}"
    if (site := _site(error)) is not None:
        node_id, field = site
        if _is_model(field):
            return f"Failed to process model for node {node_id}: {field}: {_why(error)}"
        return f"Failed to download {_MEDIA.get(field, 'file')} for node {node_id}: {_why(error)}"
    if isinstance(error, errors.InputFetchFailed) and details.get("field") == DOWNLOADED:
        return f"Error downloading file: {_why(error)}"
    if (block := details.get(UNCONFIGURED)) is not None:
        return f"storage provider {str(block).partition('_')[0]} is not configured"
    problem = _problem(error)
    return str(problem["msg"]) if problem.get("type") in GENERATED else error.message


def location(error: ServiceError) -> str | None:
    """Return where in the request the mistake is, as a dotted path; of a model only the node is named."""
    details = error.details
    if (site := _site(error)) is not None:
        return f"{PROMPT}.{site[0]}.inputs" + ("" if _is_model(site[1]) else f".{site[1]}")
    name, node_id = details.get("field"), details.get("node_id")
    if isinstance(error, errors.InvalidWorkflow | errors.UnsafeInput) and isinstance(node_id, str):
        within = f".{name}" if name in _NODE_FIELDS else f".inputs.{name}" if name else ""
        return f"{PROMPT}.{node_id}{within}"
    if isinstance(error, errors.InvalidWorkflow):
        return PROMPT
    if isinstance(name, str) and name:
        return name
    problem = _problem(error)
    listed = problem.get("loc")
    if not isinstance(listed, list) or problem.get("type") == "json_invalid":
        return None
    return ".".join(map(str, listed[1:] if listed[:1] == ["body"] else listed)) or None


def _facts(error: ServiceError) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if (place := location(error)) is not None:
        facts["location"] = place
    if isinstance(error, errors.InvalidWorkflow) and "node_errors" in error.details:
        facts["node_errors"] = error.details["node_errors"]
    if isinstance(error, errors.ExecutionFailed):
        facts |= {name: error.details[name] for name in _OF_A_NODE if name in error.details}
    return facts


def _is_model(field: str) -> bool:
    """Whether a loader's input names a model, and no file of the caller's."""
    return field not in _MEDIA and _MODEL.fullmatch(field) is not None


def _why(error: ServiceError) -> str:
    """The cause alone, without the field before it."""
    return error.message.removeprefix(f"{error.details['field']}: ")


def _site(error: ServiceError) -> tuple[str, str] | None:
    """The node and the input whose file could not be brought in."""
    found = _SITE.match(str(error.details.get("field", "")))
    return None if found is None else (found["node"], found["field"])


def _problem(error: ServiceError) -> Mapping[str, Any]:
    """The first of the mistakes in a request."""
    listed = error.details.get("errors")
    first = listed[0] if isinstance(listed, list) and listed else None
    return first if isinstance(first, Mapping) else {}


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return HTTPStatus.INTERNAL_SERVER_ERROR.phrase
