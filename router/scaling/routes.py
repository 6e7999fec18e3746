"""What autoscalers and people read (``GET /scaling``, ``GET /scaling/{endpoint}``), and ``POST /update_workers/``."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus

import aiohttp
from aiohttp import web

from lib.clock import Clock
from lib.errors import NotReady
from lib.serving.access import Need, Needs, caller_of
from lib.serving.openapi import OBJECT, Answer, Operation
from lib.serving.payloads import json_response
from router.access import BEARER
from router.dispatch import Dispatcher
from router.endpoints import Endpoint, Place, Scope, UnknownEndpoint
from router.registry import Worker
from router.scaling.control import Scaler
from router.scaling.updates import note_update
from router.storelink import StoreLink
from router.wire.reading import Callers, read_object

ALL, ONE, UPDATE = "/scaling", "/scaling/{endpoint}", "/update_workers/"
UPDATE_PATH = "/pyworker/update"
UPDATE_S = 10.0


class ScalingRoutes:
    """The figures."""

    def __init__(self, scaler: Scaler, dispatcher: Dispatcher) -> None:
        self._scaler = scaler
        self._dispatcher = dispatcher

    def routes(self) -> Sequence[web.RouteDef]:
        return [web.get(ALL, self._all), web.get(ONE, self._one)]

    def needs(self) -> Needs:
        return {ALL: Need.ADMIN, ONE: Need.KEY}

    def operations(self) -> Sequence[Operation]:
        """For the docs page."""
        answers = {int(HTTPStatus.OK): Answer(description="Figures.", schema=OBJECT)}
        return [
            Operation(method="GET", path=ALL, tag="Scaling", summary="Desired and present workers", answers=answers),
            Operation(method="GET", path=ONE, tag="Scaling", summary="The same of one endpoint", answers=answers),
        ]

    async def _all(self, request: web.Request) -> web.Response:
        return json_response(self._scaler.snapshot())

    async def _one(self, request: web.Request) -> web.Response:
        """Flat, so that KEDA's ``valueLocation`` is a name. Raises: UnknownEndpoint, NotReady."""
        name, bearer = request.match_info["endpoint"], request.get(BEARER)
        mine = bearer is not None and bearer.scope is not Scope.TENANT and bearer.reaches(name)
        if not (caller_of(request).admin or mine):
            raise UnknownEndpoint("There is no such endpoint here.")
        self._dispatcher.endpoints.find(name)
        figures = self._scaler.figures(name)
        if not figures:
            raise NotReady("The router has just started; the figures come in a moment.", retry_after_s=1)
        return json_response(figures)


class Updating:
    """Tells workers of a group to update themselves: all of them at once, to do it at their next start, and those that
    a provider of ours started one after the other, when they have nothing to do."""

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        link: StoreLink,
        http: aiohttp.ClientSession,
        clock: Clock,
        token_of: Callable[[Endpoint], str],
        owned: Callable[[str, str], Sequence[int]],
        soon: Callable[[], object],
    ) -> None:
        self._dispatcher = dispatcher
        self._link = link
        self._http = http
        self._clock = clock
        self._callers = Callers(dispatcher.endpoints)
        self._token_of = token_of
        self._owned = owned
        self._soon = soon

    async def update(self, request: web.Request) -> web.Response:
        """Begin, or call off what has not begun. Raises: InvalidRequest, Forbidden, UnknownEndpoint."""
        body = await read_object(request)
        self._callers.operator(request, body)
        place = self._callers.group(request, body, name="workergroup_id")
        if body.get("cancel_update") is True:
            noted = await self._note(place, [])
            return _answer(ok=noted, count=0, cancelled=noted, trouble="" if noted else "The store is down.")
        name, group = place.endpoint.name, place.group.name
        workers = [one for one in self._dispatcher.workers(name) if one.record.group == group]
        told = await self._tell(place.endpoint, workers)
        owned = set(self._owned(name, group))
        rolling = sorted(one.record.id for one in workers if one.record.id in owned)
        noted = not rolling or await self._note(place, rolling)
        refused = [str(one.record.id) for one in workers if not told[one.key] and one.record.id not in owned]
        by_hand = [str(one.record.id) for one in workers if told[one.key] and one.record.id not in owned]
        trouble = [
            *([] if noted else ["The store is down; nothing was begun."]),
            *([f"Not updated, as they know no updates or show no token: {', '.join(refused)}."] if refused else []),
            *([f"Updated at their next start, by whoever starts them: {', '.join(by_hand)}."] if by_hand else []),
        ]
        count = len(by_hand) + (len(rolling) if noted else 0)
        self._soon()
        return _answer(ok=noted and (count > 0 or not workers), count=count, trouble=" ".join(trouble))

    async def _note(self, place: Place, ids: Sequence[int]) -> bool:
        at = self._clock.now().timestamp()
        return await note_update(self._link, place.endpoint.name, place.group.name, at=at, ids=ids)

    async def _tell(self, endpoint: Endpoint, workers: Sequence[Worker]) -> Mapping[str, bool]:
        token = self._token_of(endpoint)
        if not token:
            return dict.fromkeys((one.key for one in workers), False)
        async with asyncio.TaskGroup() as group:
            asked = {one.key: group.create_task(self._ask(one, token)) for one in workers}
        return {key: task.result() for key, task in asked.items()}

    async def _ask(self, worker: Worker, token: str) -> bool:
        """Whether the worker will do it. It showed the token when it reported, so it may see it."""
        timeout = aiohttp.ClientTimeout(total=UPDATE_S)
        headers = {"Authorization": f"Bearer {token}"}
        try:
            url = worker.record.url + UPDATE_PATH
            async with self._http.post(url, headers=headers, timeout=timeout, allow_redirects=False) as response:
                return response.ok
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return False


def _answer(*, ok: bool, count: int, cancelled: bool = False, trouble: str = "") -> web.Response:
    return json_response({"success": ok, "workers_to_update": count, "cancelled": cancelled, "error_msg": trouble})
