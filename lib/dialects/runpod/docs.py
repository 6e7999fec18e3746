"""What the docs page says about RunPod's routes; the examples of requests run as they are.

Every route is there twice, bare and under RunPod's ``/v2/{endpoint_id}``; those that RunPod's clients ask in both ways
also by GET and by POST.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

from lib.dialects.runpod import examples, queries
from lib.dialects.runpod.answers import Health, Purged, RunPodJob, RunPodRequests, RunPodStream, RunPodTrouble
from lib.dialects.runpod.queries import PREFIX
from lib.dialects.runpod.schema import RunPodRequest
from lib.errors import ErrorCode
from lib.jobs.model import JobStatus
from lib.serving.access import Need
from lib.serving.openapi import NUMBER, Answer, Operation, Parameter, Trouble

TAG = "RunPod (worker-comfyui)"
BARE_TAG = "RunPod (worker-comfyui), paths of its local test server"
_RETRY_AFTER = {"Retry-After": "Seconds until another try makes sense."}

_ENDPOINT = Parameter(
    name="endpoint_id",
    place="path",
    description="Any name: this worker is the endpoint.",
    example=examples.ENDPOINT,
)
_JOB_ID = Parameter(
    name="job_id",
    place="path",
    description=f"As `/run` told it. Ours: `{queries.LATEST}` is your newest job, under `/v2` only.",
    example=queries.LATEST,
)
_WAIT = Parameter(
    name=queries.WAIT,
    place="query",
    description=f"Milliseconds, {queries.LEAST_WAIT_MS} to {queries.MOST_WAIT_MS}: so long the answer may take.",
    schema=NUMBER,
    example=2_000,
)
_TTL = Parameter(
    name=queries.TTL,
    place="query",
    description="Milliseconds: forget the job after so long; one that is not over is cancelled then.",
    schema=NUMBER,
)


def _refused(description: str, code: ErrorCode, message: str, *, job: bool = True, retryable: bool = False) -> Answer:
    return Answer(
        description=description,
        model=RunPodTrouble,
        example=examples.trouble(code, message, job=job, retryable=retryable),
        headers=_RETRY_AFTER if retryable else {},
    )


_CALLER: Mapping[int, Answer] = {
    HTTPStatus.UNAUTHORIZED: _refused(
        "No API key, or a wrong one. `Authorization: Bearer <key>`, or the key alone.",
        ErrorCode.UNAUTHORIZED,
        "This API key is not known here.",
    ),
    HTTPStatus.FORBIDDEN: _refused(
        "A foreign `Host` or `Origin`.", ErrorCode.FORBIDDEN, "Requests from other web pages are refused"
    ),
    HTTPStatus.INTERNAL_SERVER_ERROR: _refused(
        "A defect of ours.", ErrorCode.INTERNAL, "Internal error; the log has the details under this request id"
    ),
}
_UNKNOWN = _refused("No such job any more, or somebody else's.", ErrorCode.JOB_NOT_FOUND, "Job ID not found")
_BAD_NUMBER = _refused(
    "A parameter is no number.", ErrorCode.INVALID_REQUEST, "wait must be a number of milliseconds, 0 or more"
)
_GOING = _refused(
    "The worker shuts down, or takes no jobs now.",
    ErrorCode.DRAINING,
    "The worker is shutting down; send the request to another one.",
    retryable=True,
)
_BUSY = _refused(
    "The queue is full, or this key has used up what it may.",
    ErrorCode.OVERLOADED,
    "Worker at capacity (1000 in flight); retry shortly",
    retryable=True,
)
_SUBMIT: Mapping[int, Answer] = {
    HTTPStatus.BAD_REQUEST: _refused(
        "What RunPod itself refuses: no JSON, or not declared as such, no `input`, a bad `policy`, `webhook` or "
        "`s3Config`. With a mistake inside `input` it is a job that FAILED.",
        ErrorCode.INVALID_REQUEST,
        "Please provide input",
    ),
    HTTPStatus.REQUEST_TIMEOUT: Answer(description="The body came too slowly.", model=Trouble),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: _refused(
        "The body is too large.", ErrorCode.BODY_TOO_LARGE, "The body is larger than 104857600 bytes"
    ),
    HTTPStatus.TOO_MANY_REQUESTS: _BUSY,
    HTTPStatus.SERVICE_UNAVAILABLE: _GOING,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    """An operation without what comes with its path and method."""

    path: str
    summary: str
    done: Answer
    methods: tuple[str, ...] = ("POST",)
    description: str = ""
    job_id: Parameter = _JOB_ID
    parameters: tuple[Parameter, ...] = ()
    answers: Mapping[int, Answer] = field(default_factory=dict)
    submits: bool = False
    need: Need = Need.KEY
    bare: bool = True


def operations() -> Sequence[Operation]:
    """Return RunPod's operations, in the order of the page."""
    with_prefix = [_operation(route, method, PREFIX) for route in _ROUTES for method in route.methods]
    bare = [_operation(route, method, "") for route in _ROUTES if route.bare for method in route.methods]
    return [*with_prefix, *bare]


def _operation(route: _Route, method: str, prefix: str) -> Operation:
    first = method == route.methods[0]
    job_id = route.job_id if prefix else replace(route.job_id, example=None)
    ids = (job_id,) if "{job_id}" in route.path else ()
    return Operation(
        method=method,
        path=f"{prefix}{route.path}",
        tag=TAG if prefix else BARE_TAG,
        summary=route.summary if first else f"{route.summary} (as by {route.methods[0]})",
        description=route.description,
        request=RunPodRequest if route.submits else None,
        examples=examples.REQUESTS if route.submits else {},
        parameters=((_ENDPOINT,) if prefix else ()) + ids + route.parameters,
        answers={**_CALLER, HTTPStatus.OK: route.done, **route.answers},
        need=route.need,
    )


def _job(description: str, example: Mapping[str, Any]) -> Answer:
    return Answer(description=description, model=RunPodJob, example=example)


_BOTH = ("GET", "POST")
_ROUTES: tuple[_Route, ...] = (
    _Route(
        path="/runsync",
        summary="Run a workflow and wait for its result",
        description=f"Waits {queries.USUAL_WAIT_MS} ms unless `wait` says otherwise; a job that takes longer goes on, "
        "and `status-sync` waits for it. Leaving before that cancels it, unless a `webhook` or `s3Config` gets its "
        "result.",
        parameters=(_WAIT,),
        done=_job("The job, however it came out; without `output` if it is not over.", examples.COMPLETED),
        answers=_SUBMIT,
        submits=True,
        need=Need.SUBMIT,
    ),
    _Route(
        path="/run",
        summary="Run a workflow in the background",
        done=_job("Recorded; or FAILED already, where `input` can't be a job.", examples.ACCEPTED),
        answers=_SUBMIT,
        submits=True,
        need=Need.SUBMIT,
    ),
    _Route(
        path="/status/{job_id}",
        methods=_BOTH,
        summary="The state or the result of a job",
        parameters=(_TTL,),
        done=_job("As it is now.", examples.RUNNING),
        answers={HTTPStatus.NOT_FOUND: _UNKNOWN, HTTPStatus.BAD_REQUEST: _BAD_NUMBER},
    ),
    _Route(
        path="/status-sync/{job_id}",
        methods=_BOTH,
        summary="The result of a job, once it is there",
        parameters=(_WAIT,),
        done=_job("The job once it is over, or as it is after the wait.", examples.COMPLETED),
        answers={HTTPStatus.NOT_FOUND: _UNKNOWN, HTTPStatus.BAD_REQUEST: _BAD_NUMBER},
    ),
    _Route(
        path="/stream/{job_id}",
        methods=_BOTH,
        summary="What is new of a job",
        description="Answers as soon as there is something to tell: the newest progress, and after the end one piece "
        "with the whole output. Every piece is told once; it is over when the status is final and `stream` is empty.",
        parameters=(_WAIT,),
        done=Answer(description="What is new.", model=RunPodStream, example=examples.STREAMED),
        answers={HTTPStatus.NOT_FOUND: _UNKNOWN, HTTPStatus.BAD_REQUEST: _BAD_NUMBER},
    ),
    _Route(
        path="/cancel/{job_id}",
        summary="Cancel a job",
        description="Answers at once; the GPU is stopped meanwhile. A job that is over stays as it is.",
        done=_job("It is cancelled, or was over before.", examples.CANCELLED),
        answers={HTTPStatus.NOT_FOUND: _UNKNOWN, HTTPStatus.SERVICE_UNAVAILABLE: _GOING},
    ),
    _Route(
        path="/retry/{job_id}",
        summary="Run a job again that failed",
        description="Under its id, with the same input; its former output is gone.",
        job_id=replace(_JOB_ID, example=None),
        done=_job("In the queue again.", examples.ACCEPTED),
        answers={
            HTTPStatus.NOT_FOUND: _UNKNOWN,
            HTTPStatus.BAD_REQUEST: _refused(
                "It is not FAILED or TIMED_OUT.",
                ErrorCode.INVALID_REQUEST,
                "Only a job that is FAILED or TIMED_OUT, and whose request is kept, can be tried again; this one is "
                "COMPLETED",
            ),
            HTTPStatus.TOO_MANY_REQUESTS: _BUSY,
            HTTPStatus.SERVICE_UNAVAILABLE: _GOING,
        },
        need=Need.SUBMIT,
    ),
    _Route(
        path="/purge-queue",
        summary="Take your jobs out of the queue",
        description="Those that run already go on.",
        done=Answer(
            description="How many there were.",
            model=Purged,
            example={"removed": 2, "status": JobStatus.COMPLETED},
        ),
    ),
    _Route(
        path="/health",
        methods=("GET",),
        summary="Jobs and workers of the endpoint, counted",
        done=Answer(description="Now.", model=Health, example=examples.HEALTH),
        bare=False,
    ),
    _Route(
        path="/requests",
        methods=("GET",),
        summary="Your newest jobs",
        done=Answer(description="Newest first.", model=RunPodRequests, example=examples.LISTED),
    ),
)
