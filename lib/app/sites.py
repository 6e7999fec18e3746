"""What is mounted on each of the three listeners; ``docs/reference.md`` lists it from here."""

from collections.abc import Sequence
from typing import Protocol

from aiohttp import web
from aiohttp.typedefs import Handler

from lib.app.document import Changing, Document
from lib.app.shared import SharedPaths, own_routes
from lib.dialects.native.outputs import OutputFiles
from lib.dialects.native.routes import NativeDialect
from lib.dialects.port import JobDialect
from lib.dialects.vast.routes import VastDialect
from lib.errors import Forbidden
from lib.fleet.relay import TicketGate
from lib.serving.access import Access, Need, Needs, caller_of
from lib.serving.application import Site
from lib.serving.docs_page import Docs
from lib.serving.middleware import Missing, OnError
from lib.serving.openapi import Operation, build
from lib.serving.origins import OriginPolicy
from lib.serving.payloads import json_response
from lib.serving.probes import Probes
from lib.serving.signing import same
from lib.settings import Settings
from lib.upkeep.ask import PASS_HEADER
from lib.upkeep.worker import Upkeep

LOOPBACK = ("127.0.0.1", "::1", "localhost")
LIVE = "/internal/live"
TITLE = "comfyui-pyworker"
DESCRIPTION = """ComfyUI as an API. Every example on this page runs as it is: one click on *Execute*, from the top down.

These are the routes of the **API listener**. The **public listener** (`WORKER_PORT`) has no such page. It serves only
what brings its own proof:

- in Vast's signed envelope: `POST /generate`, `/generate/sync`, `/generate/stream`, `/session/create`;
- with the session's `session_auth`: `POST /session/get`, `/session/health`, `/session/end`;
- with the job's token: `GET /result/{job_id}`, `/generate/stream/{job_id}`, `POST /result/{job_id}`,
  `/cancel/{job_id}`;
- with a signed link or the job's token: `GET /outputs/{job_id}/{name}`;
- with the `MASTER_TOKEN`: `POST /pyworker/update`;
- for everybody: `GET /healthz`, `/health`, `/ready`;
- with a ticket of a router of ours (a header, good once): below /relay/ all routes of this page that need no admin.

The plain listener (`WORKER_HTTP_PORT`) is for programs on the worker's host: `POST /session/end` with `session_auth`,
`POST /cancel/{job_id}` with the job's token.
"""


class MountedDialect(JobDialect, Protocol):
    """A dialect with what its routes ask of callers, and their description."""

    def needs(self) -> Needs: ...

    def operations(self) -> Sequence[Operation]: ...


def api_site(
    settings: Settings,
    *,
    dialects: Sequence[MountedDialect],
    shared: SharedPaths,
    document: Document,
    changing: Changing | None,
    native: NativeDialect,
    probes: Probes,
    upkeep: Upkeep,
    pass_: str,
    access: Access,
    on_error: OnError,
    version: str,
    missing: Missing | None = None,
) -> Site:
    """Every dialect that asks for no signature, the paths that they share, our own routes, probes, metrics and the docs
    page; guarded against web pages, and by API keys where there are any. ``document`` is given its contents here."""
    server = settings.server
    policy = OriginPolicy(
        hosts=frozenset({*server.api_allowed_hosts, server.api_host}),
        any_address=server.api_host not in LOOPBACK,
        any_name=access.required or bool(settings.salad.cloud),  # there a gateway is the only way in
    )
    site = Site(max_body_bytes=server.max_body_bytes, policy=policy, access=access, on_error=on_error, missing=missing)
    _mount_jobs(site, dialects=dialects, shared=shared, native=native)
    site.mount(probes.routes(), owner="probes", needs=probes.needs())
    site.mount([web.get(LIVE, _live(upkeep, pass_))], owner="upkeep", needs={LIVE: Need.LINK})
    own = shared.operations({dialect.name: dialect.operations() for dialect in dialects})
    operations = [*own, *native.operations(), *probes.operations()]
    document.describe(
        operations,
        changing=changing,
        build=lambda described: build(
            title=TITLE,
            version=version,
            description=DESCRIPTION,
            operations=described,
            keys_required=access.required,
        ),
    )
    docs = Docs(document.current)
    site.mount(docs.routes(), owner="docs", needs=docs.needs())
    return site


def public_site(
    settings: Settings, *, vast: VastDialect, files: OutputFiles, probes: Probes, on_error: OnError
) -> Site:
    """Signed work and sessions, what we gave a link or token for, and the probes that monitors need."""
    site = Site(max_body_bytes=settings.server.max_body_bytes, on_error=on_error)
    site.mount(vast.routes(), owner="vast", render_error=vast.render_error)
    site.mount(files.public_routes(), owner="native")
    site.mount(probes.public_routes(), owner="probes")
    return site


def relay_site(
    settings: Settings,
    *,
    dialects: Sequence[MountedDialect],
    shared: SharedPaths,
    native: NativeDialect,
    probes: Probes,
    gate: TicketGate,
    on_error: OnError,
) -> Site:
    """What the API listener serves, for requests that a router of ours relays: the same handlers behind its tickets,
    without what only the operator may see. It goes below ``lib.fleet.relay.PREFIX`` of the public listener."""
    site = Site(max_body_bytes=settings.server.max_body_bytes, access=gate, on_error=on_error)
    _mount_jobs(site, dialects=dialects, shared=shared, native=native)
    needs = probes.needs()
    told = [route for route in probes.routes() if needs.get(route.path) is not Need.ADMIN]
    site.mount(told, owner="probes", needs=needs)
    return site


def _mount_jobs(site: Site, *, dialects: Sequence[MountedDialect], shared: SharedPaths, native: NativeDialect) -> None:
    for dialect in dialects:
        routes = own_routes(dialect)
        site.mount(routes, owner=dialect.name, render_error=dialect.render_error, needs=dialect.needs())
    site.mount(shared.routes(), owner="shared", render_error=shared.render_error)
    site.mount(native.routes(), owner=native.name, render_error=native.render_error, needs=native.needs())


def plain_site(settings: Settings, *, vast: VastDialect) -> Site:
    """How a webhook on this host ends a session without TLS."""
    site = Site(max_body_bytes=settings.server.max_body_bytes)
    site.mount(vast.plain_routes(), owner="vast", render_error=vast.render_error)
    return site


def _live(upkeep: Upkeep, pass_: str) -> Handler:
    """What the clean-up's cron process asks: folders of ours, and what in them must stay. It shows the pass that it
    found in our record; an operator's key does as well."""

    async def answer(request: web.Request) -> web.Response:
        given = request.headers.get(PASS_HEADER, "")
        if not same(pass_, given) and not caller_of(request).admin:
            raise Forbidden("This needs a key with the scope admin.")
        return json_response(upkeep.answer())

    return answer
