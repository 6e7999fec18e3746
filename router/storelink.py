"""The store as the dispatcher uses it: never fatal. What it answers is used; when it is down, what is known goes on.

After a failure calls are left out for a moment, so that no request waits for a store that is not there.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from lib.clock import Clock
from router.ports import SharedState, StoreDown

log = logging.getLogger(__name__)
T = TypeVar("T")

RETRY_S = 1.0
"""One call a second finds out whether a store that was down is back."""


class StoreLink:
    """``trouble`` says why the store can't be used now; None: it can."""

    def __init__(self, state: SharedState, *, clock: Clock) -> None:
        self.state = state
        self.trouble: str | None = None
        self._clock = clock
        self._next_try_at = 0.0
        self._listeners: list[Callable[[str | None], None]] = []

    @property
    def usable(self) -> bool:
        """Whether a call would be made now."""
        return self.trouble is None or self._clock.monotonic() >= self._next_try_at

    def listen(self, listener: Callable[[str | None], None]) -> None:
        """Tell of trouble, and (None) of its end."""
        self._listeners.append(listener)

    async def attempt(self, call: Callable[[SharedState], Awaitable[T]], otherwise: T) -> T:
        """Call the store; ``otherwise`` when it is down."""
        now = self._clock.monotonic()
        if self.trouble is not None:
            if now < self._next_try_at:
                return otherwise
            self._next_try_at = now + RETRY_S
        try:
            answer = await call(self.state)
        except StoreDown as error:
            self.down(error.message)
            return otherwise
        self.up()
        return answer

    def down(self, reason: str) -> None:
        """It failed."""
        self._next_try_at = self._clock.monotonic() + RETRY_S
        if self.trouble is None:
            log.error(
                "the store is down, routing goes on from what is known", extra={"event": "store.down", "reason": reason}
            )
            self._tell(reason)
        self.trouble = reason

    def up(self) -> None:
        """It answered."""
        if self.trouble is not None:
            self.trouble = None
            log.warning("the store is back", extra={"event": "store.up"})
            self._tell(None)

    def _tell(self, trouble: str | None) -> None:
        self.trouble = trouble
        for listener in self._listeners:
            listener(trouble)
