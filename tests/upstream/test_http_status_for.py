"""Which HTTP status a result has. Upstream searches the message for words; here the error's class decides, so that no
text of a caller's or a node's can change it, and a caller's mistake is 4xx."""

import pytest

from lib import errors
from lib.dialects.wrapper.render import http_status, render
from lib.errors import ServiceError
from lib.jobs.model import JobStatus
from tests.upstream.stand_ins import JOB


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (JobStatus.COMPLETED, None, 200),
        (JobStatus.QUEUED, None, 200),
        (JobStatus.CANCELLED, errors.JobCancelled("x"), 499),
        (JobStatus.CANCELLED, None, 499),
        (JobStatus.FAILED, None, 500),
        (JobStatus.FAILED, ServiceError("x"), 500),
        (JobStatus.FAILED, errors.ExecutionFailed("connection refused"), 500),
        (JobStatus.FAILED, errors.OutOfMemory("x"), 500),
        (JobStatus.FAILED, errors.JobTimeout("timed out"), 500),
        (JobStatus.FAILED, errors.EngineDied("x", started=True), 500),
        (JobStatus.FAILED, errors.StorageFailed("x"), 500),
        (JobStatus.FAILED, errors.EngineUnreachable("x"), 502),
        (JobStatus.FAILED, errors.InvalidWorkflow("x"), 400),
        (JobStatus.FAILED, errors.UnsafeInput("x"), 400),
        (JobStatus.FAILED, errors.InputFetchFailed("x"), 422),
    ],
)
def test_http_status_for_follows_the_class_never_the_text(
    status: JobStatus, error: ServiceError | None, expected: int
) -> None:
    """A failed job is never a success; a caller's mistake is 4xx even when it was found late."""
    assert http_status(JOB.with_(status=status, error=error)) == expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (JobStatus.COMPLETED, 200),
        (JobStatus.CANCELLED, 499),
        (JobStatus.FAILED, 500),
        (JobStatus.QUEUED, 200),
        (JobStatus.RUNNING, 200),
    ],
)
def test_http_status_for_each_state_without_an_error(status: JobStatus, expected: int) -> None:
    """As upstream; there an unfinished job is 500, which nobody gets to see: here it is what `/result` answers."""
    assert http_status(JOB.with_(status=status)) == expected


@pytest.mark.parametrize("error", [None, ServiceError("")])
def test_http_status_for_an_empty_message(error: ServiceError | None) -> None:
    """A failure that nothing is known of is ours."""
    assert http_status(JOB.with_(status=JobStatus.FAILED, message="", error=error)) == 500


@pytest.mark.parametrize("text", ["Connection Refused", "cannot connect", "TIMED OUT", "websocket failure"])
def test_http_status_for_a_node_that_talks_of_connections(text: str) -> None:
    """Upstream answers 502 to these words; a node that says them has failed like any other, in any letter case."""
    error = errors.ExecutionFailed(f"Node 3 (X) failed: RuntimeError: {text}")
    job = JOB.with_(status=JobStatus.FAILED, message=error.message, error=error)
    assert http_status(job) == 500
    assert text in render(job, include_response=False)["message"]
