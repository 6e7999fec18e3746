"""Parameters of RunPod's routes: in the path, and in the query, where all are in milliseconds. Pure."""

import math
from collections.abc import Mapping

from lib.dialects.runpod.schema import WEEK_MS
from lib.errors import InvalidRequest

PREFIX = "/v2/{endpoint_id}"
"""RunPod's own paths; the endpoint may have any name. Its local server has the same ones without this."""
LATEST = "latest"
"""Ours, in place of a job's id: the caller's newest job."""
WAIT = "wait"
TTL = "ttl"
LEAST_WAIT_MS = 1_000
MOST_WAIT_MS = 300_000
USUAL_WAIT_MS = 90_000


def wait_s(query: Mapping[str, str], *, usual_s: float = USUAL_WAIT_MS / 1000) -> float:
    """Return how many seconds the answer may take; out of range is the nearest value in it. Raises: InvalidRequest."""
    asked_ms = _milliseconds(query, WAIT)
    return usual_s if asked_ms is None else min(max(asked_ms, LEAST_WAIT_MS), MOST_WAIT_MS) / 1000


def ttl_s(query: Mapping[str, str]) -> float | None:
    """Return after how many seconds the job may be forgotten, a week at most. Raises: InvalidRequest."""
    asked_ms = _milliseconds(query, TTL)
    return None if asked_ms is None else min(asked_ms, WEEK_MS) / 1000


def _milliseconds(query: Mapping[str, str], name: str) -> float | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise InvalidRequest(f"{name} must be a number of milliseconds, 0 or more", details={"field": name})
    return number
