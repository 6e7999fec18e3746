"""The default policy: late binding, earliest finish, and slow workers only as far as the load asks for them.

A request waits for a busy, better worker if it would finish there earlier than on the best one that can take it now.
The more load, the less a slow worker's own run time counts against it: near saturation every idle worker is used. A
model's load time always counts in full: loading is work that an idle worker does not spare anybody.
"""

from dataclasses import dataclass

from router.choose.search import Found, Score
from router.choose.tuning import Tuning
from router.model import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``taken`` can start now; else ``awaited`` is expected to be better than any that could (None: nobody known)."""

    reason: Reason
    taken: Score | None = None
    awaited: Score | None = None


def theta(load: float, tuning: Tuning) -> float:
    """How far slow workers are used: 0 as each request by itself would want, 1 whenever they are idle."""
    span = max(tuning.full_from - tuning.spare_until, 1e-9)
    return min(max((load - tuning.spare_until) / span, 0.0), 1.0)


def decide(found: Found, *, theta: float) -> Verdict:
    """Take the best worker that has room, unless waiting for another one is better."""
    now, later = found.now, found.later
    if now is None:
        return Verdict(reason=Reason.ALL_BUSY if later else Reason.NONE_ELIGIBLE, awaited=later)
    if later is None or now.total - theta * (now.run + now.cost) <= later.total:
        return Verdict(reason=Reason.EARLIEST_FINISH if found.first else Reason.FASTEST_IDLE, taken=now)
    soon = Reason.MODEL_WARM_SOON if now.swap > later.swap else Reason.BETTER_WORKER_SOON
    return Verdict(reason=soon, awaited=later)
