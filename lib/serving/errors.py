"""The only table from error class to HTTP status, and the headers that go with an error."""

import math
from collections.abc import Mapping

from lib import errors
from lib.errors import ServiceError

STATUS: Mapping[type[ServiceError], int] = {
    errors.InvalidRequest: 422,
    errors.InvalidWorkflow: 400,
    errors.UnsafeInput: 400,
    errors.InputFetchFailed: 422,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.JobNotFound: 404,
    errors.JobConflict: 409,
    errors.JobAlreadyFinished: 409,
    errors.IdempotencyMismatch: 422,
    errors.OutputNotFound: 404,
    errors.SessionGone: 410,
    errors.BodyTooLarge: 413,
    errors.Overloaded: 429,
    errors.RateLimited: 429,
    errors.NotReady: 503,
    errors.Draining: 503,
    errors.EngineUnreachable: 502,
    errors.EngineDied: 503,
    errors.StorageFailed: 502,
    errors.ExecutionFailed: 500,
    errors.JobTimeout: 504,
    errors.JobCancelled: 499,
    ServiceError: 500,
}
DEFAULT_RETRY_AFTER_S = 5
"""For a refusal that is worth repeating but does not know when."""


def status_of(error: ServiceError, overrides: Mapping[type[ServiceError], int] | None = None) -> int:
    """Return the HTTP status of an error: the nearest class counts, a dialect's ``overrides`` before the table."""
    for kind in type(error).__mro__:
        if overrides is not None and kind in overrides:
            return overrides[kind]
        if kind in STATUS:
            return STATUS[kind]
    raise AssertionError("unreachable: ServiceError itself is in the table")


def error_headers(error: ServiceError, status: int) -> dict[str, str]:
    """Return ``Retry-After`` (whole seconds, at least 1) where a refusal tells the caller to come again."""
    if error.retry_after_s is not None:
        return {"Retry-After": str(max(1, math.ceil(round(error.retry_after_s, 3))))}
    if error.retryable and status in (429, 503):
        return {"Retry-After": str(DEFAULT_RETRY_AFTER_S)}
    return {}


def error_fields(error: ServiceError) -> dict[str, object]:
    """Return an error as JSON: ``error`` (stable code), ``message``, ``retryable``, ``details`` where there are any."""
    fields: dict[str, object] = {"error": error.code.value, "message": error.message, "retryable": error.retryable}
    if error.details:
        fields["details"] = dict(error.details)
    return fields
