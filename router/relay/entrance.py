"""Where requests come in whose callers wait: the wrapper's ``/generate/sync`` and ``/generate/stream``, Salad's
``/prompt`` and ``/workflow/...``. What is to be kept goes to the other half."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

from aiohttp import hdrs, web

from lib.errors import ServiceError
from lib.serving.access import Needs
from lib.serving.middleware import ErrorRenderer
from lib.serving.payloads import check_json, require_json
from router.endpoints import Endpoints
from router.relay.answers import render_salad, render_wrapper
from router.relay.bodies import Bodies, Held
from router.relay.forwarding import Asked, Forwarding
from router.relay.ports import Keeping, Sizing, Visitor, Work
from router.relay.preferring import preferred_wait_s
from router.relay.visiting import PREFIXES, visitor_of
from router.reports import WRAPPER, WRAPPER_SYNC

SALAD = "salad"
SYNC, STREAM, PROMPT = "/generate/sync", "/generate/stream", "/prompt"
_REST = ":.+}"
WORKFLOWS = ("/workflow/{path" + _REST, "/workflows/{path" + _REST)
LARGE_AT_ONCE = 1
"""To be sized a large body comes into memory, as it is and decoded."""
_FORM = "multipart/"
IDEMPOTENCY_HEADER = "Idempotency-Key"
LONGEST_WAIT_S = 3600.0


class Entrance:
    """Reads, sizes, and hands on."""

    def __init__(
        self, endpoints: Endpoints, *, bodies: Bodies, sizing: Sizing, forwarding: Forwarding, keep: Keeping
    ) -> None:
        self._endpoints = endpoints
        self._bodies = bodies
        self._sizing = sizing
        self._forwarding = forwarding
        self._keep = keep
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            route
            for prefix in PREFIXES
            for route in (
                web.post(prefix + SYNC, self._sync),
                web.post(prefix + STREAM, self._stream),
                *(web.post(prefix + path, self._salad) for path in (PROMPT, *WORKFLOWS)),
            )
        ]

    def needs(self) -> Needs:
        """A key, which is what routes ask for anyway."""
        return {}

    def renderers(self) -> Mapping[str, ErrorRenderer]:
        """Whose form errors have, by a path's canonical name."""
        return {prefix + path: render_wrapper for prefix in PREFIXES for path in (SYNC, STREAM)} | {
            prefix + path.replace(_REST, "}"): render_salad for prefix in PREFIXES for path in (PROMPT, *WORKFLOWS)
        }

    async def _sync(self, request: web.Request) -> web.StreamResponse:
        """Raises: UnknownEndpoint, InvalidRequest, BodyTooLarge, Overloaded, NotReady."""
        visitor = visitor_of(request, self._endpoints)
        if not _is_form(request):
            require_json(request)
        async with self._bodies.held(request) as body:
            work = await self._work(request, visitor, WRAPPER, body)
            waits = (work.patience_s, preferred_wait_s(request.headers.getall("Prefer", ())), _idempotent_s(request))
            wait_s = min((one for one in waits if one is not None), default=None)
            if wait_s is not None:
                return await self._kept(request, visitor, WRAPPER, body, work=work, wait_s=wait_s)
            if not _is_form(request):
                work = replace(work, dialect=WRAPPER_SYNC)
            return await self._forwarding.send(request, Asked(visitor=visitor, work=work, path=SYNC), body)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        visitor = visitor_of(request, self._endpoints)
        if not _is_form(request):
            require_json(request)
        async with self._bodies.held(request) as body:
            work = await self._work(request, visitor, WRAPPER, body)
            asked = Asked(visitor=visitor, work=work, path=STREAM, kept=True)
            return await self._forwarding.send(request, asked, body)

    async def _salad(self, request: web.Request) -> web.StreamResponse:
        visitor = visitor_of(request, self._endpoints)
        path = own_path(request)
        if not _is_form(request):
            check_json(request)
        async with self._bodies.held(request) as body:
            work = await self._work(request, visitor, SALAD, body, path=path)
            if work.patience_s is not None:
                return await self._kept(request, visitor, SALAD, body, work=work, wait_s=work.patience_s)
            return await self._forwarding.send(request, Asked(visitor=visitor, work=work, path=path), body)

    async def _work(self, request: web.Request, visitor: Visitor, dialect: str, body: Held, *, path: str = "") -> Work:
        if _is_form(request):  # files beside the request: only a worker reads them
            return await self._sizing.work(visitor.endpoint, dialect, b"{}", path=request.content_type)
        async with self._large if body.is_large else nullcontext():
            return await self._sizing.work(visitor.endpoint, dialect, await body.whole(), path=path)

    async def _kept(
        self, request: web.Request, visitor: Visitor, dialect: str, body: Held, *, work: Work, wait_s: float
    ) -> web.StreamResponse:
        whole = await body.whole()
        return await self._keep(request, visitor=visitor, dialect=dialect, body=whole, work=work, wait_s=wait_s)


def own_path(request: web.Request) -> str:
    """The path as a worker knows it, as it was written."""
    raw = request.rel_url.raw_path
    if "endpoint" in request.match_info:
        return "/" + raw.split("/", 3)[3]
    return raw


def rendered(renderers: Mapping[str, ErrorRenderer], otherwise: ErrorRenderer) -> ErrorRenderer:
    """Make one renderer of those by path."""

    def render(error: ServiceError, request: web.Request) -> web.Response:
        resource = request.match_info.route.resource
        known = renderers.get(resource.canonical) if resource is not None else None
        return (known or otherwise)(error, request)

    return render


def _idempotent_s(request: web.Request) -> float | None:
    """Who has a key means to ask again when the connection is lost: the job has to outlive it."""
    return LONGEST_WAIT_S if IDEMPOTENCY_HEADER in request.headers else None


def _is_form(request: web.Request) -> bool:
    return request.headers.get(hdrs.CONTENT_TYPE, "").lower().startswith(_FORM)
