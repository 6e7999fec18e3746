"""What the SDK, the CLI and people ask about workers: lists and logs. Keys come in the body or the header."""

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from lib.serving.payloads import json_response
from router.dispatch import Dispatcher
from router.registry import Worker
from router.wire.answers import worker_object
from router.wire.logbook import TAIL, Logbook
from router.wire.reading import Callers, read_object


class Looking:
    """The routes."""

    def __init__(self, *, dispatcher: Dispatcher, callers: Callers, logbook: Logbook) -> None:
        self._dispatcher = dispatcher
        self._callers = callers
        self._logbook = logbook

    async def endpoint_workers(self, request: web.Request) -> web.Response:
        """A bare list: the SDK reads nothing else."""
        endpoint = self._callers.endpoint(request, await read_object(request))
        return _listed(self._dispatcher.workers(endpoint.name))

    async def group_workers(self, request: web.Request) -> web.Response:
        """The same of one group."""
        place = self._callers.group(request, await read_object(request))
        workers = self._dispatcher.workers(place.endpoint.name)
        return _listed([worker for worker in workers if worker.record.group == place.group.name])

    async def endpoint_logs(self, request: web.Request) -> web.Response:
        """Four levels of text."""
        body = await read_object(request)
        endpoint = self._callers.endpoint(request, body)
        return json_response(self._logbook.levels(endpoint.name, tail=_tail(body.get("tail"))))

    async def group_logs(self, request: web.Request) -> web.Response:
        """The same of one group."""
        body = await read_object(request)
        place = self._callers.group(request, body)
        levels = self._logbook.levels(place.endpoint.name, group=place.group.name, tail=_tail(body.get("tail")))
        return json_response(levels)


def _listed(workers: Sequence[Worker]) -> web.Response:
    return json_response([worker_object(worker) for worker in sorted(workers, key=lambda one: one.record.id)])


def _tail(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else TAIL
