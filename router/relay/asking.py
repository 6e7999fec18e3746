"""Salad's questions that name no worker: which models there are, and to stop a request, wherever it is."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import web

from lib.errors import NotReady
from lib.serving.middleware import ErrorRenderer
from lib.serving.payloads import read_body
from router.dispatch import Dispatcher
from router.model import Condition
from router.registry import Worker
from router.relay.answers import render_salad
from router.relay.headers import to_caller, to_worker
from router.relay.ports import Call, Upstream, Visitor, WorkerBusy, WorkerLost
from router.relay.visiting import PREFIXES, visitor_of

SALAD = "salad"
MODELS, INTERRUPT = "/models", "/interrupt"
MOST_BYTES = 64 * 1024
ANSWER_S = 10.0
AGAIN_S = 5.0
_THERE = (Condition.READY, Condition.DRAINING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A worker's answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def response(self) -> web.Response:
        return web.Response(status=self.status, headers=self.headers, body=self.body)


class Asking:
    """Asks workers of an endpoint that speak Salad's dialect."""

    def __init__(self, dispatcher: Dispatcher, *, upstream: Upstream) -> None:
        self._dispatcher = dispatcher
        self._upstream = upstream

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            route
            for prefix in PREFIXES
            for route in (web.get(prefix + MODELS, self._models), web.post(prefix + INTERRUPT, self._interrupt))
        ]

    def renderers(self) -> Mapping[str, ErrorRenderer]:
        """Whose form errors have."""
        return {prefix + path: render_salad for prefix in PREFIXES for path in (MODELS, INTERRUPT)}

    async def _models(self, request: web.Request) -> web.Response:
        """Of any worker: those of an endpoint should have the same. Raises: UnknownEndpoint, NotReady."""
        visitor = visitor_of(request, self._dispatcher.endpoints)
        for worker in self._workers(visitor):
            if (said := await self._ask(worker, request, visitor, MODELS)) is not None:
                return said.response()
        raise NotReady("No worker answers now.", retry_after_s=AGAIN_S)

    async def _interrupt(self, request: web.Request) -> web.Response:
        """All are asked, as nobody knows who has it; the one that stopped it answers. Raises: as ``_models``."""
        visitor = visitor_of(request, self._dispatcher.endpoints)
        body = await read_body(request, limit=MOST_BYTES)
        workers = self._workers(visitor)
        asked = [self._ask(worker, request, visitor, INTERRUPT, body) for worker in workers]
        answers = [said for said in await asyncio.gather(*asked) if said is not None]
        if not answers:
            raise NotReady("No worker answers now.", retry_after_s=AGAIN_S)
        return min(answers, key=lambda said: said.status != HTTPStatus.OK).response()

    def _workers(self, visitor: Visitor) -> list[Worker]:
        return [
            worker
            for worker in self._dispatcher.workers(visitor.endpoint)
            if worker.is_ours and worker.condition in _THERE and SALAD in (worker.view.dialects or (SALAD,))
        ]

    async def _ask(
        self, worker: Worker, request: web.Request, visitor: Visitor, path: str, body: bytes | None = None
    ) -> Said | None:
        headers = to_worker(request.headers, has_length=True)
        call = Call(
            method=request.method, path=path, tenant=visitor.tenant, headers=headers, body=body, answer_s=ANSWER_S
        )
        try:
            async with self._upstream.call(worker, call) as answer:
                return Said(status=answer.status, headers=to_caller(answer.headers), body=await answer.read())
        except (WorkerBusy, WorkerLost):
            return None
