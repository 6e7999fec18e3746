"""Builds the worker's objects in order on one exit stack, starts its loops, waits for the end, and drains."""

import asyncio
import ctypes
import gc
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

from lib.app import provisioned, summary
from lib.app.after_start import AfterStart, Bringer
from lib.app.boot import BootBenchmark, ServiceRunner, WarmUpFailed
from lib.app.condition import Condition
from lib.app.core import VAST, Core, build_core, open_clients
from lib.app.durable import EXPIRE_S
from lib.app.engines import EngineWatch
from lib.app.facts import facts_of
from lib.app.front import Front, build_front
from lib.app.health import Health
from lib.app.live import build_upkeep
from lib.app.queue_mode import build_bridge, enter_queue_mode, run_test_job
from lib.app.recovery import take_up
from lib.clock import SystemClock
from lib.errors import ServiceError
from lib.fleet.ledger import Ledger
from lib.fleet.pubkey import PubkeySource
from lib.fleet.reporter import Reporter, WorkerState
from lib.fleet.runpod.bridge import Bridge
from lib.fleet.uplink import Uplink
from lib.fleet.warmth import Warmth
from lib.jobs.speed import SpeedGauge
from lib.lifecycle import Tasks, every
from lib.protocol.status import WorkerFacts
from lib.protocol.urls import public_url
from lib.settings import Settings
from lib.telemetry.looplag import watch_lag
from lib.telemetry.metrics import WorkerMetrics
from lib.upkeep.schedule import CronClock

log = logging.getLogger(__name__)
VERSION = "0.1.0"


class Worker:
    """The whole process. ``run`` returns its exit status. ``test_job``: one job to do, in the form of RunPod's queue;
    then the worker ends."""

    def __init__(
        self,
        settings: Settings,
        *,
        boot_benchmark: BootBenchmark,
        after_start: Bringer | None = None,
        test_job: Mapping[str, Any] | None = None,
    ) -> None:
        self._settings = settings
        self._boot_benchmark = boot_benchmark
        self._test_job = test_job
        self._status = 0
        self._clock = SystemClock()
        self._workspace = settings.engine.workspace.resolve()
        self._after_start = AfterStart(after_start, workspace=self._workspace)
        self._warm_up_owed = settings.serverless
        self._speed = SpeedGauge()
        self._metrics = WorkerMetrics()
        self._warmth = Warmth()
        self._facts: Callable[[], WorkerFacts | None] = lambda: None
        self._url = ""

    async def run(self) -> int:
        """Start, serve, drain."""
        self._condition = Condition(clock=self._clock)
        self._stop = asyncio.Event()
        self._watch_signals()
        async with AsyncExitStack() as stack:
            reporter = await self._enter_reporter(stack)
            try:
                return await self._serve(stack, reporter)
            except Exception as error:
                self._condition.trouble("start", f"the worker ended: {error}")
                raise

    # -- parts ---------------------------------------------------------------------------------------------------

    async def _enter_reporter(self, stack: AsyncExitStack) -> Reporter:
        """First in, last out: a start that fails is reported too."""
        fleet = self._settings.fleet
        port = fleet.external_port or self._settings.server.worker_port
        self._url = public_url(fleet.public_ipaddr, port=port, use_ssl=self._settings.use_ssl)
        self._ledger = Ledger(clock=self._clock)
        addresses = fleet.report_addr if self._settings.serverless else ()
        self._uplink = await stack.enter_async_context(Uplink(addresses, clock=self._clock))
        reporter = Reporter(
            settings=fleet,
            ledger=self._ledger,
            state=self._state,
            facts=lambda: self._facts(),
            uplink=self._uplink,
            clock=self._clock,
        )
        return await stack.enter_async_context(reporter)

    def _state(self) -> WorkerState:
        return WorkerState(
            loadtime_s=self._condition.loadtime_s,
            max_perf=self._speed.max_perf,
            error_msg=self._condition.error,
            fault=self._condition.fault,
            url=self._url,
        )

    async def _serve(self, stack: AsyncExitStack, reporter: Reporter) -> int:
        self._condition.listen(reporter.announce)
        cause = await asyncio.to_thread(provisioned.failure, self._workspace)
        if cause is not None:
            self._condition.trouble("provisioning", cause)
        clients = await open_clients(self._settings, stack, clock=self._clock, version=VERSION)
        tasks = await stack.enter_async_context(Tasks())
        core = await build_core(
            self._settings,
            clients=clients,
            stack=stack,
            tasks=tasks,
            clock=self._clock,
            condition=self._condition,
            ledger=self._ledger,
            speed=self._speed,
            metrics=self._metrics,
        )
        self._follow_store(core)
        self._follow_engines(core, reporter)
        health = await self._health(core)
        keys = self._keys(tasks)
        upkeep = build_upkeep(self._settings, core=core, clock=self._clock)
        front = await build_front(
            self._settings,
            core=core,
            stack=stack,
            tasks=tasks,
            clock=self._clock,
            condition=self._condition,
            ledger=self._ledger,
            metrics=self._metrics,
            health=health,
            keys=keys,
            own_url=self._url,
            upkeep=upkeep,
            version=VERSION,
        )
        await asyncio.to_thread(summary.write_record, self._workspace, front.addresses, front.pass_)
        stack.callback(summary.remove_record, self._workspace)
        for engine in core.engines:
            tasks.spawn(engine.run(), name=f"engine {engine.name}", vital=True)
        expire = every(EXPIRE_S, core.records.store.expire, name="results", clock=self._clock)
        tasks.spawn(expire, name="results")
        tasks.spawn(watch_lag(self._metrics.loop_late), name="event loop")
        sweeps = partial(upkeep.run, CronClock(self._settings.upkeep.schedule, self._clock))
        tasks.spawn(self._boot(core, front, health, tasks, sweeps=sweeps), name="boot", vital=True)
        await self._take_from_runpod(core, stack, tasks)
        return await self._until_the_end(core, tasks)

    async def _take_from_runpod(self, core: Core, stack: AsyncExitStack, tasks: Tasks) -> None:
        """Jobs that come neither from the listeners nor from the store: RunPod's queue, or the one of a test."""
        settings, condition = self._settings, self._condition
        if self._test_job is None and settings.runpod.job_url is None:
            return
        bridge = build_bridge(
            settings, jobs=core.service, payload=core.runpod, condition=condition, tasks=tasks, clock=self._clock
        )
        if self._test_job is not None:
            tasks.spawn(self._test(self._test_job, bridge), name="test job", vital=True)
        else:
            await enter_queue_mode(
                settings, bridge=bridge, condition=condition, stack=stack, tasks=tasks, stop=self._stop.set
            )

    async def _test(self, job: Mapping[str, Any], bridge: Bridge) -> None:
        self._status = await run_test_job(job, bridge=bridge, say=sys.stdout.buffer.write)
        self._stop.set()

    def _follow_store(self, core: Core) -> None:
        """What can't be recorded is not accepted."""

        def heard(trouble: str | None) -> None:
            self._metrics.store_trouble(trouble=trouble is not None)
            core.sender.hold(trouble is not None)
            if trouble is None:
                self._condition.cleared("job store")
            else:
                self._condition.trouble("job store", trouble)

        core.records.on_trouble(heard)
        core.records.on_commit(self._metrics.store_committed)

    def _follow_engines(self, core: Core, reporter: Reporter) -> None:
        """What a router of ours is told of engines and models."""
        self._facts = facts_of(
            service=core.service,
            engines=core.engines,
            condition=self._condition,
            warmth=self._warmth,
            dialects=(VAST, core.payload.name, core.runpod.name, core.salad.name),
        )
        core.service.listen(self._warmth.heard)

        def follow(name: str) -> Callable[[bool], None]:
            def changed(healthy: bool) -> None:
                if not healthy:
                    self._warmth.lost(name)
                reporter.announce()

            return changed

        for engine in core.engines:
            engine.on_health(follow(engine.name))

    async def _health(self, core: Core) -> Health:
        health = Health(
            condition=self._condition,
            service=core.service,
            engines=core.engines,
            servers=core.servers,
            speed=self._speed,
            version=VERSION,
            store=self._settings.jobs.store,
            primary=self._settings.server.primary_dialect,
            max_queue_depth=self._settings.salad.max_queue_depth,
        )
        volume = await asyncio.to_thread(provisioned.volume, self._workspace)
        if volume is not None:
            health.add(lambda: {"volume": volume})
        health.add(self._after_start.health)
        return health

    def _keys(self, tasks: Tasks) -> PubkeySource:
        keys = PubkeySource(self._uplink, clock=self._clock, on_trouble=self._key_trouble)
        if self._uplink.addresses and not self._settings.fleet.unsecured:
            tasks.spawn(keys.load(), name="public key")
        return keys

    def _key_trouble(self, text: str | None) -> None:
        if text is None:
            self._condition.cleared("public key")
        else:
            self._condition.trouble("public key", text)

    # -- life ----------------------------------------------------------------------------------------------------

    async def _boot(
        self, core: Core, front: Front, health: Health, tasks: Tasks, *, sweeps: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """From "listening" to "ready": engines, jobs of an earlier life, warm-up and score.

        ``sweeps`` start when it is known what is live. Jobs of an earlier life that ComfyUI does not have yet wait for
        the score, so that nothing runs beside what is measured."""
        self._condition.enter("waiting for ComfyUI")
        watch = EngineWatch(
            core.engines,
            condition=self._condition,
            queue=core.queue,
            service=core.service,
            metrics=self._metrics,
            patience_s=self._settings.engine.startup_timeout_s,
            retry_s=self._settings.fleet.benchmark_retry_s,
            servers=core.servers,
            tasks=tasks,
            clock=self._clock,
        )
        await watch.wait_ready()
        core.queue.reserve()
        self._metrics.recovered(await take_up(core, tasks))
        tasks.spawn(sweeps(), name="upkeep")
        score = None
        if self._test_job is None:  # who tries one job waits for no score
            self._condition.enter("warming up (benchmark)")
            score = await self._benchmark(core, health, watch)
        core.queue.open()
        tasks.spawn(self._after_start.run(), name="after start")
        while score is None and self._warm_up_owed:
            await self._clock.sleep(self._settings.fleet.benchmark_retry_s)
            score = await self._benchmark(core, health, watch)
        self._condition.cleared("benchmark")
        _settle_memory()
        self._condition.opened()
        if not self._settings.serverless and self._test_job is None:
            self._summarise(core, front, score)

    async def _benchmark(self, core: Core, health: Health, watch: EngineWatch) -> dict[str, object] | None:
        runner = ServiceRunner(core.service, core.engines, clock=self._clock)
        try:
            result = await self._boot_benchmark(runner, workspace=self._workspace, announce=_announce)
        except ServiceError as error:
            self._warm_up_owed = self._settings.serverless or isinstance(error, WarmUpFailed)
            if self._warm_up_owed:
                self._condition.trouble("benchmark", error.message)
            else:
                log.warning("no score: %s", error.message, extra={"event": "benchmark.failed"})
            return None
        watch.keep_warm(runner.again)
        self._speed.benchmarked(result.perf, engine_count=len(runner.engines))
        self._metrics.perf(result.perf)
        shown = result.to_json()
        health.benchmarked(shown)
        return shown

    def _summarise(self, core: Core, front: Front, score: dict[str, object] | None) -> None:
        folders = next((server.folders for server in core.servers if server.folders is not None), None)
        hint = str(folders.output if folders is not None else self._workspace / "outputs")
        summary.show(front.addresses, score=score, output_hint=hint, problem=self._condition.reason)

    async def _until_the_end(self, core: Core, tasks: Tasks) -> int:
        stopped = tasks.spawn(self._stop.wait(), name="stop")
        failed = tasks.spawn(tasks.failed.wait(), name="failure")
        await asyncio.wait({stopped, failed}, return_when=asyncio.FIRST_COMPLETED)
        if tasks.failure is not None:
            raise RuntimeError(f"{type(tasks.failure).__name__}: {tasks.failure}") from tasks.failure
        self._condition.drain()
        limit_s = self._settings.server.drain_timeout_s
        facts = {"event": "worker.draining", "jobs": core.service.in_flight_count, "limit_s": limit_s}
        log.info("draining: no new jobs, running ones may end (a second signal ends at once)", extra=facts)
        await core.service.drain(limit_s)
        return self._status

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_asked, number)

    def _stop_asked(self, number: signal.Signals) -> None:
        """The first time drains; the second time ends at once."""
        log.info("asked to stop", extra={"event": "worker.stop", "signal": signal.Signals(number).name})
        if self._stop.is_set():
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.raise_signal(number)
        self._stop.set()


def _announce(line: str) -> None:
    log.info("%s", line, extra={"event": "benchmark.progress"})


def _settle_memory() -> None:
    """What is there now stays for good: collections under load need not walk it. What the start took and freed goes
    back to the system, where the C library can be asked for that."""
    gc.collect()
    gc.freeze()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
