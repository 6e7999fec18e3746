"""Builds what the world sees: dialects on their listeners, probes, docs, webhooks."""

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from lib.app.condition import Condition
from lib.app.core import Core
from lib.app.health import Health
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
from lib.lifecycle import Tasks
from lib.protocol.auth import SignatureCheck
from lib.serving.application import Site
from lib.serving.openapi import Docs, Operation, build
from lib.serving.origins import OriginPolicy
from lib.serving.payloads import json_response
from lib.serving.probes import Probes
from lib.serving.server import Listener, tls_context
from lib.settings import Settings
from lib.telemetry.metrics import WorkerMetrics
from lib.upkeep.worker import Upkeep
from lib.workflow.template import load_templates

LOOPBACK = ("127.0.0.1", "::1", "localhost")
TITLE = "comfyui-pyworker"
DESCRIPTION = "ComfyUI as an API. Every example on this page runs as it is."


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

    def exposition() -> tuple[bytes, str]:
        service = core.service
        metrics.queue(jobs=service.in_flight_count, load=service.load, wait_s=service.predicted_wait_s())
        return metrics.render()

    probes = Probes(health=health.health, ready=health.ready, metrics=exposition)
    api_site = _api_site(settings, wrapper=wrapper, probes=probes, upkeep=upkeep, version=version)
    api = await stack.enter_async_context(_api_listener(settings, api_site))
    api_base.append(api.url)
    public_site = Site(max_body_bytes=settings.server.max_body_bytes)
    public_site.mount(vast.routes(), owner="vast", render_error=vast.render_error)
    public_site.mount(probes.public_routes(), owner="probes")
    public = await stack.enter_async_context(await _public_listener(settings, public_site))
    plain_site = Site(max_body_bytes=settings.server.max_body_bytes)
    plain_site.mount(vast.plain_routes(), owner="vast", render_error=vast.render_error)
    plain = await stack.enter_async_context(
        Listener(plain_site.app, name="plain", host=settings.worker_host, port=settings.worker_http_port)
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


def _api_site(settings: Settings, *, wrapper: WrapperDialect, probes: Probes, upkeep: Upkeep, version: str) -> Site:
    server = settings.server
    policy = OriginPolicy(
        hosts=frozenset({*server.api_allowed_hosts, server.api_host}), any_address=server.api_host not in LOOPBACK
    )
    site = Site(max_body_bytes=server.max_body_bytes, policy=policy)
    site.mount(wrapper.routes(), owner=wrapper.name, render_error=wrapper.render_error)
    site.mount(probes.routes(), owner="probes")
    site.mount([web.get("/internal/live", _live(upkeep))], owner="upkeep")
    operations: Sequence[Operation] = [*wrapper.operations(), *probes.operations()]
    docs = Docs(partial(build, title=TITLE, version=version, description=DESCRIPTION, operations=operations))
    site.mount(docs.routes(), owner="docs")
    return site


def _api_listener(settings: Settings, site: Site) -> Listener:
    port = settings.server.api_port
    return Listener(
        site.app,
        name="api",
        host=settings.server.api_host,
        port=18288 if port is None else port,
        next_free=port is None,
    )


async def _public_listener(settings: Settings, site: Site) -> Listener:
    server = settings.server
    tls: ssl.SSLContext | None = None
    if settings.use_ssl:
        tls = await asyncio.to_thread(_tls, server.ssl_cert_path, server.ssl_key_path)
    return Listener(site.app, name="public", host=settings.worker_host, port=server.worker_port, tls=tls)


def _tls(certificate: Path, key: Path) -> ssl.SSLContext:
    try:
        return tls_context(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ServiceError(
            f"USE_SSL is true, and {certificate} or {key} can't be used: {error}. Start with start_server.sh, which "
            "has them signed, name others with SSL_CERT_PATH and SSL_KEY_PATH, or set USE_SSL=false."
        ) from error


def _live(upkeep: Upkeep) -> Handler:
    """What the clean-up's cron process asks: folders of ours, and what in them must stay."""

    async def answer(request: web.Request) -> web.Response:
        return json_response(upkeep.answer())

    return answer
