"""Tells the autoscaler how this worker is and which requests are done. Best effort, event-driven, never ending.

A report goes out at the start, at once when something important changed (loaded, error, recovery, drain), soon after
any change of load (changes within ``report_interval_s`` share one), and at least each ``report_idle_s``.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self

from lib.clock import Clock
from lib.fleet.disk import DiskGauge
from lib.fleet.ledger import Ledger, LoadFigures
from lib.fleet.uplink import Uplink
from lib.lifecycle import Tasks, every
from lib.protocol.status import PROTOCOL_VERSION, DeleteRequests, WorkerFacts, WorkerStatus
from lib.settings import FleetSettings

log = logging.getLogger(__name__)

STATUS_PATH = "/worker_status/"
DELETES_PATH = "/delete_requests/"
NO_DELETES = frozenset({"https://cloud.vast.ai/api/v0"})
"""Takes reports, but not finished requests."""
DELETE_BATCH = 1000
LAST_REPORT_S = 5.0
"""Time for the last words of a worker that ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """What the process knows of itself. ``loadtime_s`` is 0 until loaded, then seconds from start to loaded, for
    ever; ``max_perf`` is workload units per second; ``error_msg`` is "" when all is well. A drain is an error for Vast;
    ``fault`` is what is wrong apart from that."""

    loadtime_s: float = 0.0
    max_perf: float = 0.0
    error_msg: str = ""
    fault: str = ""
    url: str = ""


class NewsClock:
    """A clock whose ``sleep`` ends early when there is news: at once if it is urgent, else ``interval_s`` after the
    last sleep ended. With it ``lifecycle.every`` becomes an event-driven loop."""

    def __init__(self, clock: Clock, *, interval_s: float) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._news = asyncio.Event()
        self._urgent = asyncio.Event()
        self._woke_at: float | None = None

    def tell(self, *, urgent: bool = False) -> None:
        self._news.set()
        if urgent:
            self._urgent.set()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def now(self) -> datetime:
        return self._clock.now()

    async def sleep(self, delay_s: float) -> None:
        await self._wait(self._news, delay_s)
        if self._news.is_set() and self._woke_at is not None:
            await self._wait(self._urgent, self._woke_at + self._interval_s - self._clock.monotonic())
        self._news.clear()
        self._urgent.clear()
        self._woke_at = self._clock.monotonic()

    async def _wait(self, event: asyncio.Event, delay_s: float) -> None:
        if event.is_set() or delay_s <= 0:
            return
        async with asyncio.TaskGroup() as group:
            either = {group.create_task(event.wait()), group.create_task(self._clock.sleep(delay_s))}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            for task in either:
                task.cancel()


class Reporter:
    """Sends status reports and finished requests while it is open; its last report leaves when it closes.

    Enter it first and leave it last, so that a failed start is reported too. Without addresses it does nothing.
    """

    def __init__(
        self,
        *,
        settings: FleetSettings,
        ledger: Ledger,
        state: Callable[[], WorkerState],
        uplink: Uplink,
        clock: Clock,
        facts: Callable[[], WorkerFacts | None] = lambda: None,
        disk: DiskGauge | None = None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._state = state
        self._facts = facts
        self._uplink = uplink
        self._disk = disk or DiskGauge()
        self._tasks = Tasks()
        self._status_news = NewsClock(clock, interval_s=settings.report_interval_s)
        self._delete_news = NewsClock(clock, interval_s=settings.report_interval_s)

    async def __aenter__(self) -> Self:
        if self._uplink.addresses:
            self._ledger.listen(self._changed)
            self._status_news.tell(urgent=True)
            idle_s = self._settings.report_idle_s
            self._tasks.spawn(every(idle_s, self._report, name="report", clock=self._status_news), name="report")
            self._tasks.spawn(
                every(idle_s, self._tell_deleted, name="deletes", clock=self._delete_news), name="deletes"
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def announce(self) -> None:
        """Report at once: the worker is loaded, has an error, recovered, or drains."""
        self._status_news.tell(urgent=True)

    async def close(self) -> None:
        """Stop the loops and send a last report and the last finished requests, within ``LAST_REPORT_S``."""
        if not self._uplink.addresses:
            return
        await self._tasks.cancel()
        try:
            async with asyncio.timeout(LAST_REPORT_S):
                await self._tell_deleted(attempts=1)
                await self._report(attempts=1)
        except TimeoutError:
            log.warning("the last report was not taken in time", extra={"event": "report.last_failed"})

    def _changed(self) -> None:
        self._status_news.tell()
        if self._ledger.deleted(1):
            self._delete_news.tell()

    async def _report(self, attempts: int = 3) -> None:
        used_gib = await asyncio.to_thread(self._disk.used_gib)
        figures, routers = self._ledger.figures(), self._uplink.routers
        status = self._status(figures, used_gib)
        extended = self._extended(status) if routers else None
        if await self._uplink.post(STATUS_PATH, status.to_json(), for_routers=extended, attempts=attempts):
            self._ledger.delivered(figures)
            self._disk.delivered(used_gib)
        else:
            self._status_news.tell()
        if self._uplink.routers - routers:  # it has just said that it wants to know more
            self.announce()

    def _extended(self, status: WorkerStatus) -> bytes | None:
        """The report for a router of ours, which knows a drain from an error."""
        facts = self._facts()
        if facts is None:
            return None
        return facts.added_to(status.model_copy(update={"error_msg": self._state().fault}))

    async def _tell_deleted(self, attempts: int = 3) -> None:
        nobody_asks = NO_DELETES.issuperset(self._uplink.addresses)
        while items := self._ledger.deleted(DELETE_BATCH):
            body = DeleteRequests(worker_id=self._worker_id, mtoken=self._mtoken, requests=items).to_json()
            sent = await self._uplink.post(DELETES_PATH, body, skip=NO_DELETES, attempts=attempts)
            if not sent and not nobody_asks:
                self._delete_news.tell()
                return
            self._ledger.deletes_delivered(items)

    def _status(self, figures: LoadFigures, used_gib: float) -> WorkerStatus:
        state, amounts = self._state(), figures.since_report
        return WorkerStatus(
            id=self._worker_id,
            mtoken=self._mtoken,
            version=PROTOCOL_VERSION,
            loadtime=state.loadtime_s,
            cur_load=figures.load,
            new_load=max(amounts.received - amounts.cancelled, 0.0),
            rej_load=amounts.rejected,
            cur_perf=amounts.served,
            max_perf=state.max_perf,
            error_msg=state.error_msg,
            num_requests_working=figures.working_count,
            num_requests_recieved=figures.seen_count,
            additional_disk_usage=self._disk.growth_gib(used_gib),
            disk_usage=used_gib,
            working_request_idxs=figures.working_tags,
            url=state.url,
        )

    @property
    def _worker_id(self) -> int:
        return self._settings.container_id or 0

    @property
    def _mtoken(self) -> str:
        token = self._settings.master_token
        return token.get_secret_value() if token is not None else ""
