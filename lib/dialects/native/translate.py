"""Jobs and dead letters as our own JSON, and what a listing asks for. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from pydantic import BaseModel

from lib.dialects.native.schema import (
    DeadLetter,
    DurationsObject,
    ErrorObject,
    JobObject,
    OutputObject,
    ProgressObject,
    QueueObject,
    TimingsObject,
)
from lib.errors import Forbidden, InvalidRequest, ServiceError
from lib.jobs.model import Job, JobFilter, JobStatus, JobView, OutboxItem, Output, Timings
from lib.serving.access import Caller

NAME = "native"
PAGE = 50
MOST_PER_PAGE = 200
MOST_SEQUENCE = 2**53 - 1
_MOST_DIGITS = 18

OutputNames = Callable[[Sequence[Output]], list[str]]
"""Gives each output that is a file a name of its own within the job, "" for the others."""


def listing(query: Mapping[str, str], caller: Caller) -> JobFilter:
    """Read a listing's query; only who sees everybody's jobs may name a tenant. Raises: InvalidRequest, Forbidden."""
    tenant = query.get("tenant")
    if tenant is not None and not caller.admin:
        raise Forbidden("`tenant` is for keys with the scope admin.")
    status = query.get("status", "")
    return JobFilter(
        owner=caller.owner if tenant is None else tenant,
        statuses=frozenset(_status(name.strip()) for name in status.split(",")) if status else frozenset(),
        dialect=query.get("dialect") or None,
        request_id=query.get("request_id") or None,
        before=_number(query, "before", most=MOST_SEQUENCE),
        limit=_number(query, "limit", most=MOST_PER_PAGE) or PAGE,
    )


def next_page(query: Mapping[str, str], last: Job) -> str:
    """Return the path of the page after the one that ends with ``last``."""
    return "/jobs?" + urlencode({**query, "before": str(last.sequence)})


def job_object(job: Job, *, names: OutputNames, caller: Caller, view: JobView | None = None) -> JobObject:
    """Return everything that is known of a job and is the caller's business."""
    return JobObject(
        job_id=job.job_id,
        request_id=job.spec.request_id,
        run=job.run,
        dialect=job.spec.dialect,
        tenant=job.spec.owner if caller.admin else None,
        status=job.status,
        stage=job.stage,
        message=job.message,
        cost=job.cost,
        attempts=job.attempts,
        engine=job.engine,
        prompt_id=job.prompt_id,
        progress=ProgressObject(**_fields(job.progress, ProgressObject)),
        queue=None if view is None else QueueObject(**_fields(view, QueueObject)),
        timings=TimingsObject(**_fields(job.timings, TimingsObject)),
        predicted=DurationsObject(wait_s=job.expected_wait_s, execute_s=job.expected_s),
        actual=DurationsObject(wait_s=_waited_s(job.timings), execute_s=job.timings.execute_s),
        outputs=[
            _output(job.job_id, output, name) for output, name in zip(job.outputs, names(job.outputs), strict=True)
        ],
        warnings=list(job.warnings),
        error=None if job.error is None else _error(job.error),
    )


def dead_letter(item: OutboxItem, caller: Caller) -> DeadLetter:
    """Return what may be told of a message that was given up: never its URL or body."""
    return DeadLetter(
        message_id=item.message_id,
        job_id=item.job_id,
        tenant=item.owner if caller.admin else None,
        event=item.event,
        host=item.host,
        attempts=item.attempts,
        last_error=item.last_error,
        created_at=item.created_at,
    )


def dumped(model: BaseModel) -> dict[str, Any]:
    """Return the JSON object of an answer, without what says nothing."""
    return model.model_dump(mode="json", exclude_none=True)


def number(query: Mapping[str, str], name: str, *, most: int, default: int) -> int:
    """Read a whole number from 1 to ``most``. Raises: InvalidRequest."""
    return _number(query, name, most=most) or default


def output_path(job_id: str, name: str) -> str:
    """Return where a file is on our listeners."""
    return f"/outputs/{quote(job_id, safe='')}/{quote(name, safe='', errors='surrogatepass')}"


def _output(job_id: str, output: Output, name: str) -> OutputObject:
    fields = _fields(output, OutputObject)
    fields["type"] = output.folder_type
    fields["path"] = output_path(job_id, name) if name else None
    for text in ("filename", "subfolder"):
        fields[text] = fields[text] or None
    fields["warnings"] = list(output.warnings) or None
    return OutputObject(**fields)


def _error(error: ServiceError) -> ErrorObject:
    return ErrorObject(
        error=error.code.value,
        message=error.message,
        retryable=error.retryable,
        details=dict(error.details) or None,
    )


def _waited_s(timings: Timings) -> float | None:
    """From acceptance to the start of the execution, as the prediction counts it."""
    if timings.execution_started_at is None:
        return None
    return max((timings.execution_started_at - timings.accepted_at).total_seconds(), 0.0)


def _fields(value: object, model: type[BaseModel]) -> dict[str, Any]:
    return {name: getattr(value, name) for name in model.model_fields if hasattr(value, name)}


def _status(name: str) -> JobStatus:
    try:
        return JobStatus(name)
    except ValueError:
        raise _wrong("status", f"a comma list of {', '.join(JobStatus)}") from None


def _number(query: Mapping[str, str], name: str, *, most: int) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS and 1 <= int(text) <= most):
        raise _wrong(name, f"a whole number from 1 to {most}")
    return int(text)


def _wrong(name: str, expected: str) -> InvalidRequest:
    problem = {"type": "value_error", "loc": ["query", name], "msg": f"expected {expected}"}
    return InvalidRequest(f"{name}: expected {expected}", details={"field": name, "errors": [problem]})
