"""What the router says of itself: why a request is where it is (``GET /explain/{request_id}``), and how it is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

from aiohttp import web

from lib.errors import JobNotFound
from lib.serving.access import Need, Needs, caller_of
from lib.serving.openapi import OBJECT, Answer, Operation
from lib.serving.payloads import json_response
from lib.serving.probes import ProbeReply
from router.access import BEARER
from router.dispatch import Dispatcher
from router.endpoints import Bearer, Scope
from router.model import Condition, Explanation
from router.newsroom import Elsewhere

PATH = "/explain/{request_id}"


class Explaining:
    """The route. ``elsewhere``: who gave a request that this router did not give."""

    def __init__(self, dispatcher: Dispatcher, *, elsewhere: Callable[[str], Elsewhere | None]) -> None:
        self._dispatcher = dispatcher
        self._elsewhere = elsewhere

    def routes(self) -> Sequence[web.RouteDef]:
        return [web.get(PATH, self._explain)]

    def needs(self) -> Needs:
        return {PATH: Need.KEY}

    def operations(self) -> Sequence[Operation]:
        """For the docs page."""
        answers: dict[int, Answer] = {HTTPStatus.OK: Answer(description="The figures of the decision.", schema=OBJECT)}
        return [
            Operation(method="GET", path=PATH, tag="Routing", summary="Why a request is where it is", answers=answers)
        ]

    async def _explain(self, request: web.Request) -> web.Response:
        request_id, caller = request.match_info["request_id"], caller_of(request)
        explained = self._dispatcher.explain(request_id)
        bearer = request.get(BEARER)
        allowed = caller.admin or (bearer is not None and self._dispatcher.may_know(request_id, bearer))
        if explained is not None and allowed:
            return json_response(as_json(explained))
        given = self._elsewhere(request_id)
        if given is not None and (caller.admin or (bearer is not None and _owns(bearer, given.endpoint))):
            details = {"replica": given.replica, "worker": given.worker}
            raise JobNotFound(f"Router {given.replica} gave it to {given.worker}: ask that router.", details=details)
        raise JobNotFound("Nothing is known of this request any more, or it is somebody else's.")


def _owns(bearer: Bearer, endpoint: str) -> bool:
    """Whose request it was is not told between routers, so that a tenant's key does not do."""
    return bearer.scope is not Scope.TENANT and bearer.reaches(endpoint)


def as_json(explained: Explanation) -> dict[str, Any]:
    """An explanation as JSON."""
    return asdict(explained) | {"excluded": {str(name): count for name, count in explained.excluded.items()}}


class RouterHealth:
    """``/health`` and ``/ready``. ``parts`` adds what others know."""

    def __init__(self, dispatcher: Dispatcher, *, version: str, replica: str) -> None:
        self._dispatcher = dispatcher
        self._version = version
        self._replica = replica
        self._parts: dict[str, Callable[[], Mapping[str, Any]]] = {}
        self.stopping = False

    def add(self, name: str, told: Callable[[], Mapping[str, Any]]) -> None:
        """Put what ``told`` says under this name."""
        self._parts[name] = told

    def health(self) -> ProbeReply:
        """Alive; degraded where the store is down."""
        trouble = self._dispatcher.degraded
        endpoints = {endpoint.name: self._endpoint(endpoint.name) for endpoint in self._dispatcher.endpoints.all()}
        body: dict[str, Any] = {
            "version": self._version,
            "status": "stopping" if self.stopping else "degraded" if trouble else "healthy",
            "ready": not self.stopping,
            "replica": self._replica,
            "store": trouble or "up",
            "endpoints": endpoints,
        }
        return ProbeReply(ok=True, body=body | {name: told() for name, told in self._parts.items()})

    def ready(self) -> ProbeReply:
        """Whether requests are taken; without a worker they wait, so that is no reason."""
        if self.stopping:
            return ProbeReply(ok=False, body={"ready": False, "reason": "stopping"}, retry_after_s=5)
        return ProbeReply(ok=True, body={"ready": True})

    def _endpoint(self, name: str) -> dict[str, Any]:
        figures = self._dispatcher.figures(name)
        return {
            "ready_workers": figures.workers[Condition.READY],
            "workers": sum(figures.workers.values()),
            "waiting": figures.waiting_count,
            "running": figures.given_count,
            "expected_wait_s": round(figures.wait.likely_s, 3) if figures.wait else None,
        }
