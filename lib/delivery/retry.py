"""How often, and how patiently, a file is offered to a place that fails."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import stamina

from lib.errors import StorageFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Attempts of one file, growing pauses between them, and the time after which no new one begins (seconds)."""

    attempts: int = 3
    first_wait_s: float = 0.5
    within_s: float = 60.0

    def tries(self) -> AsyncIterator[stamina.Attempt]:
        """Yield attempts (context managers) for an ``async for``; a failure that is not retryable ends them."""
        return stamina.retry_context(
            on=_may_pass,
            attempts=self.attempts,
            timeout=self.within_s,
            wait_initial=self.first_wait_s,
            wait_jitter=self.first_wait_s,
        ).__aiter__()


def _may_pass(error: Exception) -> bool:
    return isinstance(error, StorageFailed) and error.retryable
