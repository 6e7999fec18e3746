"""The trace that a request belongs to, as W3C's ``traceparent`` names it."""

import re
from collections.abc import Mapping

TRACE_HEADER = "traceparent"
_TRACE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def traceparent(headers: Mapping[str, str]) -> str | None:
    """Return the W3C trace context of the request, if it is one."""
    value = headers.get(TRACE_HEADER, "")
    return value if _TRACE.fullmatch(value) else None
