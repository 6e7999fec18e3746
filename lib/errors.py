"""The exception tree and its public codes. Knows nothing of HTTP (``lib.serving.errors`` maps classes to statuses)."""

from collections.abc import Mapping
from enum import StrEnum


class ErrorCode(StrEnum):
    """Stable, public names of what went wrong; part of every API we speak, never renamed."""

    INTERNAL = "internal"
    INVALID_REQUEST = "invalid_request"
    INVALID_WORKFLOW = "invalid_workflow"
    UNSAFE_INPUT = "unsafe_input"
    INPUT_FETCH_FAILED = "input_fetch_failed"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    JOB_NOT_FOUND = "job_not_found"
    JOB_CONFLICT = "job_conflict"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    OUTPUT_NOT_FOUND = "output_not_found"
    JOB_ALREADY_FINISHED = "job_already_finished"
    SESSION_GONE = "session_gone"
    BODY_TOO_LARGE = "body_too_large"
    OVERLOADED = "overloaded"
    RATE_LIMITED = "rate_limited"
    NOT_READY = "not_ready"
    DRAINING = "draining"
    ENGINE_UNREACHABLE = "engine_unreachable"
    ENGINE_DIED = "engine_died"
    STORAGE_FAILED = "storage_failed"
    EXECUTION_FAILED = "execution_failed"
    OUT_OF_MEMORY = "out_of_memory"
    JOB_TIMEOUT = "job_timeout"
    JOB_CANCELLED = "job_cancelled"


class ServiceError(Exception):
    """Root of all errors that a caller may see.

    ``message`` is one sentence for people that says what to do next where that is known; ``details`` is JSON for
    programs (for example ``{"field": "input.s3.bucket_name", "expected": "a string"}``); ``retryable`` says that the
    same request may succeed later or elsewhere; ``retry_after_s`` is the earliest sensible moment, in seconds.
    """

    code: ErrorCode = ErrorCode.INTERNAL
    retryable: bool = False

    def __init__(
        self, message: str, *, details: Mapping[str, object] | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, object] = dict(details or {})
        self.retry_after_s = retry_after_s


class InvalidRequest(ServiceError):
    """The request's shape or values are wrong; ``details["errors"]`` lists ``{"loc": [...], "msg", "type"}``."""

    code = ErrorCode.INVALID_REQUEST


class InvalidWorkflow(ServiceError):
    """The graph can't run; ``details["node_errors"]`` is ComfyUI's own object where it has one."""

    code = ErrorCode.INVALID_WORKFLOW


class UnsafeInput(ServiceError):
    """A path, host or prompt that could harm the host, its network or ComfyUI."""

    code = ErrorCode.UNSAFE_INPUT


class InputFetchFailed(ServiceError):
    """A caller's URL could not be fetched; ``details`` has the field and the reason, never the URL's query."""

    code = ErrorCode.INPUT_FETCH_FAILED


class Unauthorized(ServiceError):
    """No or wrong credentials."""

    code = ErrorCode.UNAUTHORIZED


class Forbidden(ServiceError):
    """Credentials are known and don't allow this."""

    code = ErrorCode.FORBIDDEN


class JobNotFound(ServiceError):
    """No such job, or it is somebody else's."""

    code = ErrorCode.JOB_NOT_FOUND


class JobConflict(ServiceError):
    """The same ``request_id`` is live with another body."""

    code = ErrorCode.JOB_CONFLICT


class JobAlreadyFinished(ServiceError):
    """The job is in a terminal state; those never change."""

    code = ErrorCode.JOB_ALREADY_FINISHED


class IdempotencyMismatch(ServiceError):
    """The ``Idempotency-Key`` was used before, with another body."""

    code = ErrorCode.IDEMPOTENCY_MISMATCH


class OutputNotFound(ServiceError):
    """The job has no such file, or it was cleaned up."""

    code = ErrorCode.OUTPUT_NOT_FOUND


class SessionGone(ServiceError):
    """The session is unknown, expired or closed."""

    code = ErrorCode.SESSION_GONE


class BodyTooLarge(ServiceError):
    """The body is over the configured limit."""

    code = ErrorCode.BODY_TOO_LARGE


class Overloaded(ServiceError):
    """The queue is full or its predicted wait is over the caller's limit."""

    code = ErrorCode.OVERLOADED
    retryable = True


class RateLimited(Overloaded):
    """This caller has used up what the own key allows; others are still served."""

    code = ErrorCode.RATE_LIMITED


class NotReady(ServiceError):
    """The worker is still starting, or no engine is healthy."""

    code = ErrorCode.NOT_READY
    retryable = True


class Draining(ServiceError):
    """The worker is shutting down: it admits nothing more, and stopped the jobs that did not end in time."""

    code = ErrorCode.DRAINING
    retryable = True


class EngineUnreachable(ServiceError):
    """ComfyUI does not answer."""

    code = ErrorCode.ENGINE_UNREACHABLE
    retryable = True


class EngineDied(ServiceError):
    """ComfyUI ended, or lost the prompt, while it held one of ours.

    ``started`` tells whether the prompt had begun to run: only then an attempt is counted. ``details["log_tail"]``
    has ComfyUI's last log lines where we own the process.
    """

    code = ErrorCode.ENGINE_DIED
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        started: bool,
        details: Mapping[str, object] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, details=details, retry_after_s=retry_after_s)
        self.started = started


class StorageFailed(ServiceError):
    """An upload or a write did not work; the output itself exists."""

    code = ErrorCode.STORAGE_FAILED


class ExecutionFailed(ServiceError):
    """A node failed at run time; ``details``: ``node_id``, ``node_type``, ``exception_type``."""

    code = ErrorCode.EXECUTION_FAILED


class OutOfMemory(ExecutionFailed):
    """A node ran out of GPU or host memory."""

    code = ErrorCode.OUT_OF_MEMORY


class JobTimeout(ServiceError):
    """The job ran longer than it may."""

    code = ErrorCode.JOB_TIMEOUT


class JobCancelled(ServiceError):
    """The job was cancelled by its caller, by a lost connection, or by somebody in ComfyUI itself."""

    code = ErrorCode.JOB_CANCELLED
