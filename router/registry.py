"""The fleet as it is known: each worker's last report, how fresh it is, what we make of it. No I/O; time is given.

Times here are the monotonic clock's; records carry epoch seconds, since replicas and restarts share them.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lib.clock import Clock
from router.endpoints import Endpoint, Endpoints, Place, UnknownEndpoint
from router.model import Condition, WorkerView
from router.ports import WorkerRecord
from router.reports import Known, condition_of, is_ours, number, text, view_of, working

AVERAGED_S = 60.0
"""Over about so long the mean of a worker's load is taken."""
FULL_S = 3.0
"""After a refusal a worker counts as full for so long, or until it reports."""
SECRETS = ("mtoken",)


@dataclass(slots=True, kw_only=True)
class Worker:
    """One worker. ``doubted`` says why we don't believe that it can be reached. Until ``full_until`` it is fuller
    than we know, since it refused a request; until ``contended_until``, since another replica filled it."""

    record: WorkerRecord
    heard_at: float
    view: WorkerView
    stale: bool = False
    doubted: str = ""
    stopped: bool = False
    full_until: float = 0.0
    contended_until: float = 0.0
    reports: int = 0
    served: int = 0
    failed: int = 0
    perf_now: float = 0.0
    """Units per second that it did between its last two reports."""
    load_mean: float = 0.0

    @property
    def key(self) -> str:
        return self.record.worker

    @property
    def is_ours(self) -> bool:
        return is_ours(self.record.report)

    @property
    def kind(self) -> str:
        """Its card, as it says, or else its group: workers of one kind should be about as fast."""
        return text(self.record.report, "gpu_name") or self.record.group

    @property
    def condition(self) -> Condition:
        return self.view.condition

    @property
    def working(self) -> frozenset[str]:
        """Requests that it said it has."""
        return working(self.record.report)

    @property
    def trouble(self) -> str:
        """Why it gets no work, as far as there are words for it."""
        return self.doubted or text(self.record.report, "error_msg")


class Epoch:
    """Turns the monotonic clock's times into the wall clock's, and back."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def now(self) -> float:
        """Epoch seconds."""
        return self._clock.now().timestamp()

    def of(self, monotonic: float) -> float:
        """Epoch seconds of a monotonic time."""
        return self.now() - self._clock.monotonic() + monotonic

    def monotonic(self, epoch: float) -> float:
        """The monotonic time of epoch seconds."""
        return epoch - self.now() + self._clock.monotonic()


def record_of(
    report: Mapping[str, Any], *, worker_id: int, place: Place, now: float, previous: WorkerRecord | None
) -> WorkerRecord:
    """Make a record of a report that came in now (epoch seconds); its secrets stay out of it.

    A partial report (``start_server.sh`` sends few fields when it fails) is laid over what was known. A report that
    comes in now is the latest, also when the machine's clock was set back since the one before. The first that is heard
    may be of a worker that was loaded long ago."""
    told = {name: value for name, value in report.items() if name not in SECRETS}
    if previous is not None and "cur_load" not in told:
        told = {**previous.report, **told}
    return WorkerRecord(
        worker=place.key(worker_id),
        endpoint=place.endpoint.name,
        id=worker_id,
        group=place.group.name,
        url=text(told, "url").rstrip("/"),
        report=told,
        heard_at=max(now, previous.heard_at) if previous else now,
        first_at=previous.first_at if previous else now - number(told, "loadtime"),
        refused_at=previous.refused_at if previous else 0.0,
    )


class Registry:
    """All workers, the one first of which nothing was heard for longest."""

    def __init__(self, endpoints: Endpoints, *, clock: Clock, stale_s: float) -> None:
        self._endpoints = endpoints
        self._clock = clock
        self._epoch = Epoch(clock)
        self._stale_s = stale_s
        self._workers: OrderedDict[str, Worker] = OrderedDict()

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def __len__(self) -> int:
        return len(self._workers)

    def get(self, key: str) -> Worker | None:
        """One worker by its key."""
        return self._workers.get(key)

    def of(self, endpoint: str) -> list[Worker]:
        """The workers of an endpoint."""
        return [worker for worker in self._workers.values() if worker.record.endpoint == endpoint]

    def hear(self, record: WorkerRecord) -> Worker | None:
        """Take a report over; judge it with ``again``. None: it is older than what is known, or of no endpoint here."""
        known = self._workers.get(record.worker)
        if known is not None and record.heard_at < known.record.heard_at:
            return None
        try:
            self._endpoints.find(record.endpoint)
        except UnknownEndpoint:
            return None
        heard_at = min(self._epoch.monotonic(record.heard_at), self._clock.monotonic())
        if known is None:
            view = WorkerView(worker=record.worker, endpoint=record.endpoint, perf=0.0, condition=Condition.STARTING)
            known = self._workers[record.worker] = Worker(record=record, heard_at=heard_at, view=view)
        else:
            known.perf_now = _perf_now(known, record, heard_at)
            known.load_mean = _load_mean(known, heard_at)
            known.record, known.heard_at = record, heard_at
        known.reports += 1
        known.stale, known.stopped, known.full_until = False, False, 0.0
        self._workers.move_to_end(record.worker)
        return known

    def drop(self, key: str) -> Worker | None:
        """Forget a worker."""
        return self._workers.pop(key, None)

    def again(self, key: str, *, ours: int) -> WorkerView | None:
        """Judge a worker by what is known of it now, ``ours`` of the requests that it counted being ours."""
        worker = self._workers.get(key)
        if worker is None:
            return None
        try:
            endpoint = self._endpoints.find(worker.record.endpoint)
        except UnknownEndpoint:
            return None
        return self._judge(worker, endpoint, ours=ours)

    def refused(self, key: str) -> float:
        """It turned a request of ours away: it is fuller than we know. Return when that counts no more."""
        now = self._clock.monotonic()
        if (worker := self._workers.get(key)) is not None:
            worker.full_until = now + FULL_S
            worker.record = replace(worker.record, refused_at=self._epoch.now())
        return now + FULL_S

    def silent(self) -> list[Worker]:
        """Workers that have become stale since this was asked last."""
        limit = self._clock.monotonic() - self._stale_s
        found = []
        for worker in self._workers.values():
            if worker.heard_at > limit:
                break
            if not worker.stale:
                worker.stale = True
                found.append(worker)
        return found

    def gone(self, after_s: float) -> list[Worker]:
        """Workers that were silent for longer."""
        limit = self._clock.monotonic() - after_s
        return [worker for worker in self._workers.values() if worker.heard_at < limit]

    def next_silence(self) -> float | None:
        """When the next worker becomes stale if it stays silent."""
        fresh = next((worker for worker in self._workers.values() if not worker.stale), None)
        return fresh.heard_at + self._stale_s if fresh else None

    def _judge(self, worker: Worker, endpoint: Endpoint, *, ours: int) -> WorkerView:
        group = endpoint.group(worker.record.group) or endpoint.settings.groups[0]
        known = Known(
            heard_at=worker.heard_at,
            ours=ours,
            condition=self._condition(worker),
            is_full=max(worker.full_until, worker.contended_until) > self._clock.monotonic(),
        )
        report = worker.record.report
        worker.view = view_of(worker.key, report, endpoint=endpoint.settings, group=group, known=known)
        return worker.view

    def _condition(self, worker: Worker) -> Condition:
        if worker.stopped:
            return Condition.STOPPED
        if worker.stale:
            return Condition.STALE
        said = condition_of(worker.record.report)
        return Condition.ERROR if worker.doubted and said is Condition.READY else said


def _load_mean(worker: Worker, heard_at: float) -> float:
    """Its load was as it said last until now."""
    share = 1 - math.exp(-max(heard_at - worker.heard_at, 0.0) / AVERAGED_S)
    return worker.load_mean + share * (number(worker.record.report, "cur_load") - worker.load_mean)


def _perf_now(worker: Worker, record: WorkerRecord, heard_at: float) -> float:
    """``cur_perf`` is an amount since the last report."""
    gap_s = heard_at - worker.heard_at
    return number(record.report, "cur_perf") / gap_s if gap_s > 0 else worker.perf_now
