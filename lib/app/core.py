"""Builds what runs jobs: engines, inputs, delivery, webhooks, queue, service."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import aiohttp

from lib.app.comfy import build_engines, comfy_http, fetched_folder, first_of
from lib.app.condition import Condition
from lib.app.counting import count_attempts, count_care, count_jobs
from lib.app.durable import Records, open_records
from lib.app.models import build_models, open_record
from lib.app.runpod import runpod_payload
from lib.app.salad import salad_payload
from lib.app.storages import Storages, open_storages
from lib.app.system_events import downloaded, tell_uploads
from lib.app.tracing import trace_jobs, trace_webhook
from lib.clock import Clock
from lib.comfy.catalog import Catalog
from lib.comfy.discover import servers as find_servers
from lib.comfy.engine import ComfyEngine
from lib.comfy.inputs import InputPreparer
from lib.comfy.models.desk import ModelDesk
from lib.comfy.placing import Placer
from lib.comfy.ports import Server
from lib.comfy.uploads import UploadStore
from lib.delivery.announcements import Announcements, Render
from lib.delivery.finish import Finisher
from lib.delivery.hooks import default_webhook, plan_webhooks
from lib.delivery.inline import InlineCaps
from lib.delivery.outbox import WebhookSender
from lib.delivery.outputs import OutputDelivery, Sign
from lib.delivery.places import opener
from lib.delivery.plan import plan_convert, plan_put, plan_s3, plan_thumbnail
from lib.delivery.posting import Attempt, Posts
from lib.delivery.put import Puts
from lib.delivery.schedules import schedules
from lib.delivery.system_events import system_events
from lib.delivery.uploads import Uploads
from lib.dialects.port import Planner
from lib.dialects.runpod.translate import RunPodPayload
from lib.dialects.salad.translate import SaladPayload
from lib.dialects.wrapper.translate import WrapperPayload
from lib.fleet.ledger import Ledger
from lib.fleet.relay import RelayedJobs
from lib.fleet.salad import DeletionCost
from lib.jobs.model import Job
from lib.jobs.pipeline import PipelineLimits
from lib.jobs.queue import SlotQueue
from lib.jobs.service import JobService, ServiceLimits
from lib.jobs.speed import SpeedGauge
from lib.lifecycle import Tasks
from lib.serving.signing import Signer
from lib.settings import Settings, SettingsError
from lib.storage.downloads import Downloads
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from lib.storage.local import ContentStore
from lib.telemetry.metrics import WorkerMetrics
from lib.telemetry.traces import Traces, open_traces
from lib.workflow.template import Template, TemplateError, load_templates

VAST = "vast"
"""Jobs of Vast's envelope tell their webhooks what the API wrapper's do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """Connections and threads that tasks use; entered before the tasks are, so that they outlive them."""

    comfy_http: aiohttp.ClientSession
    guard: AddressGuard
    storages: Storages
    finisher: Finisher
    records: Records
    traces: Traces | None


async def open_clients(settings: Settings, stack: AsyncExitStack, *, clock: Clock, version: str) -> Clients:
    """Enter every client on ``stack``; nothing is connected yet. Raises StorageFailed: the state folder is no good."""
    own = [f"http://{name}:{settings.worker_http_port}/session/end" for name in ("localhost", "127.0.0.1", "[::1]")]
    guard = AddressGuard(allow=settings.storage.allow_hosts, own_urls=own)
    return Clients(
        comfy_http=await stack.enter_async_context(comfy_http()),
        guard=guard,
        storages=await open_storages(settings, stack, guard=guard),
        finisher=await stack.enter_async_context(Finisher(settings=settings.delivery, folder=fetched_folder(settings))),
        records=await open_records(settings, stack, clock=clock),
        traces=await stack.enter_async_context(open_traces(settings.telemetry, version=version)),
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
    records: Records
    payload: WrapperPayload
    runpod: RunPodPayload
    salad: SaladPayload
    models: ModelDesk
    options: Callable[..., tuple[str, ...]]
    """What ComfyUI offers for an input of a node class."""
    signer: Signer
    uploaded: UploadStore
    sender: WebhookSender
    workspace: Path
    cache: Path
    """Fetched inputs, by content."""


async def build_core(
    settings: Settings,
    *,
    clients: Clients,
    stack: AsyncExitStack,
    tasks: Tasks,
    clock: Clock,
    condition: Condition,
    ledger: Ledger,
    speed: SpeedGauge,
    metrics: WorkerMetrics,
) -> Core:
    """Build everything behind ``JobService``. Raises EngineUnreachable when there is no ComfyUI to use."""
    workspace = settings.engine.workspace.resolve()
    records = clients.records
    servers = tuple(
        await find_servers(
            settings.engine, serverless=settings.serverless, http=clients.comfy_http, tasks=tasks, clock=clock
        )
    )
    placer = Placer(servers, http=clients.comfy_http)
    own = records.derive("engines").hex()[:16]
    privacy = await open_record(settings)
    events = system_events(settings.salad, settings.delivery, http=clients.storages.http, clock=clock)
    engines = build_engines(
        servers,
        settings,
        http=clients.comfy_http,
        placer=placer,
        tasks=tasks,
        clock=clock,
        owner=own,
        tap=events,
        hide=privacy.hide,
    )
    models = build_models(
        settings,
        storages=clients.storages,
        servers=servers,
        engines=engines,
        http=clients.comfy_http,
        events=events,
        tasks=tasks,
        privacy=privacy,
    )
    options = first_of(engines, Catalog.options)
    queue = SlotQueue(engines, clock=clock)
    cache = ContentStore(settings.inputs_folder, quota_bytes=settings.storage.input_cache_bytes)
    uploaded = UploadStore(cache.root, settings=settings.storage)
    signer = Signer(records.derive("urls"))
    payload = await _payload(settings, clients.guard)
    runpod = runpod_payload(settings, guard=clients.guard, clock=clock)
    salad = salad_payload(settings, guard=clients.guard, missing=clients.storages.missing)
    sender = await _sender(settings, clients=clients, stack=stack, tasks=tasks, clock=clock, metrics=metrics)
    service = RelayedJobs(
        queue=queue,
        preparer=InputPreparer(
            placer=placer,
            fetcher=Downloads(
                store=cache,
                http=clients.storages.http,
                settings=settings.storage,
                tasks=tasks,
                on_brought=metrics.input_brought,
                on_downloaded=downloaded(events),
            ),
            rights=clients.storages.sources,
            uploaded=uploaded,
            settings=settings.storage,
            uploads=first_of(engines, Catalog.upload_inputs),
            options=options,
            models=models.inputs,
        ),
        delivery=_delivery(settings, clients=clients, sign=_sign(settings, signer, clock), clock=clock),
        store=records.store,
        announcer=_announcer(
            {
                payload.name: payload.render_webhook,
                VAST: payload.render_webhook,
                runpod.name: runpod.render_webhook,
                salad.name: salad.render_webhook,
            },
            sender=sender,
            signer=signer,
            clock=clock,
        ),
        ledger=ledger,
        speed=speed,
        clock=clock,
        tasks=tasks,
        limits=_limits(settings),
        readiness=lambda: condition.reason,
        starting=lambda: condition.starting,
        until_ready=condition.ready.wait,
        durable=records.durable and settings.keeps_jobs,
    )
    service.listen(count_jobs(metrics))
    if events is not None:
        service.listen(tell_uploads(events))
        tasks.spawn(events.run(), name="system events")
    if settings.salad.cloud:
        cost = DeletionCost(
            settings.salad.metadata_url,
            http=clients.comfy_http,
            in_flight=lambda: service.in_flight_count,
            clock=clock,
        )
        service.listen(cost.changed)
        tasks.spawn(cost.run(), name="deletion cost")
    count_care(metrics, engines)
    if clients.traces is not None:
        service.listen(trace_jobs(clients.traces))
    return Core(
        service=service,
        engines=engines,
        servers=servers,
        queue=queue,
        guard=clients.guard,
        guarded_http=clients.storages.http,
        records=records,
        payload=payload,
        runpod=runpod,
        salad=salad,
        models=models.desk,
        options=options,
        signer=signer,
        uploaded=uploaded,
        sender=sender,
        workspace=workspace,
        cache=cache.root,
    )


def own_templates(own: Path | None) -> dict[str, Template]:
    """Read the operator's templates after ours. Blocks. Raises: SettingsError."""
    try:
        return load_templates(*([own] if own else []))
    except TemplateError as error:
        raise SettingsError(f"MODIFIERS_PATH: {error}") from error


async def _payload(settings: Settings, guard: AddressGuard) -> WrapperPayload:
    templates = await asyncio.to_thread(own_templates, settings.jobs.modifiers_path)
    delivery = settings.delivery
    default_webhook(delivery)  # a bad WEBHOOK_* is told now, not with the first job
    planner = Planner(
        s3=partial(plan_s3, settings=delivery, guard=guard),
        webhooks=lambda block, blocks: plan_webhooks(block, blocks, delivery, guard=guard),
        put=partial(plan_put, guard=guard),
        convert=plan_convert,
        thumbnail=plan_thumbnail,
    )
    return WrapperPayload(templates=templates, planner=planner, settings=settings.jobs)


async def _sender(
    settings: Settings, *, clients: Clients, stack: AsyncExitStack, tasks: Tasks, clock: Clock, metrics: WorkerMetrics
) -> WebhookSender:
    when = schedules(settings.delivery)
    count, traces = count_attempts(metrics), clients.traces

    def attempted(attempt: Attempt, dead: bool) -> None:
        count(attempt, dead)
        if traces is not None:
            trace_webhook(traces, attempt)

    sender = WebhookSender(
        outbox=clients.records.store,
        posts=Posts(http=clients.storages.http, schedules=when, clock=clock),
        schedules=when,
        tasks=tasks,
        clock=clock,
        on_attempt=attempted,
    )
    return await stack.enter_async_context(sender)


def _announcer(renders: Mapping[str, Render], *, sender: WebhookSender, signer: Signer, clock: Clock) -> Announcements:
    def result_url(job: Job) -> str | None:
        base = job.spec.delivery.base_url
        return None if base is None else f"{base}/result/{job.job_id}?job_token={signer.job_token(job.job_id)}"

    return Announcements(renders=renders, send=sender.send, clock=clock, result_url=result_url)


def link_life_s(settings: Settings) -> float:
    """Links to files live as long as the job is known, at most."""
    return min(settings.access.output_url_expires_s, settings.jobs.result_ttl_s)


def _sign(settings: Settings, signer: Signer, clock: Clock) -> Sign:
    life = timedelta(seconds=link_life_s(settings))

    def sign(job_id: str, name: str, base_url: str) -> tuple[str, datetime]:
        end = clock.now() + life
        return signer.output_url(base_url, job_id, name, expires_at=end), end

    return sign


def _delivery(settings: Settings, *, clients: Clients, sign: Sign, clock: Clock) -> OutputDelivery:
    delivery, runpod = settings.delivery, settings.runpod
    caps = InlineCaps(file_bytes=delivery.base64_max_bytes, total_bytes=delivery.base64_total_bytes)
    if runpod.job_url is not None:
        caps = caps.within(runpod.max_result_bytes, "RUNPOD_MAX_RESULT_BYTES")
    return OutputDelivery(
        finisher=clients.finisher,
        uploads=Uploads(
            open_store=opener(clients.storages.s3, delivery, clients.storages.accounts),
            expires_s=delivery.s3_url_expires_s,
            clock=clock,
        ),
        puts=Puts(http=clients.storages.http),
        caps=caps,
        sign=sign,
    )


def _limits(settings: Settings) -> ServiceLimits:
    jobs = settings.jobs
    return ServiceLimits(
        in_flight=jobs.max_queue_size,
        backlog_bytes=jobs.deliver_backlog_bytes,
        request_bytes=jobs.max_queue_bytes,
        pipeline=PipelineLimits(
            prepare_workers=jobs.prepare_workers,
            deliver_workers=jobs.deliver_workers,
            timeout_s=jobs.timeout_s,
        ),
    )
