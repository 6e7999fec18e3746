"""Headers and query parameters of the wrapper's routes that are ours: read, checked, refused with their place. Pure."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lib.errors import InvalidRequest

IDEMPOTENCY_HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotency-Replayed"
PREFER_HEADER = "Prefer"
APPLIED_HEADER = "Preference-Applied"
WAIT_PARAMETER = "wait"
PREVIEWS_PARAMETER = "previews"
USUAL_CAP_S = 30.0
"""``respond-async`` without ``wait``: below what proxies cut."""
_MOST_KEY_CHARS = 255
_WAIT = re.compile(r"[0-9]{1,6}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """What a caller of a synchronous route prefers (RFC 7240); ``applied`` is how the answer says that it was done."""

    cap_s: float
    applied: str


def preference(values: Iterable[str]) -> Preference | None:
    """Return what ``Prefer`` headers ask for: 202 after ``wait`` seconds, where ``respond-async`` is among them.

    As the RFC says, of a preference that comes twice the first one counts, and what is not understood is ignored.
    """
    found: dict[str, str] = {}
    for part in ",".join(values).split(","):
        name, _, value = part.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    if "respond-async" not in found:
        return None
    wait = found.get(WAIT_PARAMETER, "")
    if not _WAIT.fullmatch(wait):
        return Preference(cap_s=USUAL_CAP_S, applied="respond-async")
    return Preference(cap_s=float(wait), applied=f"respond-async, wait={int(wait)}")


def idempotency_key(headers: Mapping[str, str]) -> str | None:
    """Return the ``Idempotency-Key``. Raises: InvalidRequest (not 1 to 255 printable ASCII characters)."""
    key = headers.get(IDEMPOTENCY_HEADER)
    if key is None or (0 < len(key) <= _MOST_KEY_CHARS and key.isascii() and key.isprintable()):
        return key
    raise _invalid("header", IDEMPOTENCY_HEADER, f"must be 1 to {_MOST_KEY_CHARS} printable ASCII characters")


def wait_s(query: Mapping[str, str], *, most_s: float) -> float:
    """Return how long a poll may take. Raises: InvalidRequest (no number of seconds)."""
    text = query.get(WAIT_PARAMETER)
    if text is None:
        return 0.0
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise _invalid("query", WAIT_PARAMETER, "must be a number of seconds, 0 or more")
    return min(value, most_s)


def _invalid(place: str, name: str, text: str) -> InvalidRequest:
    problem = {"type": "value_error", "loc": [place, name], "msg": f"{name} {text}"}
    return InvalidRequest(f"{name} {text}", details={"field": name, "errors": [problem]})
