"""Links to what a worker made or does: forwarded to that very worker, which checks what the link itself proves.

The ticket that goes with them names nobody, so they open no more than the worker's own public address would.
"""

import re
from collections.abc import Sequence

from aiohttp import hdrs, web

from lib.errors import NotReady, OutputNotFound
from lib.serving.access import Need, Needs
from router.dispatch import Dispatcher
from router.model import Condition
from router.registry import Worker
from router.relay.calling import WorkerCalls
from router.relay.headers import FORWARDED_FOR, forwarded_for, with_query
from router.relay.passing import LEFT, CallerLeft, Passing
from router.relay.ports import Call, WorkerLost

ROUTE = r"/w/{endpoint}/{worker:\d{1,18}}/{path:.+}"
_NAME = r"(?!\.\.?(?:/|\Z))[^/]+"
_READ = re.compile(rf"outputs/{_NAME}/{_NAME}|result/{_NAME}|generate/stream/{_NAME}")
_TOLD = re.compile(rf"cancel/{_NAME}")
_AWAY = (Condition.STALE, Condition.STOPPED)
AGAIN_S = 10.0


class Links:
    """Answers what links in workers' answers lead to."""

    def __init__(self, dispatcher: Dispatcher, *, calls: WorkerCalls) -> None:
        self._dispatcher = dispatcher
        self._calls = calls

    def routes(self) -> Sequence[web.RouteDef]:
        return (web.get(ROUTE, self._show), web.post(ROUTE, self._tell))

    def needs(self) -> Needs:
        """The worker asks for what the link proves."""
        return {ROUTE: Need.LINK}

    async def _show(self, request: web.Request) -> web.StreamResponse:
        return await self._forward(request, _READ)

    async def _tell(self, request: web.Request) -> web.StreamResponse:
        return await self._forward(request, _TOLD)

    async def _forward(self, request: web.Request, allowed: re.Pattern[str]) -> web.StreamResponse:
        """Raises: OutputNotFound, NotReady (the worker does not answer now)."""
        path, worker = self._path(request, allowed), self._worker(request)
        headers = request.headers.copy()
        headers[FORWARDED_FOR] = forwarded_for(request.headers, request.remote)
        headers.popall(hdrs.CONTENT_LENGTH, None)
        passing = Passing(request)
        try:
            call = Call(method=request.method, path=path, tenant="", headers=headers)
            async with self._calls.reach(worker, call) as answer:
                return await passing.pass_on(answer)
        except WorkerLost as error:
            if passing.begun:
                return await passing.break_off(error.message)
            raise NotReady(f"The worker that has it is away: {error.message}.", retry_after_s=AGAIN_S) from error
        except CallerLeft:
            return web.Response(status=LEFT)

    def _path(self, request: web.Request, allowed: re.Pattern[str]) -> str:
        """The worker's path, as it was written: nothing is decoded twice."""
        raw = request.rel_url.raw_path.split("/", 4)[4]
        if not allowed.fullmatch(raw):
            raise OutputNotFound("No link leads here.")
        return with_query(f"/{raw}", request)

    def _worker(self, request: web.Request) -> Worker:
        key = f"{request.match_info['endpoint']}/{request.match_info['worker']}"
        worker = self._dispatcher.worker(key)
        if worker is None or not worker.is_ours:
            raise OutputNotFound("The worker that had it is gone, and its files with it.")
        if worker.condition in _AWAY:
            raise NotReady("The worker that has it does not answer now.", retry_after_s=AGAIN_S)
        return worker
