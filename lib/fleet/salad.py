"""SaladCloud's deletion cost: a busy instance tells how much work it has, and is scaled in last.

Its metadata service takes ``PUT /v1/deletion-cost`` with ``Metadata: true``. Told is the newest number only, and that
it could not be told is nobody's trouble.
"""

import asyncio
import logging
from collections.abc import Callable

import aiohttp

from lib.clock import Clock
from lib.jobs.model import Job

log = logging.getLogger(__name__)

PAUSE_S = 1.0
"""Between two calls: what changes meanwhile is told together."""
_TIMEOUT = aiohttp.ClientTimeout(total=3.0)
_HEADERS = {"Metadata": "true"}


class DeletionCost:
    """Tells how many jobs are unfinished. ``changed`` is a job listener, ``run`` a best-effort loop; ``in_flight``
    counts the jobs that the worker holds, some of which may be over."""

    def __init__(
        self, base_url: str, *, http: aiohttp.ClientSession, in_flight: Callable[[], int], clock: Clock
    ) -> None:
        self._url = f"{base_url.rstrip('/')}/v1/deletion-cost"
        self._http = http
        self._in_flight = in_flight
        self._clock = clock
        self._unfinished: set[str] = set()
        self._news = asyncio.Event()
        self._told: int | None = None

    @property
    def cost(self) -> int:
        """Unfinished jobs now."""
        return min(len(self._unfinished), self._in_flight())

    def changed(self, job: Job) -> None:
        """See ``lib.jobs.ports.JobListener``."""
        if job.status.terminal:
            self._unfinished.discard(job.job_id)
        elif job.job_id in self._unfinished:
            return
        else:
            self._unfinished.add(job.job_id)
        self._news.set()

    async def run(self) -> None:
        """Tell each change; for ever."""
        while True:
            await self._news.wait()
            self._news.clear()
            if (cost := self.cost) != self._told:
                self._told = cost if await self._put(cost) else None
            await self._clock.sleep(PAUSE_S)

    async def _put(self, cost: int) -> bool:
        try:
            async with self._http.put(
                self._url, json={"deletion_cost": cost}, headers=_HEADERS, timeout=_TIMEOUT, allow_redirects=False
            ) as answer:
                taken = answer.ok
                cause = f"status {answer.status}"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            taken, cause = False, type(error).__name__
        if not taken:
            log.debug("deletion cost not told", extra={"event": "salad.cost_untold", "cause": cause})
        return taken
