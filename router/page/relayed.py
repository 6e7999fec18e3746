"""Jobs that the relay keeps, for the page: how many are where, and the latest dead letters. Asked for now and then."""

from lib.clock import Clock
from router.page.facts import Facts, letter_facts
from router.ports import JobState, JobStore, StoreDown

OLD_S = 2.0
LETTERS = 10


class Relayed:
    """``look`` asks the store at most every ``OLD_S`` seconds, however many readers there are."""

    def __init__(self, jobs: JobStore, *, clock: Clock) -> None:
        self._jobs = jobs
        self._clock = clock
        self._asked_at = float("-inf")
        self._known: Facts | None = None

    async def look(self) -> Facts | None:
        """Counts by state, and dead letters; None: there never was a job, or the store is down."""
        now = self._clock.monotonic()
        if now - self._asked_at < OLD_S:
            return self._known
        self._asked_at = now
        try:
            counts = await self._jobs.counts()
            dead = await self._jobs.dead(tenant=None, limit=LETTERS) if counts.get(JobState.DEAD) else ()
        except StoreDown:
            self._known = None
            return None
        counted = {str(state): count for state, count in counts.items() if count}
        self._known = {"counts": counted, "dead": [letter_facts(job) for job in dead]} if counted else None
        return self._known
