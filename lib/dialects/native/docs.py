"""What the docs page says about our own routes."""

from collections.abc import Sequence
from typing import Any

from lib.dialects.native import inputs, outputs
from lib.dialects.native.schema import DeadLetters, JobObject, JobPage, Revived, UploadedInputs
from lib.dialects.native.translate import MOST_PER_PAGE, MOST_SEQUENCE, PAGE
from lib.errors import BodyTooLarge, Forbidden, InvalidRequest, JobNotFound, OutputNotFound, RateLimited, UnsafeInput
from lib.jobs.model import JobStatus
from lib.serving.access import Need
from lib.serving.openapi import BINARY, Answer, Operation, Parameter, trouble

ANY_TYPE = "*/*"

_NEXT = {"Link": "The page after this one."}
JOBS, WEBHOOKS, FILES = "Jobs", "Webhooks", "Files"
_JOB: dict[str, Any] = {
    "job_id": "4d2f4a1e-4f0d-4c1c-9a45-5f1f4b6b7a10",
    "request_id": "order-17",
    "run": 1,
    "dialect": "wrapper",
    "status": JobStatus.COMPLETED,
    "stage": "deliver",
    "message": "Processing complete.",
    "cost": 100.0,
    "attempts": 1,
    "progress": {"percent": 100.0},
    "timings": {"accepted_at": "2026-01-01T12:00:00Z", "finished_at": "2026-01-01T12:00:02Z", "execute_s": 1.8},
    "predicted": {"wait_s": 0.0, "execute_s": 1.7},
    "actual": {"wait_s": 0.1, "execute_s": 1.8},
    "outputs": [
        {
            "node_id": "9",
            "kind": "image",
            "source_key": "images",
            "filename": "example_00001_.png",
            "type": "output",
            "mime_type": "image/png",
            "size_bytes": 415000,
            "width": 512,
            "height": 512,
            "path": "/outputs/4d2f4a1e-4f0d-4c1c-9a45-5f1f4b6b7a10/example_00001_.png",
        }
    ],
    "warnings": [],
}


_NAMED = "my-picture"
"""The `request_id` that the page's first request gives its job."""
_ID = Parameter(name="job_id", place="path", description="The job's id, or its request_id.", example=_NAMED)
_LIMIT = Parameter(
    name="limit",
    place="query",
    description=f"So many at most, {PAGE} by default.",
    schema={"type": "integer", "minimum": 1, "maximum": MOST_PER_PAGE},
)


def _query(name: str, description: str) -> Parameter:
    return Parameter(name=name, place="query", description=description)


def operations() -> Sequence[Operation]:
    """Return the operations of our own routes, in the order of the page."""
    return (_list_jobs(), _show_job(), _show_file(), _upload(), _dead(), _retry())


def _list_jobs() -> Operation:
    return Operation(
        method="GET",
        path="/jobs",
        tag=JOBS,
        summary="List jobs, newest first",
        description="A tenant sees its own jobs, of whichever API.",
        parameters=(
            Parameter(
                name="status",
                place="query",
                description="In any of these states.",
                schema={"type": "array", "items": {"enum": list(JobStatus), "type": "string"}},
            ),
            _query("dialect", "The API that they came by: `wrapper`, `vast`."),
            _query("request_id", "All runs of this request."),
            _query("tenant", "For admin keys: this tenant's only."),
            Parameter(
                name="before",
                place="query",
                description="Jobs older than this; comes with `next`.",
                schema={"type": "integer", "minimum": 1, "maximum": MOST_SEQUENCE},
            ),
            _LIMIT,
        ),
        answers={
            200: Answer(description="A page of them.", model=JobPage, example={"jobs": [_JOB]}, headers=_NEXT),
            **trouble(InvalidRequest, "The query is wrong."),
        },
    )


def _show_job() -> Operation:
    return Operation(
        method="GET",
        path="/jobs/{job_id}",
        tag=JOBS,
        summary="Everything that is known of a job",
        parameters=(_ID,),
        answers={
            200: Answer(description="The job.", model=JobObject, example=_JOB),
            **trouble(JobNotFound, "No such job, or somebody else's."),
        },
    )


def _show_file() -> Operation:
    return Operation(
        method="GET",
        path=outputs.ROUTE,
        tag=FILES,
        summary="A file that a job made",
        description="Opened by a signed link (as in results), the job's token, or the key of its tenant. Ranges and "
        "conditional requests work.",
        parameters=(
            Parameter(
                name="job_id",
                place="path",
                description="The job's id; for who has a key, its request_id too.",
                example=_NAMED,
            ),
            Parameter(
                name="name", place="path", description="The file's name within the job.", example="example_00001_.png"
            ),
            _query("expires", "Of a signed link: when it ends, seconds since the epoch."),
            _query("signature", "Of a signed link."),
        ),
        answers={
            200: Answer(description="The file.", media_type=ANY_TYPE, schema=BINARY),
            206: Answer(description="The part that was asked for.", media_type=ANY_TYPE, schema=BINARY),
            304: Answer(description="Not changed since."),
            **trouble(Forbidden, "The link's signature does not fit, or it has expired."),
            **trouble(OutputNotFound, "No such job or file, or it was cleaned up."),
            412: Answer(description="A condition of the request does not hold."),
            416: Answer(description="The file has no such part."),
        },
        need=Need.LINK,
    )


def _upload() -> Operation:
    return Operation(
        method="POST",
        path=inputs.ROUTE,
        tag=FILES,
        summary="Upload files for inputs",
        description=f"As multipart/form-data with the header `{inputs.MARK_HEADER}`, or one file as a plain body with "
        f"its name in `{inputs.NAME_HEADER}`. "
        f"`curl -H '{inputs.MARK_HEADER}: 1' -F file=@photo.png http://127.0.0.1:18288/inputs`",
        parameters=(
            Parameter(name=inputs.MARK_HEADER, place="header", description="`1`; needed with multipart.", example="1"),
            Parameter(
                name=inputs.NAME_HEADER,
                place="header",
                description="The name of a plain body.",
                example="photo.png",
            ),
        ),
        other_requests={
            "multipart/form-data": {"type": "object", "properties": {"file": dict(BINARY)}},
            "application/octet-stream": BINARY,
        },
        answers={
            inputs.CREATED: Answer(
                description="They are here; each `reference` is good in any field of a loader node.",
                model=UploadedInputs,
                example={"inputs": [{"reference": "upload://5f2a.png", "filename": "photo.png", "size_bytes": 81234}]},
            ),
            **trouble(UnsafeInput, "The file is none that ComfyUI reads."),
            **trouble(BodyTooLarge, "A file is too large."),
            **trouble(InvalidRequest, "The body or a header is wrong."),
            **trouble(RateLimited, "This key has used up what it may."),
        },
        need=Need.SUBMIT,
    )


def _dead() -> Operation:
    return Operation(
        method="GET",
        path="/webhooks/dead",
        tag=WEBHOOKS,
        summary="Webhook messages that were given up, newest first",
        parameters=(_LIMIT,),
        answers={
            200: Answer(description="Your own ones; everybody's for admin keys.", model=DeadLetters),
            **trouble(InvalidRequest, "The query is wrong."),
        },
    )


def _retry() -> Operation:
    return Operation(
        method="POST",
        path="/webhooks/dead/{message_id}/retry",
        tag=WEBHOOKS,
        summary="Send one of them again, from the start of its schedule",
        parameters=(Parameter(name="message_id", place="path", description="From the list."),),
        answers={
            202: Answer(description="It is due now.", model=Revived, example={"message_id": "msg_2b"}),
            **trouble(OutputNotFound, "No such dead message, or somebody else's."),
        },
    )
