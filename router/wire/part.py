"""Puts the protocol's routes together. Their handlers ask for keys themselves, since those may be in the body."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from aiohttp import web

from lib.serving.access import Need
from router.parts import Ground, Part
from router.signing import FILE, load_signing_key
from router.wire.answers import render_error
from router.wire.authority import Authority
from router.wire.certificates import Certificates
from router.wire.console import Console
from router.wire.docs import operations
from router.wire.logbook import Logbook
from router.wire.looking import Looking
from router.wire.reading import Callers
from router.wire.reporting import PREFIX, Reporting
from router.wire.routing import Routing


async def wire(ground: Ground, stack: AsyncExitStack) -> Part:
    """Build the part."""
    settings, dispatcher, clock = ground.settings, ground.dispatcher, ground.clock
    callers, logbook = Callers(ground.endpoints), Logbook(dispatcher, clock=clock)
    stack.callback(dispatcher.changes.listen(logbook.hear))
    direct, signing = ground.core.direct, ground.signing
    routing = Routing(dispatcher=dispatcher, direct=direct, signing=signing, clock=clock, wait_s=settings.route_wait_s)
    routes = [
        web.post("/route/", routing.route),
        *_for_workers(Reporting(dispatcher=dispatcher, direct=direct, signing=signing, clock=clock)),
        *_for_people(Looking(dispatcher=dispatcher, callers=callers, logbook=logbook)),
        *_for_console(Console(keeping=ground.keeping, callers=callers, clock=clock)),
        *_for_trust(await _certificates(ground)),
    ]
    needs = dict.fromkeys((route.path for route in routes), Need.FREE)
    return Part(name="wire", routes=routes, needs=needs, render_error=render_error, operations=operations())


async def _certificates(ground: Ground) -> Certificates:
    settings = ground.settings
    key = await asyncio.to_thread(load_signing_key, settings.signing_key_path or settings.state_dir / FILE)
    return Certificates(
        await asyncio.to_thread(Authority, key),
        endpoints=ground.endpoints,
        clock=ground.clock,
        behind_proxy=settings.public_url is not None,
    )


def _for_trust(certificates: Certificates) -> Sequence[web.RouteDef]:
    return [
        web.get("/static/jvastai_root.cer", certificates.root),
        web.post("/api/v0/sign_cert/", certificates.sign),
    ]


def _for_workers(reporting: Reporting) -> Sequence[web.RouteDef]:
    return [
        route
        for prefix in ("", PREFIX)
        for route in (
            web.get(f"{prefix}/pubkey/", reporting.pubkey),
            web.post(f"{prefix}/worker_status/", reporting.status),
            web.post(f"{prefix}/delete_requests/", reporting.deletes),
        )
    ]


def _for_people(looking: Looking) -> Sequence[web.RouteDef]:
    return [
        web.post("/get_endpoint_workers/", looking.endpoint_workers),
        web.post("/get_endpoint_logs/", looking.endpoint_logs),
        *(web.post(f"/get_{name}_workers/", looking.group_workers) for name in ("workergroup", "autogroup")),
        *(web.post(f"/get_{name}_logs/", looking.group_logs) for name in ("workergroup", "autogroup")),
    ]


def _for_console(console: Console) -> Sequence[web.RouteDef]:
    endpoints = "/api/v0/endptjobs/"
    return [
        web.get(endpoints, console.endpoints),
        web.post(endpoints, console.add_endpoint),
        web.get(endpoints + r"{id:\d{1,18}}/", console.endpoint),
        web.put(endpoints + r"{id:\d{1,18}}/", console.change_endpoint),
        web.delete(endpoints + r"{id:\d{1,18}}/", console.remove_endpoint),
        *(
            route
            for groups in ("/api/v0/workergroups/", "/api/v0/autojobs/")
            for route in (
                web.get(groups, console.groups),
                web.post(groups, console.add_group),
                web.put(groups + r"{id:\d{1,18}}/", console.change_group),
                web.delete(groups + r"{id:\d{1,18}}/", console.remove_group),
            )
        ),
    ]
