"""Builds what the world sees: dialects on their listeners, probes, docs, webhooks."""

import asyncio
import ssl
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lib.app.condition import Condition
from lib.app.core import Core
from lib.app.health import Health
from lib.app.sites import LOOPBACK, api_site, plain_site, public_site
from lib.app.summary import Addresses
from lib.clock import Clock
from lib.delivery.plan import plan_s3, plan_webhook
from lib.delivery.webhooks import Webhooks
from lib.dialects.vast.routes import VastDialect
from lib.dialects.vast.sessions import Sessions
from lib.dialects.wrapper.routes import WrapperDialect
from lib.dialects.wrapper.translate import WrapperPayload
from lib.errors import ServiceError
from lib.fleet.ledger import Ledger
from lib.fleet.pubkey import PubkeySource
from lib.jobs.model import JobStatus
from lib.lifecycle import Tasks
from lib.protocol.auth import SignatureCheck
from lib.serving.application import Site
from lib.serving.probes import Probes
from lib.serving.server import Listener, tls_context
from lib.settings import Settings
from lib.telemetry.metrics import WorkerMetrics
from lib.upkeep.worker import Upkeep
from lib.workflow.template import load_templates


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """What is open now."""

    addresses: Addresses


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
    """Open the three listeners. Raises ServiceError (an API beyond loopback without leave), OSError, SSLError."""
    _check_api_host(settings)
    payload = await _payload(settings, core)
    wrapper = WrapperDialect(jobs=core.service, payload=payload, max_body_bytes=settings.server.max_body_bytes)
    webhooks = await stack.enter_async_context(
        Webhooks(
            http=core.guarded_http,
            tasks=tasks,
            render=payload.render_webhook,
            attempts=settings.delivery.webhook_attempts,
            on_attempt=lambda delivered: metrics.webhook_attempted(delivered=delivered),
        )
    )
    core.service.listen(webhooks.notify)
    api_base: list[str] = []
    sessions = Sessions(
        most=settings.fleet.max_sessions,
        jobs=core.service,
        ledger=ledger,
        post=core.guarded_http.post,
        own_base=lambda: api_base[0],
        readiness=lambda: condition.reason,
        clock=clock,
        tasks=tasks,
    )
    signatures = SignatureCheck(
        keys=keys,
        forms=settings.fleet.signature_forms,
        own_urls=[own_url, *settings.fleet.url_aliases],
        check_url=settings.fleet.check_url,
        unsecured=settings.fleet.unsecured,
    )
    vast = VastDialect(
        jobs=core.service,
        payload=payload,
        signatures=signatures,
        sessions=sessions,
        ledger=ledger,
        fleet=settings.fleet,
        settings=settings.jobs,
        max_body_bytes=settings.server.max_body_bytes,
    )

    metrics.announce(
        dialects=(wrapper.name, vast.name), outcomes=[status.value for status in JobStatus if status.terminal]
    )

    def exposition() -> tuple[bytes, str]:
        service = core.service
        metrics.queue(jobs=service.in_flight_count, load=service.load, wait_s=service.predicted_wait_s())
        metrics.engine_restarts(sum(max(server.generation - 1, 0) for server in core.servers))
        return metrics.render()

    probes = Probes(health=health.health, ready=health.ready, metrics=exposition)
    site = api_site(settings, wrapper=wrapper, probes=probes, upkeep=upkeep, version=version)
    api = await stack.enter_async_context(_api_listener(settings, site))
    api_base.append(api.url)
    site = public_site(settings, vast=vast, probes=probes)
    public = await stack.enter_async_context(await _public_listener(settings, site))
    site = plain_site(settings, vast=vast)
    plain = await stack.enter_async_context(
        Listener(
            site.app,
            name="plain",
            host=settings.worker_host,
            port=settings.worker_http_port,
            setting="WORKER_HTTP_PORT",
        )
    )
    stack.push_async_callback(sessions.close_all)  # before the listeners go: a close route may be our own
    return Front(addresses=Addresses(api=api.url, public=public.url, plain=plain.url))


def _check_api_host(settings: Settings) -> None:
    host = settings.server.api_host
    if host not in LOOPBACK and not settings.server.api_allow_open:
        raise ServiceError(
            f"API_HOST={host}: the API listener asks for no credentials yet, so it stays on loopback; reach it through "
            "SSH port forwarding, or set API_ALLOW_OPEN=true if the network in front of it is trusted."
        )


async def _payload(settings: Settings, core: Core) -> WrapperPayload:
    own = settings.jobs.modifiers_path
    templates = await asyncio.to_thread(load_templates, *([own] if own else []))
    return WrapperPayload(
        templates=templates,
        plan_s3=partial(plan_s3, settings=settings.delivery, guard=core.guard),
        plan_webhook=partial(plan_webhook, settings=settings.delivery, guard=core.guard),
        settings=settings.jobs,
    )


def _api_listener(settings: Settings, site: Site) -> Listener:
    port = settings.server.api_port
    return Listener(
        site.app,
        name="api",
        host=settings.server.api_host,
        port=18288 if port is None else port,
        setting="API_PORT",
        next_free=port is None,
    )


async def _public_listener(settings: Settings, site: Site) -> Listener:
    server = settings.server
    tls: ssl.SSLContext | None = None
    if settings.use_ssl:
        tls = await asyncio.to_thread(_tls, server.ssl_cert_path, server.ssl_key_path)
    return Listener(
        site.app, name="public", host=settings.worker_host, port=server.worker_port, setting="WORKER_PORT", tls=tls
    )


def _tls(certificate: Path, key: Path) -> ssl.SSLContext:
    try:
        return tls_context(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ServiceError(
            f"USE_SSL is true, and {certificate} or {key} can't be used: {error}. Start with start_server.sh, which "
            "has them signed, name others with SSL_CERT_PATH and SSL_KEY_PATH, or set USE_SSL=false."
        ) from error
