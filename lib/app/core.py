"""Builds what runs jobs: engines, inputs, delivery, queue, service."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from lib.app.condition import Condition
from lib.clock import Clock
from lib.comfy.discover import servers as find_servers
from lib.comfy.engine import ComfyEngine
from lib.comfy.inputs import InputPreparer
from lib.comfy.ports import Server
from lib.delivery.inline import InlineCaps
from lib.delivery.outputs import OutputDelivery
from lib.delivery.uploads import Uploads, s3_opener
from lib.fleet.ledger import Ledger
from lib.jobs.model import Job
from lib.jobs.pipeline import Pipeline, PipelineLimits
from lib.jobs.queue import SlotQueue
from lib.jobs.service import JobService, ServiceLimits
from lib.jobs.speed import SpeedGauge
from lib.jobs.store import MemoryJobStore
from lib.lifecycle import Tasks
from lib.settings import Settings
from lib.storage.downloads import Downloads
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from lib.storage.local import ContentStore
from lib.storage.s3 import S3Stores
from lib.telemetry.metrics import WorkerMetrics
from lib.workflow.cost import ConstantCost

SMALL_BYTES = 128 * 1024
"""Files of a job that are together at most this are inlined while they are collected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """Connections that tasks use; entered before the tasks are, so that they outlive them."""

    comfy_http: aiohttp.ClientSession
    guard: AddressGuard
    guarded_http: GuardedHttp
    stores: S3Stores


async def open_clients(settings: Settings, stack: AsyncExitStack) -> Clients:
    """Enter every client on ``stack``; nothing is connected yet."""
    own = [f"http://{name}:{settings.worker_http_port}/session/end" for name in ("localhost", "127.0.0.1", "[::1]")]
    guard = AddressGuard(allow=settings.storage.allow_hosts, own_urls=own)
    return Clients(
        comfy_http=await stack.enter_async_context(_comfy_http()),
        guard=guard,
        guarded_http=await stack.enter_async_context(GuardedHttp(guard)),
        stores=await stack.enter_async_context(S3Stores(guard=guard)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """What the rest of the assembly needs of it."""

    service: JobService
    engines: tuple[ComfyEngine, ...]
    servers: tuple[Server, ...]
    queue: SlotQueue
    guard: AddressGuard
    guarded_http: GuardedHttp
    workspace: Path
    cache: Path
    """Fetched inputs, by content."""


async def build_core(
    settings: Settings,
    *,
    clients: Clients,
    tasks: Tasks,
    clock: Clock,
    condition: Condition,
    ledger: Ledger,
    speed: SpeedGauge,
    metrics: WorkerMetrics,
) -> Core:
    """Build everything behind ``JobService``. Raises EngineUnreachable when there is no ComfyUI to use."""
    workspace = settings.engine.workspace.resolve()
    http = clients.comfy_http
    servers = tuple(
        await find_servers(settings.engine, serverless=settings.serverless, http=http, tasks=tasks, clock=clock)
    )
    engines = tuple(_engine(server, settings, http=http, tasks=tasks, clock=clock) for server in servers)
    queue = SlotQueue(engines, clock=clock)
    cache = workspace / "inputs"
    store = ContentStore(cache, quota_bytes=settings.storage.input_cache_bytes)
    preparer = InputPreparer(
        servers=servers,
        http=http,
        fetcher=Downloads(store=store, http=clients.guarded_http, settings=settings.storage, tasks=tasks),
        settings=settings.storage,
        uploads=_uploads(engines),
    )
    caps = InlineCaps(file_bytes=settings.delivery.base64_max_bytes, total_bytes=settings.delivery.base64_total_bytes)
    uploads = Uploads(
        open_store=s3_opener(clients.stores, settings.delivery),
        expires_s=settings.delivery.s3_url_expires_s,
    )
    delivery = OutputDelivery(uploads=uploads, caps=caps)
    pipeline = Pipeline(
        queue=queue,
        preparer=preparer,
        delivery=delivery,
        speed=speed,
        clock=clock,
        limits=PipelineLimits(
            prepare_workers=settings.jobs.prepare_workers,
            deliver_workers=settings.jobs.deliver_workers,
            timeout_s=settings.jobs.timeout_s,
        ),
    )
    service = JobService(
        pipeline=pipeline,
        queue=queue,
        store=MemoryJobStore(clock=clock, ttl_s=settings.jobs.result_ttl_s, max_results=settings.jobs.max_results),
        delivery=delivery,
        cost_model=ConstantCost(workload=settings.jobs.workload_units),
        ledger=ledger,
        speed=speed,
        clock=clock,
        tasks=tasks,
        limits=ServiceLimits(in_flight=settings.jobs.max_queue_size, backlog_bytes=settings.jobs.deliver_backlog_bytes),
        readiness=lambda: condition.reason,
    )
    service.listen(_counter(metrics))
    return Core(
        service=service,
        engines=engines,
        servers=servers,
        queue=queue,
        guard=clients.guard,
        guarded_http=clients.guarded_http,
        workspace=workspace,
        cache=cache,
    )


def _comfy_http() -> aiohttp.ClientSession:
    """The pooled client for ComfyUI: no limit, no proxy of the environment; each call sets its own time-out."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("Accept-Encoding",),
    )


def _engine(
    server: Server, settings: Settings, *, http: aiohttp.ClientSession, tasks: Tasks, clock: Clock
) -> ComfyEngine:
    return ComfyEngine(
        name=server.name,
        server=server,
        http=http,
        settings=settings.engine,
        tasks=tasks,
        fetch_folder=settings.engine.workspace.resolve() / "outputs",
        inline_bytes=min(SMALL_BYTES, settings.delivery.base64_max_bytes, settings.delivery.base64_total_bytes),
        clock=clock,
    )


def _uploads(engines: tuple[ComfyEngine, ...]) -> Callable[[str], tuple[str, ...]]:
    def upload_inputs(class_type: str) -> tuple[str, ...]:
        for engine in engines:
            if found := engine.catalog.upload_inputs(class_type):
                return found
        return ()

    return upload_inputs


def _counter(metrics: WorkerMetrics) -> Callable[[Job], None]:
    """Feed the metrics from job snapshots."""

    def count(job: Job) -> None:
        if job.spec.internal or not job.status.terminal:
            return
        metrics.job_finished(dialect=job.spec.dialect, outcome=str(job.status))
        timings = job.timings
        stages = {
            "prepare": timings.prepare_s,
            "wait": timings.wait_s,
            "execute": timings.execute_s,
            "collect": timings.collect_s,
            "deliver": timings.deliver_s,
        }
        for stage, seconds in stages.items():
            if seconds is not None:
                metrics.stage_took(stage, seconds)
        metrics.stored(sum(output.size_bytes for output in job.outputs if output.url))

    return count
