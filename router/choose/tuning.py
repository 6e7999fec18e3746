"""Numbers that shape the policies; the operator may set them for an endpoint."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Times in seconds.

    From an offered load of ``spare_until`` on, slow workers are used more than each request by itself would want, and
    over ``full_from`` whenever they are idle. ``s_per_dollar``: a dollar saved is worth so much delay. ``swap_s``: a
    model's load time where none was measured. ``overdue``: what runs longer than expected will need this share of its
    age still. ``window``: requests that one pass finds workers for, at most; ``scan``: busy workers of about one speed
    that a decision looks at, at most. ``max_queue_s``: queue time from which a worker is full for policies that choose
    at arrival. ``remembered``: decisions that can be explained afterwards.
    """

    spare_until: float = 0.3
    full_from: float = 1.2
    s_per_dollar: float = 0.0
    swap_s: float = 5.0
    overdue: float = 0.1
    window: int = 32
    scan: int = 8
    max_queue_s: float = 30.0
    remembered: int = 1000
