"""What each endpoint's demand and supply are now, all replicas and the jobs that wait in the store together."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from lib.clock import Clock
from router.dispatch import Dispatcher
from router.endpoint_settings import GroupSettings
from router.model import Condition
from router.ports import JobState, JobStore, StoreDown
from router.registry import Worker
from router.reports import number
from router.scaling.demand import Meter, Share, summed
from router.scaling.desire import Demand, Supply

SAMPLE = 500
"""Waiting jobs that are looked at to say whose they are; the rest is taken to be like them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Speed (units per second) and time to start (seconds) of one more worker."""

    perf: float
    boot_s: float
    keeps_stopped: bool = False


class Watch:
    """Reads the dispatcher; ``look`` once a tick."""

    def __init__(self, dispatcher: Dispatcher, *, jobs: JobStore, clock: Clock) -> None:
        self._dispatcher = dispatcher
        self._jobs = jobs
        self._clock = clock
        self._meters: dict[str, Meter] = {}
        self._own: dict[str, Share] = {}
        self._others: tuple[Mapping[str, Any], ...] = ()
        self._stored: dict[str, tuple[int, float]] = {}
        self._perfs: dict[tuple[str, str], float] = {}

    async def look(self) -> None:
        """Take the figures of now."""
        now = self._clock.monotonic()
        for endpoint in self._dispatcher.endpoints.all():
            figures = self._dispatcher.figures(endpoint.name)
            meter = self._meters.setdefault(endpoint.name, Meter(now=now))
            count, total = self._dispatcher.learning.load.total(endpoint.name)
            busy = bool(figures.waiting_count or figures.given_count or figures.foreign_load)
            meter.read(count, total, now=now, busy=busy)
            load, hour_load = meter.rates(now)
            self._own[endpoint.name] = Share(
                load=load,
                hour_load=hour_load,
                waiting_count=figures.waiting_count,
                waiting_work=figures.waiting_work,
                idle_s=meter.idle_s(now),
            )
        self._stored = await self._waiting_jobs()

    def told(self) -> dict[str, Any]:
        """This replica's shares, for the others."""
        return {name: share.told() for name, share in self._own.items()}

    def hear(self, others: Sequence[Mapping[str, Any]]) -> None:
        """What the other replicas told."""
        self._others = tuple(others)

    def demand(self, endpoint: str) -> Demand:
        """What is asked of an endpoint now."""
        figures = self._dispatcher.figures(endpoint)
        share = summed([self._own.get(endpoint, Share()), *(Share.read(other.get(endpoint)) for other in self._others)])
        count, work = self._stored.get(endpoint, (0, 0.0))
        given = figures.given_count + bool(figures.foreign_load)
        return Demand(
            load=share.load,
            hour_load=share.hour_load,
            waiting_count=share.waiting_count + count,
            waiting_work=share.waiting_work + work,
            given_count=given,
            given_work=figures.given_work + figures.foreign_load,
            idle_s=0.0 if share.waiting_count + count + given else share.idle_s,
        )

    def supply(self, endpoint: str, *, pace: Pace) -> Supply:
        """What an endpoint has now; ``pace`` is that of one more worker."""
        ready = [one.view.perf for one in self._dispatcher.workers(endpoint) if one.condition is Condition.READY]
        return Supply(
            capacity=sum(ready),
            workers=len(ready),
            perf=pace.perf,
            boot_s=pace.boot_s,
            keeps_stopped=pace.keeps_stopped,
        )

    def perf(self, endpoint: str, group: GroupSettings) -> float:
        """The speed of a usual worker of the group: of those that are there, of those that were, or as configured."""
        known = [
            one.view.perf
            for one in self._dispatcher.workers(endpoint)
            if one.record.group == group.name and one.condition is Condition.READY and one.view.perf > 0
        ]
        if known:
            self._perfs[endpoint, group.name] = median(known)
        return self._perfs.get((endpoint, group.name), group.perf)

    async def _waiting_jobs(self) -> dict[str, tuple[int, float]]:
        """Number and units of the jobs in the store that no router has begun with, by endpoint."""
        try:
            count = (await self._jobs.counts()).get(JobState.WAITING, 0)
            if not count:
                return {}
            sample = await self._jobs.listed(tenant=None, states=(JobState.WAITING,), limit=SAMPLE)
        except StoreDown:  # the last that is known
            return self._stored
        share = max(count / len(sample), 1.0) if sample else 0.0
        counts = Counter(job.endpoint for job in sample)
        work: Counter[str] = Counter()
        for job in sample:
            work[job.endpoint] += math.ceil(job.size)
        return {name: (round(counts[name] * share), work[name] * share) for name in counts}


def is_busy(worker: Worker, *, held: int) -> bool:
    """Whether anything would be lost with it: by our count, or by its own."""
    report = worker.record.report
    return bool(held or worker.working or number(report, "num_requests_working") or number(report, "cur_load"))
