"""When an attempt is over without a result, and how long a worker is asked again before that."""

from lib.clock import Clock
from lib.errors import ServiceError
from router.refusals import Refusal

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 2.0


class Lost(ServiceError):
    """The attempt is over without a result. ``counts``: it was one of the three."""

    def __init__(self, message: str, *, refusal: Refusal | None = None, counts: bool = True) -> None:
        super().__init__(message)
        self.refusal = refusal
        self.counts = counts


class Patience:
    """How long a worker that gives no good answer is asked again."""

    def __init__(self, clock: Clock, limit_s: float) -> None:
        self._clock = clock
        self._limit_s = limit_s
        self._since: float | None = None
        self._pause_s = FIRST_PAUSE_S

    def calm(self) -> None:
        """It gave one."""
        self._since, self._pause_s = None, FIRST_PAUSE_S

    async def wait(self, why: str, refusal: Refusal | None) -> None:
        """Raises: Lost when it is over."""
        now = self._clock.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since >= self._limit_s:
            raise Lost(why, refusal=refusal)
        await self._clock.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
