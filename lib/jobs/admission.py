"""Accept a job, or refuse it with a reason and a moment to come back. Pure: decides, never acts."""

from dataclasses import dataclass

from lib.errors import Draining, NotReady, Overloaded

JOBS_PER_ENGINE = 2
"""One running and one prepared behind it: so many are always accepted, however long they take."""
UNKNOWN_WAIT_S = 5.0
"""When to come back while nothing is known of the worker's speed."""
DELIVERY_WAIT_S = 5.0
"""When to come back while finished jobs wait for their upload."""
LONGEST_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What admission looks at. Times in seconds, sizes in bytes; ``wait_s`` is the predicted wait before start."""

    ready: bool
    not_ready_reason: str = "the worker is starting"
    draining: bool = False
    in_flight_count: int = 0
    in_flight_limit: int = 1
    request_bytes: int = 0
    """Size of the requests that are in flight."""
    request_limit_bytes: int = 1 << 62
    executing_count: int = 0
    """Jobs that have not left the engines yet (queued, prepared, pending, running)."""
    engine_count: int = 1
    wait_s: float | None = None
    backlog_bytes: int = 0
    backlog_limit_bytes: int = 1


def decide(situation: Situation, *, max_wait_s: float | None, size_bytes: int = 0) -> None:
    """Return if a job whose request is ``size_bytes`` large may come in.

    Raises: Draining, NotReady, Overloaded, each with ``retry_after_s``.
    """
    if situation.draining:
        raise Draining("The worker is shutting down; send the request to another one.", retry_after_s=5)
    if not situation.ready:
        raise NotReady(f"The worker takes no jobs now: {situation.not_ready_reason}.", retry_after_s=5)
    _check_room(situation, size_bytes)
    if situation.executing_count < JOBS_PER_ENGINE * situation.engine_count:
        return
    if max_wait_s is not None and situation.wait_s is not None and situation.wait_s > max_wait_s:
        raise Overloaded(
            f"Predicted wait {situation.wait_s:.0f} s is over the limit of {max_wait_s:.0f} s",
            details={"predicted_wait_s": round(situation.wait_s, 1), "limit_s": max_wait_s},
            retry_after_s=_bounded(situation.wait_s - max_wait_s),
        )


def _check_room(situation: Situation, size_bytes: int) -> None:
    if situation.in_flight_count >= situation.in_flight_limit:
        raise Overloaded(
            f"Worker at capacity ({situation.in_flight_limit} in flight); retry shortly",
            details={"in_flight": situation.in_flight_count, "limit": situation.in_flight_limit},
            retry_after_s=_until_left(situation, share=1 / max(situation.executing_count, 1)),
        )
    needed = situation.request_bytes + size_bytes - situation.request_limit_bytes
    if needed > 0 and situation.request_bytes:
        raise Overloaded(
            "The requests in flight take all the room there is for requests; retry when some are done",
            details={"in_flight_bytes": situation.request_bytes, "limit_bytes": situation.request_limit_bytes},
            retry_after_s=_until_left(situation, share=min(needed / situation.request_bytes, 1.0)),
        )
    if situation.backlog_bytes >= situation.backlog_limit_bytes:
        raise Overloaded(
            "Finished jobs wait for their upload; retry when some are delivered",
            details={"backlog_bytes": situation.backlog_bytes, "limit_bytes": situation.backlog_limit_bytes},
            retry_after_s=DELIVERY_WAIT_S,
        )


def _until_left(situation: Situation, *, share: float) -> float:
    """When this share of the work that is queued will be done."""
    return UNKNOWN_WAIT_S if situation.wait_s is None else _bounded(situation.wait_s * share)


def _bounded(seconds: float) -> float:
    return min(max(seconds, 1.0), LONGEST_S)
