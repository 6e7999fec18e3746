"""Builds what the world sees: dialects on their listeners, probes, docs, sessions, event streams."""

import asyncio
import logging
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.app.condition import Condition
from lib.app.core import Core
from lib.app.counting import announce
from lib.app.document import Document
from lib.app.health import Health
from lib.app.live import output_roots
from lib.app.shared import SharedPaths
from lib.app.sites import api_site, plain_site, public_site, relay_site
from lib.app.summary import Addresses
from lib.clock import Clock
from lib.delivery.uploads import named_files, output_names
from lib.dialects.native.in_flight import follow
from lib.dialects.native.inputs import Inputs
from lib.dialects.native.outputs import OutputFiles
from lib.dialects.native.routes import NativeDialect
from lib.dialects.runpod.counts import RunPodCounts, WorkerState
from lib.dialects.runpod.routes import RunPodDialect
from lib.dialects.salad.results import no_route
from lib.dialects.salad.routes import SaladDialect
from lib.dialects.vast.routes import VastDialect
from lib.dialects.vast.sessions import Sessions
from lib.dialects.wrapper.parts import Uploads
from lib.dialects.wrapper.routes import WrapperDialect
from lib.errors import ServiceError
from lib.fleet.ledger import Ledger
from lib.fleet.pubkey import PubkeySource
from lib.fleet.relay import PREFIX, TicketGate
from lib.lifecycle import Tasks
from lib.protocol.auth import SignatureCheck
from lib.serving.access import Access, is_loopback, keys_required
from lib.serving.application import Site
from lib.serving.keyring import key_ring
from lib.serving.limits import KeyLimits
from lib.serving.probes import Probes
from lib.serving.server import Listener, tls_context
from lib.serving.sse import EventStreams
from lib.settings import Settings
from lib.telemetry.metrics import WorkerMetrics
from lib.upkeep.worker import Upkeep

if TYPE_CHECKING:
    from lib.workflow.endpoints.folder import WorkflowFolder

log = logging.getLogger(__name__)

API_PORT = 18288
RUNPOD_PORT = 8000
"""Where RunPod's local test server is expected (``SERVE_API_LOCALLY``)."""
_STATES = {"healthy": WorkerState.READY, "starting": WorkerState.STARTING, "unhealthy": WorkerState.UNHEALTHY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """What is open now."""

    addresses: Addresses
    pass_: str = field(repr=False)
    """Opens ``/internal/live`` to programs of ours on this host."""


async def build_front(
    settings: Settings,
    *,
    core: Core,
    stack: AsyncExitStack,
    tasks: Tasks,
    clock: Clock,
    condition: Condition,
    ledger: Ledger,
    metrics: WorkerMetrics,
    health: Health,
    keys: PubkeySource,
    own_url: str,
    upkeep: Upkeep,
    version: str,
) -> Front:
    """Open the three listeners. Raises SettingsError (an API beyond loopback without keys), OSError, ServiceError."""
    access = await _access(settings, core=core, clock=clock)
    server = settings.server
    streams = EventStreams(
        tasks=tasks, clock=clock, heartbeat_s=server.sse_heartbeat_s, interval_s=server.sse_interval_s
    )
    wrapper = WrapperDialect(
        jobs=core.service,
        payload=core.payload,
        streams=streams,
        clock=clock,
        server=server,
        uploads=Uploads(save=core.uploaded.save, max_bytes=settings.storage.input_max_bytes),
        signer=core.signer,
    )
    files = OutputFiles(
        jobs=core.service,
        signer=core.signer,
        files_of=named_files,
        roots=partial(output_roots, core),
        clock=clock,
    )
    native = NativeDialect(
        jobs=core.service,
        names=output_names,
        files=files,
        uploads=Inputs(save=core.uploaded.save),
        outbox=core.records.store,
        wake=core.sender.wake,
        clock=clock,
    )
    plain_base: list[str] = []
    sessions = Sessions(
        most=settings.fleet.max_sessions,
        jobs=core.service,
        ledger=ledger,
        post=core.guarded_http.post,
        plain_base=lambda: plain_base[0],
        readiness=lambda: condition.reason,
        clock=clock,
        tasks=tasks,
    )
    vast = VastDialect(
        jobs=core.service,
        payload=wrapper,
        signatures=_signatures(settings, keys=keys, own_url=own_url),
        signer=core.signer,
        sessions=sessions,
        ledger=ledger,
        fleet=settings.fleet,
        settings=settings.jobs,
        base_url=server.public_base_url or own_url,
        longest_wait_s=server.long_poll_max_s,
        max_body_bytes=server.max_body_bytes,
    )
    counts = RunPodCounts(core.service, state=lambda: _STATES[health.status()])
    health.add(counts.health)
    runpod = RunPodDialect(
        jobs=core.service,
        payload=core.runpod,
        counts=counts,
        clock=clock,
        server=server,
        settings=settings.runpod,
    )
    folder = await asyncio.to_thread(_workflows, settings)
    if folder is not None:
        await folder.refresh()
        health.add(partial(_problems, folder))
    document = Document()
    salad = SaladDialect(
        jobs=core.service,
        payload=core.salad,
        models=core.models,
        document=document.current,
        tasks=tasks,
        server=server,
        settings=settings.salad,
        folder=folder,
        options=core.options,
    )
    shared = SharedPaths(
        jobs=core.service,
        dialects={wrapper.name: wrapper, vast.name: wrapper, runpod.name: runpod, salad.name: salad},
        primary=server.primary_dialect,
    )
    announce(metrics, dialects=(wrapper.name, vast.name, runpod.name, salad.name))
    probes = Probes(
        health=health.health, ready=health.ready, metrics=_exposition(metrics, core=core, streams=streams, clock=clock)
    )
    pass_ = core.records.derive("internal").hex()
    site = api_site(
        settings,
        dialects=(wrapper, runpod, salad),
        document=document,
        changing=salad.endpoint_operations,
        shared=shared,
        native=native,
        probes=probes,
        upkeep=upkeep,
        pass_=pass_,
        access=access,
        on_error=partial(_refused, metrics),
        version=version,
        missing=no_route if server.primary_dialect == salad.name else None,
    )
    api = await stack.enter_async_context(_api_listener(settings, site))
    site = public_site(settings, vast=vast, files=files, probes=probes, on_error=partial(_refused, metrics))
    gate = TicketGate(
        tickets=vast.tickets,
        signer=core.signer,
        ledger=ledger,
        cost=settings.jobs.workload_units,
        base_url=server.public_base_url or own_url,
    )
    relay = relay_site(
        settings,
        dialects=(wrapper, runpod, salad),
        shared=shared,
        native=native,
        probes=probes,
        gate=gate,
        on_error=partial(_refused, metrics),
    )
    site.app.add_subapp(PREFIX, relay.app)
    public = await stack.enter_async_context(await _public_listener(settings, site))
    plain = await stack.enter_async_context(_plain_listener(settings, plain_site(settings, vast=vast)))
    plain_base.append(plain.url)
    stack.push_async_callback(sessions.close_all)  # before the listeners go: a close route may be our own
    stack.callback(streams.close)
    stack.push_async_callback(streams.settle)
    addresses = Addresses(
        api=api.url,
        public=public.url,
        plain=plain.url,
        beyond=not is_loopback(server.api_host),
        keys=access.required,
    )
    return Front(addresses=addresses, pass_=pass_)


async def _access(settings: Settings, *, core: Core, clock: Clock) -> Access:
    """Who may use the API listener. Its limits count jobs from here on, recovered ones included."""
    ring = await asyncio.to_thread(key_ring, settings.access, clock=clock)
    required = keys_required(settings.server, settings.access, key_count=len(ring))
    limits = KeyLimits(
        requests_per_minute=settings.access.requests_per_minute,
        max_in_flight=settings.access.max_in_flight,
        clock=clock,
    )
    core.service.listen(follow(limits))
    return Access(keys=ring, required=required, signer=core.signer, limits=limits)


def _workflows(settings: Settings) -> "WorkflowFolder | None":
    """The folder of workflow endpoints, and what reads their files, where there is one."""
    if (path := settings.salad.workflows_folder) is None:
        return None
    from lib.workflow.endpoints.folder import WorkflowFolder

    if not path.exists():  # it may come later
        log.warning("WORKFLOW_DIR=%s is not there", path, extra={"event": "workflow.folder"})
    return WorkflowFolder(path)


def _problems(folder: "WorkflowFolder") -> dict[str, Any]:
    """What keeps files of the folder from being endpoints, by name."""
    return {"workflow_problems": [str(problem) for problem in folder.problems]}


def _refused(metrics: WorkerMetrics, error: ServiceError) -> None:
    metrics.refused(error.code.value)


def _signatures(settings: Settings, *, keys: PubkeySource, own_url: str) -> SignatureCheck:
    return SignatureCheck(
        keys=keys,
        forms=settings.fleet.signature_forms,
        own_urls=[own_url, *settings.fleet.url_aliases],
        check_url=settings.fleet.check_url,
        unsecured=settings.fleet.unsecured,
    )


def _exposition(
    metrics: WorkerMetrics, *, core: Core, streams: EventStreams, clock: Clock
) -> Callable[[], tuple[bytes, str]]:
    loop = asyncio.get_running_loop()

    def exposition() -> tuple[bytes, str]:
        service, outbox = core.service, core.sender.state
        oldest_s = 0.0 if outbox.oldest_at is None else (clock.now() - outbox.oldest_at).total_seconds()
        metrics.queue(jobs=service.in_flight_count, load=service.load, wait_s=service.predicted_wait_s())
        metrics.engine_restarts(sum(max(server.generation - 1, 0) for server in core.servers))
        metrics.webhooks(pending=outbox.pending_count, dead=outbox.dead_count, oldest_s=oldest_s)
        metrics.streams(streams.open_count)
        metrics.tasks(len(asyncio.all_tasks(loop)))
        return metrics.render()

    return exposition


def _api_listener(settings: Settings, site: Site) -> Listener:
    port, usual = settings.server.api_port, RUNPOD_PORT if settings.runpod.serve_locally else API_PORT
    return Listener(
        site.app,
        name="api",
        host=settings.server.api_host,
        port=usual if port is None else port,
        setting="API_PORT",
        host_setting="API_HOST",
        next_free=port is None and not settings.runpod.serve_locally,
    )


async def _public_listener(settings: Settings, site: Site) -> Listener:
    server = settings.server
    tls: ssl.SSLContext | None = None
    if settings.use_ssl:
        tls = await asyncio.to_thread(_tls, server.ssl_cert_path, server.ssl_key_path)
    return Listener(
        site.app,
        name="public",
        host=settings.worker_host,
        port=server.worker_port,
        setting="WORKER_PORT",
        host_setting="WORKER_HOST",
        tls=tls,
    )


def _plain_listener(settings: Settings, site: Site) -> Listener:
    return Listener(
        site.app,
        name="plain",
        host=settings.worker_host,
        port=settings.worker_http_port,
        setting="WORKER_HTTP_PORT",
        host_setting="WORKER_HOST",
    )


def _tls(certificate: Path, key: Path) -> ssl.SSLContext:
    try:
        return tls_context(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ServiceError(
            f"USE_SSL is true, and {certificate} or {key} can't be used: {error}. Start with start_server.sh, which "
            "has them signed, name others with SSL_CERT_PATH and SSL_KEY_PATH, or set USE_SSL=false."
        ) from error
