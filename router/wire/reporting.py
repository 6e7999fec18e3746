"""What workers call: the public key, reports, and what became of requests. Each also below ``/e/<endpoint>``."""

import logging
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from lib.clock import Clock
from lib.errors import InvalidRequest, Unauthorized
from lib.protocol.status import DeletedRequest, RequestOutcome
from lib.serving.payloads import Room, json_response
from router.direct import DirectRequests
from router.dispatch import Dispatcher
from router.endpoints import Place
from router.registry import record_of
from router.reports import text
from router.signing import Signing
from router.wire.reading import LARGE, read_object, whole

log = logging.getLogger(__name__)

PREFIX = "/e/{endpoint}"
ROUTER_HEADER = "X-Pyworker-Router"
"""Tells workers of ours that this router understands what they tell beyond Vast's report."""
ROOM = 4 * LARGE
"""Bytes of large bodies that are read at the same time."""
DONE = {"success": True}


class Reporting:
    """The routes."""

    def __init__(self, *, dispatcher: Dispatcher, direct: DirectRequests, signing: Signing, clock: Clock) -> None:
        self._dispatcher = dispatcher
        self._direct = direct
        self._signing = signing
        self._clock = clock
        self._room = Room(ROOM)

    async def pubkey(self, request: web.Request) -> web.Response:
        """The key that signs routes, PEM."""
        return web.Response(text=self._signing.public_pem, headers={ROUTER_HEADER: "1"})

    async def status(self, request: web.Request) -> web.Response:
        """A report; any field but ``id`` may be missing. Raises: InvalidRequest, Unauthorized, UnknownEndpoint,
        Overloaded."""
        body = await self._read(request)
        worker_id, place = self._place(request, body, name="id")
        known = self._dispatcher.worker(place.key(worker_id))
        record = record_of(
            body,
            worker_id=worker_id,
            place=place,
            now=self._clock.now().timestamp(),
            previous=known.record if known else None,
        )
        await self._dispatcher.heard(record)
        return json_response(DONE, headers={ROUTER_HEADER: "1"})

    async def deletes(self, request: web.Request) -> web.Response:
        """Requests that are over on a worker. Raises: InvalidRequest, Unauthorized, UnknownEndpoint, Overloaded."""
        body = await self._read(request)
        worker_id, place = self._place(request, body, name="worker_id")
        await self._direct.ended(place.key(worker_id), ended_in(body))
        return json_response(DONE)

    async def _read(self, request: web.Request) -> dict[str, Any]:
        """The token is in the body: until that is read, anybody may be sending."""
        with self._room.taken() as grow:
            return await read_object(request, limit=LARGE, grow=grow)

    def _place(self, request: web.Request, body: Mapping[str, Any], *, name: str) -> tuple[int, Place]:
        worker_id = whole(body, name)
        if worker_id is None:
            raise InvalidRequest(f"'{name}' must be the worker's number (CONTAINER_ID).")
        prefix = request.match_info.get("endpoint", "")
        try:
            place = self._dispatcher.endpoints.place(worker_id, token=text(body, "mtoken"), prefix=prefix)
        except Unauthorized:
            log.warning("a worker shows no token of ours", extra={"event": "worker.refused", "worker_id": worker_id})
            raise
        return worker_id, place


def ended_in(body: Mapping[str, Any]) -> list[DeletedRequest]:
    """Read both shapes: a list of requests (since 2026-04), or numbers with one outcome for all of them. What makes no
    sense in the list is left out. Raises: InvalidRequest."""
    items, numbers = body.get("requests"), body.get("request_idxs")
    if isinstance(items, list):
        read = [_item(item) for item in items if isinstance(item, Mapping)]
        return [item for item in read if item is not None]
    if not isinstance(numbers, list):
        raise InvalidRequest("'requests' must be a list.")
    success = body.get("success", True) is True
    status = RequestOutcome.SUCCESS if success else RequestOutcome.ERROR
    return [
        DeletedRequest(request_idx=one, success=success, status=status)
        for one in numbers
        if isinstance(one, int) and not isinstance(one, bool)
    ]


def _item(item: Mapping[str, Any]) -> DeletedRequest | None:
    success = item.get("success", True) is True
    told = {**item, "success": success}
    if item.get("status") not in tuple(RequestOutcome):
        told["status"] = RequestOutcome.SUCCESS if success else RequestOutcome.ERROR
    try:
        return DeletedRequest.model_validate(told)
    except ValidationError:
        return None
