"""Reports: when they leave, what they say, where they go. The autoscaler is real, the clock is turned by hand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from lib.fleet.disk import DiskGauge
from lib.fleet.ledger import Ledger
from lib.fleet.reporter import NewsClock, Reporter, WorkerState
from lib.fleet.uplink import PAUSE_S, Uplink
from lib.jobs.model import Job, JobSpec, JobStatus, Timings
from lib.protocol.status import WorkerFacts, WorkerStatus
from lib.settings import FleetSettings
from tests.fakes.autoscaler import Autoscaler, Behaviour
from tests.fakes.clock import START, FakeClock, settle
from tests.fakes.pauses import PauseClock

DELETE_LOOP = 1
"""The loop for finished requests falls asleep once at the start; the status loop sends its first report instead."""
BOTH_LOOPS = 2
FACTS = WorkerFacts(slots=2, engines=1, models=("a.safetensors",), swap_s={"a.safetensors": 4.5})
VAST_KEYS = set(WorkerStatus.model_fields)


@dataclass
class Worker:
    """A reporter with what it reports."""

    clock: PauseClock
    ledger: Ledger
    reporter: Reporter
    disk: "Disk"
    state: WorkerState = field(default_factory=lambda: WorkerState(url="http://me:3000"))
    facts: WorkerFacts | None = FACTS


class Disk(DiskGauge):
    """A disk whose use the test sets, in GiB."""

    def __init__(self) -> None:
        super().__init__()
        self.used = 10.0

    def used_gib(self) -> float:
        self._last_told = self.used if self._last_told is None else self._last_told
        return self.used


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def start(stack: AsyncExitStack, *addresses: str, attempt_timeout_s: float = 10.0) -> Worker:
    clock, disk = PauseClock(), Disk()
    ledger = Ledger(clock=clock)
    uplink = await stack.enter_async_context(Uplink(addresses, clock=clock, attempt_timeout_s=attempt_timeout_s))
    made: list[Worker] = []
    reporter = Reporter(
        settings=FleetSettings(container_id=77, master_token="tok", report_addr=addresses),
        ledger=ledger,
        state=lambda: made[0].state,
        facts=lambda: made[0].facts,
        uplink=uplink,
        clock=clock,
        disk=disk,
    )
    made.append(Worker(clock, ledger, reporter, disk))
    await stack.enter_async_context(reporter)
    return made[0]


def job(tag: int, cost: float = 100.0) -> Job:
    spec = JobSpec(request_id=f"r{tag}", dialect="vast", workflow=b"", tag=tag)
    return Job(job_id=f"j{tag}", spec=spec, sequence=tag, cost=cost, timings=Timings(accepted_at=START))


def done(live: Job) -> Job:
    return live.with_(status=JobStatus.COMPLETED, timings=replace(live.timings, finished_at=START))


def has(count: int) -> Any:
    return lambda router: len(router.statuses) >= count


async def reported(worker: Worker, router: Autoscaler, count: int) -> None:
    """So many reports came in, and the worker knows: the clock may be turned."""
    await router.until(has(count))
    await worker.clock.resting(BOTH_LOOPS)


async def test_the_first_report_leaves_at_the_start(stack: AsyncExitStack) -> None:
    """All eighteen fields, before anything is loaded."""
    router = await stack.enter_async_context(Autoscaler())
    await start(stack, router.url)
    await router.until(has(1))
    assert router.statuses[0] == {
        "id": 77,
        "mtoken": "tok",
        "version": "1.1.0",
        "loadtime": 0.0,
        "cur_load": 0.0,
        "new_load": 0.0,
        "rej_load": 0.0,
        "cur_perf": 0.0,
        "max_perf": 0.0,
        "error_msg": "",
        "num_requests_working": 0,
        "num_requests_recieved": 0,
        "additional_disk_usage": 0.0,
        "disk_usage": 10.0,
        "working_request_idxs": [],
        "cur_capacity": 0,
        "max_capacity": 0,
        "url": "http://me:3000",
    }


async def test_what_matters_is_told_at_once(stack: AsyncExitStack) -> None:
    """Loaded, error and recovery wait for no interval; the load time is repeated, the error is cleared."""
    router = await stack.enter_async_context(Autoscaler())
    worker = await start(stack, router.url)
    await router.until(has(1))
    for number, (loadtime_s, error) in enumerate([(42.0, ""), (42.0, "ComfyUI ended"), (42.0, "")], start=2):
        worker.state = replace(worker.state, loadtime_s=loadtime_s, max_perf=3.5, error_msg=error)
        worker.reporter.announce()
        await router.until(has(number))
        said = router.statuses[-1]
        assert (said["loadtime"], said["max_perf"], said["error_msg"]) == (loadtime_s, 3.5, error)
    assert worker.clock.monotonic() == 0.0


async def test_a_router_of_ours_is_told_more(stack: AsyncExitStack) -> None:
    """As soon as it has said who it is: the next report leaves at once, with our keys behind Vast's."""
    router = await stack.enter_async_context(Autoscaler(ours=True))
    worker = await start(stack, router.url)
    await router.until(has(2))
    first, second = router.statuses[:2]
    assert set(first) == VAST_KEYS
    assert list(second)[: len(VAST_KEYS)] == list(first)
    added = {name: value for name, value in second.items() if name not in VAST_KEYS}
    assert added == {
        "slots": 2,
        "engines": 1,
        "draining": False,
        "models": ["a.safetensors"],
        "models_warm": [],
        "room": 1,
        "swap_s": {"a.safetensors": 4.5},
        "dialects": [],
    }
    assert worker.clock.monotonic() == 0.0


async def test_a_drain_is_no_error_to_a_router_of_ours(stack: AsyncExitStack) -> None:
    """Vast's hears of it as of one."""
    ours, vasts = [await stack.enter_async_context(Autoscaler(ours=ours)) for ours in (True, False)]
    for router, error in ((ours, ""), (vasts, "the worker is shutting down")):
        worker = await start(stack, router.url)
        await router.until(has(2 if router.ours else 1))
        worker.state = replace(worker.state, error_msg="the worker is shutting down", fault="")
        worker.facts = FACTS.model_copy(update={"draining": True})
        count = len(router.statuses)
        worker.reporter.announce()
        await router.until(has(count + 1))
        assert router.statuses[-1]["error_msg"] == error
        assert router.statuses[-1].get("draining") == (True if router.ours else None)


async def test_only_who_says_so_is_told_more(stack: AsyncExitStack) -> None:
    """Of two addresses each gets its own kind; one that no longer says so is taken for Vast's."""
    ours, vasts = [await stack.enter_async_context(Autoscaler(ours=ours)) for ours in (True, False)]
    worker = await start(stack, ours.url, vasts.url)
    await ours.until(lambda router: any("slots" in report for report in router.statuses))
    ours.behaviour = Behaviour(drop=True)
    worker.reporter.announce()
    for pause in (1, 2):  # between its three tries
        await worker.clock.asleep(pause, of_s=PAUSE_S)
        await worker.clock.advance(PAUSE_S)
    await vasts.until(has(1))
    assert set(vasts.statuses[0]) == VAST_KEYS
    ours.behaviour, ours.ours, before = Behaviour(), False, len(ours.statuses)
    for number in (1, 2):
        worker.reporter.announce()
        await ours.until(has(before + number))
    assert set(ours.statuses[-1]) == VAST_KEYS


async def test_nothing_is_added_before_there_is_something(stack: AsyncExitStack) -> None:
    """A worker that has just begun has no engines to tell of."""
    router = await stack.enter_async_context(Autoscaler(ours=True))
    worker = await start(stack, router.url)
    worker.facts = None
    await router.until(has(2))
    assert set(router.statuses[1]) == VAST_KEYS


async def test_changes_within_the_interval_share_a_report(stack: AsyncExitStack) -> None:
    """Fifty jobs in a second are one report, a second after the last one."""
    router = await stack.enter_async_context(Autoscaler())
    worker = await start(stack, router.url)
    await reported(worker, router, 1)
    for tag in range(1, 51):
        worker.ledger.received(job(tag))
    await worker.clock.advance(0.99)
    assert len(router.statuses) == 1
    await worker.clock.advance(0.02)
    await router.until(has(2))
    said = router.statuses[-1]
    assert (said["cur_load"], said["new_load"], said["num_requests_working"]) == (5000.0, 5000.0, 50)
    assert said["working_request_idxs"] == list(range(1, 51))


async def test_a_change_after_a_quiet_time_is_told_at_once(stack: AsyncExitStack) -> None:
    """The interval counts from the last report, not from the change."""
    router = await stack.enter_async_context(Autoscaler())
    worker = await start(stack, router.url)
    await reported(worker, router, 1)
    await worker.clock.advance(5)
    worker.ledger.received(job(1))
    await router.until(has(2))
    assert worker.clock.monotonic() == 5.0


async def test_a_quiet_worker_reports_each_idle_interval_and_wakes_no_more(stack: AsyncExitStack) -> None:
    """Every ten seconds; nothing polls in between."""
    router = await stack.enter_async_context(Autoscaler())
    worker = await start(stack, router.url)
    await reported(worker, router, 1)
    before = len(worker.clock.pauses)
    await worker.clock.advance(9.9)
    assert len(router.statuses) == 1
    assert len(worker.clock.pauses) == before, "nobody woke up"
    await worker.clock.advance(0.2)
    await router.until(has(2))


async def test_finished_requests_are_told_and_counted_off(stack: AsyncExitStack) -> None:
    """A finished job frees its number; served work is told once."""
    router = await stack.enter_async_context(Autoscaler())
    worker = await start(stack, router.url)
    await reported(worker, router, 1)
    live = job(9)
    worker.ledger.received(live)
    worker.ledger.finished(done(live))
    await router.until(lambda r: len(r.deleted) == 1)
    await worker.clock.resting(BOTH_LOOPS)
    assert router.deletes[0]["worker_id"] == 77 and router.deletes[0]["mtoken"] == "tok"
    assert router.deleted[0]["request_idx"] == 9
    await worker.clock.advance(1.1)
    await reported(worker, router, 2)
    assert (router.statuses[1]["cur_perf"], router.statuses[1]["cur_load"]) == (100.0, 0.0)
    await worker.clock.advance(10)
    await router.until(has(3))
    assert (router.statuses[2]["cur_perf"], router.statuses[2]["new_load"]) == (0.0, 0.0)
    assert len(router.deletes) == 1


async def test_work_that_arrives_during_a_report_is_in_the_next_one(stack: AsyncExitStack) -> None:
    """The autoscaler is slow; what happens meanwhile is neither lost nor told twice."""
    router = await stack.enter_async_context(Autoscaler())
    worker = await start(stack, router.url)
    await reported(worker, router, 1)
    await worker.clock.advance(2)
    router.gate.clear()
    worker.ledger.received(job(1))
    await router.until(lambda r: r.calls.count("worker_status") == 2)
    worker.ledger.received(job(2, cost=30.0))
    router.gate.set()
    await reported(worker, router, 2)
    await worker.clock.advance(1.1)
    await router.until(has(3))
    assert [said["new_load"] for said in router.statuses] == [0.0, 100.0, 30.0]


async def test_nothing_is_counted_off_before_it_arrived(stack: AsyncExitStack) -> None:
    """Three attempts, two seconds apart; a failed report leaves its figures for the next one."""
    router = await stack.enter_async_context(Autoscaler())
    worker = await start(stack, router.url)
    await reported(worker, router, 1)
    await worker.clock.advance(2)
    router.behaviour = Behaviour(status=503, remaining=3)
    worker.disk.used = 11.5
    worker.ledger.rejected(cost=100.0, tag=None)
    for pause in (1, 2):
        await worker.clock.asleep(BOTH_LOOPS + pause)
        assert worker.clock.pauses[-1] == 2.0
        await worker.clock.advance(2.0)
    await reported(worker, router, 2)
    assert router.statuses[1]["rej_load"] == 100.0
    assert router.statuses[1]["additional_disk_usage"] == 1.5
    await worker.clock.advance(10)
    await router.until(has(3))
    assert (router.statuses[2]["rej_load"], router.statuses[2]["additional_disk_usage"]) == (0.0, 0.0)


async def test_the_next_address_takes_over(stack: AsyncExitStack) -> None:
    """In order, until one succeeds: failover, not fan-out."""
    first, second = await stack.enter_async_context(Autoscaler()), await stack.enter_async_context(Autoscaler())
    first.behaviour = Behaviour(drop=True)
    worker = await start(stack, first.url, second.url)
    for pause in (1, 2):
        await worker.clock.asleep(DELETE_LOOP + pause)
        await worker.clock.advance(2.0)
    await second.until(has(1))
    assert (first.calls.count("worker_status"), len(first.statuses)) == (3, 0)
    first.behaviour = Behaviour()
    worker.reporter.announce()
    await first.until(has(1))
    assert len(second.statuses) == 1


async def test_a_slow_autoscaler_is_given_up(stack: AsyncExitStack) -> None:
    """No answer in time is a failure like any other; the next address gets the report."""
    slow, good = await stack.enter_async_context(Autoscaler()), await stack.enter_async_context(Autoscaler())
    slow.gate.clear()
    worker = await start(stack, slow.url, good.url, attempt_timeout_s=0.5)
    for pause in (1, 2):
        await worker.clock.asleep(DELETE_LOOP + pause)
        await worker.clock.advance(2.0)
    await good.until(has(1))
    assert slow.calls.count("worker_status") == 3
    slow.gate.set()


async def test_finished_requests_skip_the_address_that_does_not_take_them(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """https://cloud.vast.ai/api/v0 gets reports only; alone, it lets the entries go."""
    cloud, router = await stack.enter_async_context(Autoscaler()), await stack.enter_async_context(Autoscaler())
    monkeypatch.setattr("lib.fleet.reporter.NO_DELETES", frozenset({cloud.url}))
    both, alone = await start(stack, cloud.url, router.url), await start(stack, cloud.url)
    for worker in (both, alone):
        await reported(worker, cloud, 2)
    for worker in (both, alone):
        worker.ledger.rejected(cost=1.0, tag=3)
    await router.until(lambda r: len(r.deleted) == 1)
    for worker in (both, alone):
        await worker.clock.resting(BOTH_LOOPS)
    assert "delete_requests" not in cloud.calls
    assert both.ledger.deleted(1) == alone.ledger.deleted(1) == ()


async def test_a_state_that_cannot_be_read_does_not_end_the_reports(stack: AsyncExitStack) -> None:
    """Best effort: a failing tick is logged and the loop goes on."""
    router = await stack.enter_async_context(Autoscaler())
    worker = await start(stack, router.url)
    await reported(worker, router, 1)
    good = worker.state
    worker.state = None  # type: ignore[assignment]
    worker.reporter.announce()
    await settle()  # it is awake
    await worker.clock.resting(BOTH_LOOPS)
    worker.state = good
    worker.reporter.announce()
    await router.until(has(2))


async def test_closing_sends_the_last_words(stack: AsyncExitStack) -> None:
    """The reason of the end and the last finished requests are out when close() returns."""
    router = await stack.enter_async_context(Autoscaler())
    worker = await start(stack, router.url)
    await reported(worker, router, 1)
    router.gate.clear()
    worker.ledger.rejected(cost=1.0, tag=5)
    worker.state = replace(worker.state, error_msg="the worker is shutting down")
    router.gate.set()
    await worker.reporter.close()
    assert router.statuses[-1]["error_msg"] == "the worker is shutting down"
    assert router.deleted[-1]["request_idx"] == 5


async def test_closing_does_not_wait_for_a_dead_autoscaler(stack: AsyncExitStack) -> None:
    """One attempt an address, no pauses."""
    router = await stack.enter_async_context(Autoscaler())
    worker = await start(stack, router.url)
    await reported(worker, router, 1)
    router.behaviour = Behaviour(drop=True)
    await worker.reporter.close()
    assert PAUSE_S not in worker.clock.pauses
    assert router.calls.count("worker_status") == 2


async def test_a_standalone_worker_reports_nothing(stack: AsyncExitStack) -> None:
    """No address: no loops, no last report."""
    worker = await start(stack)
    worker.ledger.received(job(1))
    worker.reporter.announce()
    await settle()
    assert worker.clock.pauses == []
    await worker.reporter.close()


def test_the_real_disk_gauge_reads_gibibytes() -> None:
    """The first reading is the baseline of the growth."""
    gauge = DiskGauge()
    used = gauge.used_gib()
    assert 0 < used < 1_000_000
    assert gauge.growth_gib(used + 2) == pytest.approx(2)
    gauge.delivered(used + 2)
    assert gauge.growth_gib(used + 2) == 0


async def test_the_news_clock_ends_its_sleep_early() -> None:
    """Urgent at once, news after the interval, silence at the end of the delay."""
    clock = FakeClock()
    news = NewsClock(clock, interval_s=1.0)
    sleeping = asyncio.create_task(news.sleep(10))
    await settle()
    news.tell()
    await asyncio.wait_for(sleeping, 60)
    sleeping = asyncio.create_task(news.sleep(10))
    news.tell()
    await clock.advance(0.5)
    assert not sleeping.done()
    news.tell(urgent=True)
    await asyncio.wait_for(sleeping, 60)
    sleeping = asyncio.create_task(news.sleep(10))
    await clock.advance(9.9)
    assert not sleeping.done()
    await clock.advance(0.2)
    await asyncio.wait_for(sleeping, 60)
