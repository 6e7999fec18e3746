"""Accept a job, or refuse it with a reason and a moment to come back. Pure: decides, never acts."""

from dataclasses import dataclass

from lib.errors import Draining, NotReady, Overloaded

JOBS_PER_ENGINE = 2
"""One running and one prepared behind it: so many are always accepted, however long they take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What admission looks at. Times in seconds, sizes in bytes; ``wait_s`` is the predicted wait before start."""

    ready: bool
    not_ready_reason: str = "the worker is starting"
    draining: bool = False
    in_flight_count: int = 0
    in_flight_limit: int = 1
    executing_count: int = 0
    """Jobs that have not left the engines yet (queued, prepared, pending, running)."""
    engine_count: int = 1
    wait_s: float | None = None
    backlog_bytes: int = 0
    backlog_limit_bytes: int = 1


def decide(situation: Situation, *, max_wait_s: float | None) -> None:
    """Return if a job may come in.

    Raises: Draining, NotReady, Overloaded, each with ``retry_after_s``.
    """
    if situation.draining:
        raise Draining("The worker is shutting down; send the request to another one.", retry_after_s=5)
    if not situation.ready:
        raise NotReady(f"The worker takes no jobs now: {situation.not_ready_reason}.", retry_after_s=5)
    if situation.in_flight_count >= situation.in_flight_limit:
        raise Overloaded(
            f"Worker at capacity ({situation.in_flight_limit} in flight); retry shortly",
            details={"in_flight": situation.in_flight_count, "limit": situation.in_flight_limit},
            retry_after_s=_retry_after(situation.wait_s, 0.0),
        )
    if situation.backlog_bytes >= situation.backlog_limit_bytes:
        raise Overloaded(
            "Finished jobs wait for their upload; retry when some are delivered",
            details={"backlog_bytes": situation.backlog_bytes, "limit_bytes": situation.backlog_limit_bytes},
            retry_after_s=5,
        )
    if situation.executing_count < JOBS_PER_ENGINE * situation.engine_count:
        return
    if max_wait_s is not None and situation.wait_s is not None and situation.wait_s > max_wait_s:
        raise Overloaded(
            f"Predicted wait {situation.wait_s:.0f} s is over the limit of {max_wait_s:.0f} s",
            details={"predicted_wait_s": round(situation.wait_s, 1), "limit_s": max_wait_s},
            retry_after_s=_retry_after(situation.wait_s, max_wait_s),
        )


def _retry_after(wait_s: float | None, limit_s: float) -> float:
    return min(max((wait_s or 5.0) - limit_s, 1.0), 600.0)
