"""What the docs page says about Salad's routes; the examples of requests run as they are."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from lib.dialects.salad import examples
from lib.dialects.salad.answers import (
    SaladAccepted,
    SaladDownloaded,
    SaladInterrupted,
    SaladResult,
    SaladShown,
    SaladTrouble,
)
from lib.dialects.salad.schema import SaladDownload, SaladInterrupt, SaladRequest, SaladWorkflowRequest
from lib.errors import ErrorCode
from lib.jobs.model import JobStatus
from lib.serving.access import Need
from lib.serving.openapi import NUMBER, OBJECT, TEXT, Answer, Operation, Parameter, Trouble

TAG = "Salad (comfyui-api)"
ENDPOINTS_TAG = "Workflow endpoints"
_WAIT = Parameter(name="wait", place="query", description="Wait so many seconds for the end.", schema=NUMBER)
_RETRY_AFTER = {"Retry-After": "Seconds until another try makes sense."}
_PATH = Parameter(
    name="path", place="path", description="The file's place in `WORKFLOW_DIR`, without its suffix: `sdxl/txt2img`."
)


def _refused(status: HTTPStatus, description: str, message: str, code: str, **more: Any) -> Answer:
    phrase = message if status == HTTPStatus.BAD_REQUEST else status.phrase
    example = examples.trouble(status, phrase, message, code, **more)
    headers = _RETRY_AFTER if more.get("retryable") else {}
    return Answer(description=description, model=SaladTrouble, example=example, headers=headers)


_CALLER: Mapping[int, Answer] = {
    HTTPStatus.UNAUTHORIZED: _refused(
        HTTPStatus.UNAUTHORIZED,
        "No API key, or a wrong one.",
        "This API key is not known here.",
        ErrorCode.UNAUTHORIZED,
    ),
    HTTPStatus.FORBIDDEN: _refused(
        HTTPStatus.FORBIDDEN,
        "A foreign `Host` or `Origin`.",
        "Requests from other web pages are refused",
        ErrorCode.FORBIDDEN,
    ),
    HTTPStatus.INTERNAL_SERVER_ERROR: _refused(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "A defect of ours.",
        "Internal error; the log has the details under this request id",
        ErrorCode.INTERNAL,
    ),
}
_BAD = _refused(
    HTTPStatus.BAD_REQUEST,
    "The body is wrong, or something in it can't be used; or ComfyUI rejects the graph.",
    "Failed to download image for node 10: host 'example.com' answered 404",
    ErrorCode.INPUT_FETCH_FAILED,
    location="prompt.10.inputs.image",
)
_BODY: Mapping[int, Answer] = {
    **_CALLER,
    HTTPStatus.BAD_REQUEST: _BAD,
    HTTPStatus.REQUEST_TIMEOUT: Answer(description="The body came too slowly.", model=Trouble),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: _refused(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "The body is too large.",
        "Request body is too large",
        "FST_ERR_CTP_BODY_TOO_LARGE",
    ),
}
_BUSY: Mapping[int, Answer] = {
    HTTPStatus.TOO_MANY_REQUESTS: _refused(
        HTTPStatus.TOO_MANY_REQUESTS,
        "This key has used up what it may.",
        "This key may submit 10 jobs a minute",
        ErrorCode.RATE_LIMITED,
        retryable=True,
    ),
    HTTPStatus.SERVICE_UNAVAILABLE: _refused(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "The queue is full, or the worker takes no jobs now.",
        "The queue is full (MAX_QUEUE_DEPTH=10); retry shortly",
        ErrorCode.OVERLOADED,
        retryable=True,
    ),
}
SUBMIT: Mapping[int, Answer] = {
    **_BODY,
    **_BUSY,
    HTTPStatus.CONFLICT: _refused(
        HTTPStatus.CONFLICT,
        "A job of this `id` is not finished, and was asked for with another body.",
        "This request_id is in use by a job that is not finished, with another body; choose another one.",
        ErrorCode.JOB_CONFLICT,
    ),
    HTTPStatus.INTERNAL_SERVER_ERROR: _refused(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "The job failed: a node, an upload, ComfyUI itself; or it was interrupted.",
        "bad steps",
        ErrorCode.EXECUTION_FAILED,
        id=examples.ID,
        exception_type="ValueError",
        node_id="3",
        node_type="KSampler",
    ),
}
_RESULT = Answer(
    description="The request, then its result.",
    model=SaladResult,
    example=examples.COMPLETED,
)
_ACCEPTED = Answer(
    description="Accepted: with a webhook, or with `async` in an upload block.",
    model=SaladAccepted,
    example=examples.ACCEPTED,
)


def operations() -> Sequence[Operation]:
    """Return Salad's operations, in the order of the page."""
    return [*_jobs(), *_models(), *_documents(), *_shared()]


def _jobs() -> Sequence[Operation]:
    return [
        Operation(
            method="POST",
            path="/prompt",
            tag=TAG,
            summary="Run a graph",
            description="Waits for the result, unless there is a webhook or `async` in an upload block. Leaving before "
            "that cancels it.",
            request=SaladRequest,
            examples=examples.REQUESTS,
            answers={**SUBMIT, HTTPStatus.OK: _RESULT, HTTPStatus.ACCEPTED: _ACCEPTED},
            need=Need.SUBMIT,
        ),
        *(_workflow(prefix) for prefix in ("workflow", "workflows")),
        Operation(
            method="POST",
            path="/interrupt",
            tag=TAG,
            summary="Stop a job of yours",
            description="Whether it waits, loads its inputs or runs.",
            request=SaladInterrupt,
            examples={"By its id": examples.INTERRUPT},
            answers={
                **_BODY,
                HTTPStatus.OK: _interrupted("It is being stopped.", "success"),
                HTTPStatus.NOT_FOUND: _interrupted("There is none, or it is over.", JobStatus.FAILED),
                HTTPStatus.SERVICE_UNAVAILABLE: _BUSY[HTTPStatus.SERVICE_UNAVAILABLE],
            },
        ),
    ]


def _workflow(prefix: str) -> Operation:
    unknown = _refused(HTTPStatus.NOT_FOUND, "There is no such file.", "Route POST:/workflow/x not found", "")
    return Operation(
        method="POST",
        path=f"/{prefix}/{{path}}",
        tag=TAG,
        summary="Run a workflow endpoint",
        description="Each file of `WORKFLOW_DIR` has its own operation, with its inputs, while it is there.",
        request=SaladWorkflowRequest,
        parameters=(_PATH,),
        answers={
            **SUBMIT,
            HTTPStatus.OK: _RESULT,
            HTTPStatus.ACCEPTED: _ACCEPTED,
            HTTPStatus.NOT_FOUND: unknown,
        },
        need=Need.SUBMIT,
    )


def _models() -> Sequence[Operation]:
    shown = {"type": "object", "additionalProperties": {"type": "array", "items": TEXT}}
    return [
        Operation(
            method="GET",
            path="/models",
            tag=TAG,
            summary="Models by type, as ComfyUI lists them now",
            answers={
                **_CALLER,
                HTTPStatus.OK: Answer(description="Types without models too.", schema=shown, example=examples.MODELS),
            },
        ),
        Operation(
            method="POST",
            path="/download",
            tag=TAG,
            summary="Bring a model to where ComfyUI looks for it",
            request=SaladDownload,
            examples={"In the background": examples.DOWNLOAD},
            answers={
                **_BODY,
                **_BUSY,
                HTTPStatus.OK: Answer(description="It is there (`wait`).", model=SaladDownloaded),
                HTTPStatus.ACCEPTED: Answer(
                    description="It is on its way.", model=SaladDownloaded, example=examples.STARTED
                ),
            },
            need=Need.SUBMIT,
        ),
    ]


def _documents() -> Sequence[Operation]:
    return [
        Operation(
            method="GET",
            path="/docs/json",
            tag=TAG,
            summary="This document, as JSON",
            answers={HTTPStatus.OK: Answer(description="OpenAPI 3.0.", schema=OBJECT)},
            need=Need.FREE,
        ),
        Operation(
            method="GET",
            path="/docs/yaml",
            tag=TAG,
            summary="This document, as YAML",
            answers={HTTPStatus.OK: Answer(description="OpenAPI 3.0.", schema=OBJECT, media_type="application/yaml")},
            need=Need.FREE,
        ),
    ]


def _shared() -> Sequence[Operation]:
    """What is answered about Salad's jobs on paths that are not Salad's."""
    unknown = _refused(HTTPStatus.NOT_FOUND, "There is none.", "No such job.", ErrorCode.JOB_NOT_FOUND)
    busy = _BUSY[HTTPStatus.SERVICE_UNAVAILABLE]
    failed = SUBMIT[HTTPStatus.INTERNAL_SERVER_ERROR]
    return [
        Operation(
            method="GET",
            path="/result/{job_id}",
            tag=TAG,
            summary="The state or the result of a job",
            parameters=(_WAIT,),
            answers={
                **_CALLER,
                HTTPStatus.OK: Answer(description="As it is now.", model=SaladShown),
                HTTPStatus.BAD_REQUEST: _BAD,
                HTTPStatus.NOT_FOUND: unknown,
                HTTPStatus.INTERNAL_SERVER_ERROR: failed,
                HTTPStatus.SERVICE_UNAVAILABLE: busy,
            },
        ),
        Operation(
            method="POST",
            path="/cancel/{job_id}",
            tag=TAG,
            summary="Cancel a job",
            answers={
                **_CALLER,
                HTTPStatus.OK: _interrupted("It is being stopped.", "success"),
                HTTPStatus.NOT_FOUND: replace(unknown, model=(SaladInterrupted, SaladTrouble), example=None),
                HTTPStatus.SERVICE_UNAVAILABLE: busy,
            },
        ),
    ]


def _interrupted(description: str, outcome: str) -> Answer:
    example = {"id": examples.ID, "interrupted": outcome}
    return Answer(description=description, model=SaladInterrupted, example=example)
