"""The table from error class to status."""

import pytest

from lib import errors
from lib.errors import ErrorCode, ServiceError
from lib.serving.errors import error_fields, error_headers, status_of


def classes() -> list[type[ServiceError]]:
    """All classes of the tree; other packages' own carry their status with them."""
    found = vars(errors).values()
    return [kind for kind in found if isinstance(kind, type) and issubclass(kind, ServiceError)]


def make(kind: type[ServiceError]) -> ServiceError:
    """One error of a class."""
    return errors.EngineDied("died", started=True) if kind is errors.EngineDied else kind("message")


@pytest.mark.parametrize("kind", classes())
def test_every_class_has_a_status(kind: type[ServiceError]) -> None:
    """No error leaves as a success."""
    assert 400 <= status_of(make(kind)) <= 599


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.InvalidRequest, 422),
        (errors.InvalidWorkflow, 400),
        (errors.Unauthorized, 401),
        (errors.JobConflict, 409),
        (errors.SessionGone, 410),
        (errors.BodyTooLarge, 413),
        (errors.Overloaded, 429),
        (errors.JobCancelled, 499),
        (errors.OutOfMemory, 500),
        (errors.EngineUnreachable, 502),
        (errors.Draining, 503),
        (errors.JobTimeout, 504),
        (ServiceError, 500),
    ],
)
def test_statuses_are_those_of_the_table(kind: type[ServiceError], status: int) -> None:
    """A class without an entry of its own inherits one."""
    assert status_of(make(kind)) == status


def test_a_dialect_overrides_by_class() -> None:
    """The nearest class decides, an override before the table."""
    assert status_of(errors.Overloaded("full"), {errors.Overloaded: 503}) == 503
    assert status_of(errors.OutOfMemory("oom"), {errors.ExecutionFailed: 400}) == 400
    assert status_of(errors.OutOfMemory("oom"), {ServiceError: 400}) == 500


def test_retry_after_is_whole_seconds_and_never_zero() -> None:
    """Rounded up; a default where a refusal is worth repeating but does not know when; none otherwise."""
    assert error_headers(errors.Overloaded("full", retry_after_s=0.01), 429) == {"Retry-After": "1"}
    assert error_headers(errors.Overloaded("full", retry_after_s=7.2), 429) == {"Retry-After": "8"}
    assert error_headers(errors.NotReady("starting"), 503) == {"Retry-After": "5"}
    assert error_headers(errors.InvalidRequest("bad"), 422) == {}
    assert error_headers(errors.EngineUnreachable("gone"), 502) == {}


def test_fields_carry_the_public_code() -> None:
    """The code is the stable part; details only where there are any."""
    assert error_fields(errors.NotReady("starting")) == {"error": "not_ready", "message": "starting", "retryable": True}
    assert error_fields(errors.UnsafeInput("no", details={"input": "image"}))["details"] == {"input": "image"}
    assert {kind.code for kind in classes()} == set(ErrorCode)
