"""What is mounted on each of the three listeners; ``docs/reference.md`` lists it from here."""

from collections.abc import Sequence
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Handler

from lib.dialects.vast.routes import VastDialect
from lib.dialects.wrapper.routes import WrapperDialect
from lib.serving.application import Site
from lib.serving.openapi import Docs, Operation, build
from lib.serving.origins import OriginPolicy
from lib.serving.payloads import json_response
from lib.serving.probes import Probes
from lib.settings import Settings
from lib.upkeep.worker import Upkeep

LOOPBACK = ("127.0.0.1", "::1", "localhost")
TITLE = "comfyui-pyworker"
DESCRIPTION = "ComfyUI as an API. Every example on this page runs as it is."


def api_site(settings: Settings, *, wrapper: WrapperDialect, probes: Probes, upkeep: Upkeep, version: str) -> Site:
    """Every dialect that asks for no signature, probes, metrics and the docs page; guarded against web pages."""
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


def public_site(settings: Settings, *, vast: VastDialect, probes: Probes) -> Site:
    """Signed work and sessions, and the probes that monitors need."""
    site = Site(max_body_bytes=settings.server.max_body_bytes)
    site.mount(vast.routes(), owner="vast", render_error=vast.render_error)
    site.mount(probes.public_routes(), owner="probes")
    return site


def plain_site(settings: Settings, *, vast: VastDialect) -> Site:
    """How a webhook on this host ends a session without TLS."""
    site = Site(max_body_bytes=settings.server.max_body_bytes)
    site.mount(vast.plain_routes(), owner="vast", render_error=vast.render_error)
    return site


def _live(upkeep: Upkeep) -> Handler:
    """What the clean-up's cron process asks: folders of ours, and what in them must stay."""

    async def answer(request: web.Request) -> web.Response:
        return json_response(upkeep.answer())

    return answer
