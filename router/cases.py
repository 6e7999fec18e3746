"""What the dispatcher knows of each request: what it asked for, who waits for the answer, what it was given."""

import asyncio
from dataclasses import dataclass
from enum import StrEnum

from router.model import Ask, Assignment


class Ending(StrEnum):
    """How an assignment ended. ``LOST``: the worker has it no more, and nobody said how it ended."""

    SUCCESS = "success"
    ERROR = "error"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of a request on a worker. ``run_s`` is how long it ran there, where that is known; ``worker`` "" = the
    one that has it."""

    ending: Ending
    worker: str = ""
    run_s: float | None = None


@dataclass(slots=True, kw_only=True)
class Case:
    """One request in hand. Moments are monotonic; ``ttl_s`` is how long an assignment counts of which nothing is heard.

    ``seen``: its worker said that it has it. ``foretold_s``: the wait that was expected when it began to wait.
    """

    ask: Ask
    kind: str
    prior: float
    ttl_s: float
    deadline: float
    waiter: asyncio.Future[Assignment | None]
    given: Assignment | None = None
    expires_at: float = 0.0
    renewed_at: float = 0.0
    seen: bool = False
    foretold_s: float | None = None
    swap_s: float = 0.0
    best_s: float | None = None

    def answer(self, assignment: Assignment | None) -> bool:
        """Tell who waits; False: nobody does any more."""
        if self.waiter.done():
            return False
        self.waiter.set_result(assignment)
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A decision for the page: who was given what, after how long. ``at`` is epoch seconds."""

    at: float
    request_id: str
    endpoint: str
    worker: str
    reason: str
    tenant: str
    waited_s: float
    size: float
    expected_finish_s: float
