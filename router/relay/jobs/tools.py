"""What the routes of all dialects work with."""

from dataclasses import dataclass

from lib.serving.payloads import Room
from router.endpoints import Endpoints
from router.ports import JobStore
from router.relay.jobs.accepting import Accepting
from router.relay.jobs.counts import Counts
from router.relay.jobs.live import Live
from router.relay.jobs.shelf import Shelf
from router.relay.ports import Sizing


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """Built once for all routes."""

    endpoints: Endpoints
    accepting: Accepting
    shelf: Shelf
    jobs: JobStore
    live: Live
    sizing: Sizing
    counts: Counts
    max_body_bytes: int
    room: Room
    """For bodies on their way into the store."""
