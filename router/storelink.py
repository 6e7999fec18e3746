"""The store as the dispatcher uses it: never fatal. What it answers is used; when it is down, what is known goes on.

After a failure calls are left out for a moment, so that no request waits for a store that is not there. A store may
still be read when it can be written no more (a full disk): then it is down.
"""

import logging
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TypeVar

from lib.clock import Clock
from router.ports import SharedState, StoreDown

log = logging.getLogger(__name__)
T = TypeVar("T")

RETRY_S = 1.0
"""One call a second finds out whether a store that was down is back."""


class Half(StrEnum):
    """What of the store is meant: what replicas share, or jobs."""

    STATE = "state"
    JOBS = "jobs"


class StoreLink:
    """``trouble`` says why the store can't be used now; None: it can."""

    def __init__(self, state: SharedState, *, clock: Clock) -> None:
        self.state = state
        self._troubles: dict[Half, str] = {}
        self._clock = clock
        self._next_try_at = 0.0
        self._listeners: list[Callable[[str | None], None]] = []

    @property
    def trouble(self) -> str | None:
        """Of either half."""
        return next(iter(self._troubles.values()), None)

    @property
    def usable(self) -> bool:
        """Whether a call would be made now."""
        return Half.STATE not in self._troubles or self._clock.monotonic() >= self._next_try_at

    def listen(self, listener: Callable[[str | None], None]) -> None:
        """Tell of trouble, and (None) of its end."""
        self._listeners.append(listener)

    async def attempt(self, call: Callable[[SharedState], Awaitable[T]], otherwise: T, *, writes: bool = True) -> T:
        """Call the store; ``otherwise`` when it is down. What only reads does not show that it is back."""
        if not self.usable:
            return otherwise
        if Half.STATE in self._troubles:
            self._next_try_at = self._clock.monotonic() + RETRY_S
        try:
            answer = await call(self.state)
        except StoreDown as error:
            self.down(error.message)
            return otherwise
        if writes:
            self.up()
        return answer

    def down(self, reason: str, *, half: Half = Half.STATE) -> None:
        """It failed."""
        if half is Half.STATE:
            self._next_try_at = self._clock.monotonic() + RETRY_S
        before, self._troubles[half] = self.trouble, reason
        if before is None:
            log.error(
                "the store is down, routing goes on from what is known", extra={"event": "store.down", "reason": reason}
            )
            self._tell(reason)

    def up(self, *, half: Half = Half.STATE) -> None:
        """It answered."""
        if self._troubles.pop(half, None) is not None and not self._troubles:
            log.warning("the store is back", extra={"event": "store.up"})
            self._tell(None)

    def _tell(self, trouble: str | None) -> None:
        for listener in self._listeners:
            listener(trouble)
