"""What the routes of all dialects work with."""

from dataclasses import dataclass

from router.relay.jobs.accepting import Accepting
from router.relay.jobs.counts import Counts
from router.relay.jobs.intake import Intake
from router.relay.jobs.live import Live
from router.relay.jobs.shelf import Shelf


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """Built once for all routes."""

    accepting: Accepting
    intake: Intake
    shelf: Shelf
    live: Live
    counts: Counts
