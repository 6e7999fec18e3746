"""What the docs page says about the wrapper's routes; the examples of requests run as they are."""

from collections.abc import Mapping, Sequence
from typing import Any

from lib.dialects.wrapper import examples
from lib.dialects.wrapper.answers import Accepted, Cancelled, Conflict, QueueInfo, Rejection, Result, Unknown
from lib.dialects.wrapper.events import FINAL_ID, RESUME_HEADER
from lib.dialects.wrapper.headers import (
    APPLIED_HEADER,
    IDEMPOTENCY_HEADER,
    PREFER_HEADER,
    PREVIEWS_PARAMETER,
    REPLAYED_HEADER,
    USUAL_CAP_S,
    WAIT_PARAMETER,
)
from lib.dialects.wrapper.parts import MULTIPART_HEADER, MULTIPART_TYPE, REQUEST_PART, SCHEME
from lib.dialects.wrapper.schema import Payload
from lib.dialects.wrapper.translate import INLINE_HEADER, RESPONSE_HEADER
from lib.serving.access import Need
from lib.serving.openapi import BINARY, NUMBER, TEXT, Answer, Operation, Parameter, Trouble

TAG = "ComfyUI API Wrapper"
EVENT_TYPE = "text/event-stream"
_RETRY = {"Retry-After": "Seconds until another try makes sense."}
_REPLAYED = {REPLAYED_HEADER: f"`true`: the answer of an earlier request with the same `{IDEMPOTENCY_HEADER}`."}
_RESPONSE_FLAG = Parameter(
    name=RESPONSE_HEADER,
    place="header",
    description="Whether `comfyui_response` is filled; the setting INCLUDE_COMFYUI_RESPONSE decides without it.",
)
_SUBMIT = (
    Parameter(
        name=INLINE_HEADER,
        place="header",
        description="`1`, `true`, `yes` or `on`: put each file's content into its entry, as base64.",
    ),
    _RESPONSE_FLAG,
    Parameter(
        name=IDEMPOTENCY_HEADER,
        place="header",
        description="A key of your own for this request, 1 to 255 printable characters. Sent again within 24 hours it "
        "starts nothing new; and the job goes on when the connection is lost.",
        schema={"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
    ),
    Parameter(
        name=MULTIPART_HEADER,
        place="header",
        description=f"`1`: needed with a {MULTIPART_TYPE} body, which is refused (415) without it.",
        example="1",
    ),
)
_JOB_ID = Parameter(
    name="job_id",
    place="path",
    description="The `request_id`, which names its newest run, or the `job_id`.",
    example=examples.REQUEST_ID,
)
_RESUME = (
    Parameter(
        name=PREVIEWS_PARAMETER,
        place="query",
        description="`1`, `true`, `yes` or `on`: pictures of the work in progress in `preview`, as base64; the worker "
        "has to make them.",
    ),
    Parameter(
        name=RESUME_HEADER,
        place="header",
        description=f"The last `id` that was seen: only what is newer is sent. After `{FINAL_ID}` there is nothing.",
    ),
)
_PREFER = Parameter(
    name=PREFER_HEADER,
    place="header",
    description=f"`respond-async, wait=10`: answer 202 with a link when it takes longer than 10 s ({USUAL_CAP_S:g} s "
    "without `wait`).",
)
_WAIT = Parameter(
    name=WAIT_PARAMETER,
    place="query",
    description="Wait so many seconds for the end; bounded by LONG_POLL_MAX_S.",
    schema=NUMBER,
    example=10,
)
_NOTHING_LEFT = Answer(description=f"`{RESUME_HEADER}: {FINAL_ID}`: there is nothing more, don't come back.")
_FORM = {
    MULTIPART_TYPE: {
        "type": "object",
        "required": [REQUEST_PART],
        "properties": {
            REQUEST_PART: {
                "allOf": [{"$ref": f"#/components/schemas/{Payload.__name__}"}],
                "example": next(iter(examples.REQUESTS.values())),
            }
        },
        "additionalProperties": {
            **BINARY,
            "description": f"A file; `{SCHEME}<part's name>` in the workflow stands for it.",
        },
    }
}


def _failed(description: str, code: str, message: str, **more: Any) -> Answer:
    headers = _RETRY if more.get("retryable") else {}
    return Answer(
        description=description, model=Result, example=examples.failure(code, message, **more), headers=headers
    )


_CALLER = {
    401: _failed("No API key, or a wrong one.", "unauthorized", "This API key is not known here."),
    403: _failed("A foreign `Host` or `Origin`.", "forbidden", "Requests from other web pages are refused"),
    500: _failed("A defect of ours.", "internal", "Internal error; the log has the details under this request id"),
}
_UNKNOWN = _failed("No such job, or somebody else's.", "job_not_found", "Request ID not found")
_GOING_503 = _failed(
    "The worker shuts down, and the job goes on in its next life.",
    "draining",
    "The worker is shutting down",
    retryable=True,
)
_SUBMIT_ERRORS: Mapping[int, Answer] = {
    **_CALLER,
    400: _failed(
        "The workflow can't run; `details` names node, field and what was expected.",
        "invalid_workflow",
        "Input 'images' of node '2' names node '55', which is not in the workflow",
        details={"node_id": "2", "field": "images", "expected": 'a link ["<id of a node>", <slot from 0>]'},
    ),
    408: Answer(description="The body came too slowly.", model=Trouble),
    409: Answer(
        description=f"The `request_id` is in use by a live job with another body, or the job of this "
        f"`{IDEMPOTENCY_HEADER}` still runs.",
        model=Conflict,
        example=examples.failure("job_conflict", "Choose another id.", status_url=f"{examples.BASE}/result/my-id"),
        headers={"Location": "The `status_url` of the job that is in the way."},
    ),
    413: _failed("The body is too large.", "body_too_large", "The body is larger than 104857600 bytes"),
    415: Answer(description="The body is not declared as JSON.", model=Trouble),
    422: Answer(
        description="The request does not fit the schema, an input could not be fetched, or the "
        f"`{IDEMPOTENCY_HEADER}` was used before with another body.",
        model=(Rejection, Result),
        example=examples.REJECTED,
    ),
    429: _failed("This key has used up what it may.", "rate_limited", "Too many requests", retryable=True),
    503: _failed(
        "At capacity, starting or shutting down.",
        "overloaded",
        "Worker at capacity (1000 in flight); retry shortly",
        retryable=True,
    ),
}
_ENDED: Mapping[int, Answer] = {
    499: _failed("Cancelled.", "job_cancelled", "Request cancelled by client", status="cancelled"),
    500: _failed("The generation failed.", "execution_failed", "Generation failed: KSampler: ..."),
    502: _failed("ComfyUI can't be reached.", "engine_unreachable", "Generation failed: ...", retryable=True),
}
_ACCEPTED = Answer(
    description="Accepted and recorded; the job goes on without you.",
    model=Accepted,
    example=examples.ACCEPTED,
    headers={"Location": "The `status_url`.", APPLIED_HEADER: "Which preferences were followed.", **_REPLAYED},
)
_COMPLETED = Answer(description="Completed.", model=Result, example=examples.COMPLETED, headers=_REPLAYED)
_EVENT: Mapping[str, Any] = {
    "type": "object",
    "required": ["data"],
    "properties": {"id": TEXT, "data": {**TEXT, "description": "JSON, as in the example."}},
}
_EVENTS = Answer(
    description="Events until the job's end: `queued`, progress as it happens, then `final_result`, whose `result` "
    "says how it ended. A comment at least every 15 s. `error`: ask again for the rest.",
    media_type=EVENT_TYPE,
    schema=_EVENT,
    example=examples.EVENTS,
    headers=_REPLAYED,
)


def operations() -> Sequence[Operation]:
    """Return the wrapper's operations, in the order of the page."""
    return (*_submit(), *_ask(), *_act())


def _submit() -> Sequence[Operation]:
    return (
        Operation(
            method="POST",
            path="/generate/sync",
            tag=TAG,
            summary="Run a workflow and wait for its result",
            description="Leaving early cancels the job. A failed job never answers with 2xx. Who can't wait without "
            "end says how long, in `sync_timeout_s` or `Prefer`, and gets a link after that time.",
            request=Payload,
            examples=examples.REQUESTS,
            other_requests=_FORM,
            parameters=(*_SUBMIT, _PREFER),
            answers={**_SUBMIT_ERRORS, 200: _COMPLETED, 202: _ACCEPTED, **_ENDED},
            need=Need.SUBMIT,
        ),
        Operation(
            method="POST",
            path="/generate",
            tag=TAG,
            summary="Run a workflow in the background",
            description="Answers at once with where to ask for the result.",
            request=Payload,
            examples=examples.REQUESTS,
            other_requests=_FORM,
            parameters=_SUBMIT,
            answers={**_SUBMIT_ERRORS, 202: _ACCEPTED},
            need=Need.SUBMIT,
        ),
        Operation(
            method="POST",
            path="/generate/stream",
            tag=TAG,
            summary="Run a workflow and follow it",
            description="Server-sent events. Leaving does not cancel the job; `stream_url` in the first event is where "
            "an EventSource follows on.",
            request=Payload,
            examples=examples.REQUESTS,
            other_requests=_FORM,
            parameters=(*_SUBMIT, *_RESUME),
            answers={**_SUBMIT_ERRORS, 200: _EVENTS, 204: _NOTHING_LEFT},
            need=Need.SUBMIT,
        ),
    )


def _ask() -> Sequence[Operation]:
    return (
        Operation(
            method="GET",
            path="/result/{job_id}",
            tag=TAG,
            summary="The state or the result of a job",
            description="200 while it is not finished; then as `/generate/sync` would have answered.",
            parameters=(_JOB_ID, _WAIT, _RESPONSE_FLAG),
            answers={
                **_CALLER,
                200: _COMPLETED,
                400: _SUBMIT_ERRORS[400],
                404: _UNKNOWN,
                422: Answer(
                    description="`wait` is no number; or an input of the job could not be fetched.",
                    model=(Rejection, Result),
                    example=examples.REJECTED,
                ),
                **_ENDED,
                503: _GOING_503,
            },
        ),
        Operation(
            method="GET",
            path="/generate/stream/{job_id}",
            tag=TAG,
            summary="Follow a job",
            description="For an EventSource, which resumes by itself.",
            parameters=(_JOB_ID, *_RESUME, _RESPONSE_FLAG),
            answers={**_CALLER, 200: _EVENTS, 204: _NOTHING_LEFT, 404: _UNKNOWN},
        ),
    )


def _act() -> Sequence[Operation]:
    return (
        Operation(
            method="POST",
            path="/cancel/{job_id}",
            tag=TAG,
            summary="Cancel a job",
            description="Answers once it is off the GPU. A job that is over stays as it is.",
            parameters=(_JOB_ID,),
            answers={
                **_CALLER,
                200: Answer(
                    description="It is cancelled, or was over before.",
                    model=Cancelled,
                    example={"message": f"Successfully cancelled request {examples.ID}", "status": "cancelled"},
                ),
                404: Answer(
                    description="No such job, or somebody else's.",
                    model=Unknown,
                    example={"error": f"Request {examples.ID} not found"},
                ),
                503: _GOING_503,
            },
        ),
        Operation(
            method="GET",
            path="/queue-info",
            tag=TAG,
            summary="How much is waiting, and how long a new job would",
            answers={
                **_CALLER,
                200: Answer(description="Now.", model=QueueInfo, example=examples.QUEUES),
            },
        ),
    )
