"""``Prefer: respond-async`` (RFC 7240): after how long a caller wants a link instead of the answer. Pure."""

import re
from collections.abc import Iterable

USUAL_WAIT_S = 30.0
"""``respond-async`` without ``wait``: below what proxies cut."""
_WAIT = re.compile(r"[0-9]{1,6}")


def preferred_wait_s(values: Iterable[str]) -> float | None:
    """Return the seconds, None where the caller waits to the end. Of a preference that comes twice the first counts."""
    found: dict[str, str] = {}
    for part in ",".join(values).split(","):
        name, _, value = part.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    if "respond-async" not in found:
        return None
    wait = found.get("wait", "")
    return float(wait) if _WAIT.fullmatch(wait) else USUAL_WAIT_S
