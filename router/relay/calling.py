"""Calls workers: ours below ``/relay`` with a ticket, stock ones in Vast's envelope. Implements ``Upstream``."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from http import HTTPStatus

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from lib.errors import NotReady
from lib.protocol.ticket import TICKET_HEADER
from router.direct import DirectRequests
from router.dispatch import USUAL_COST, Dispatcher
from router.parts import Ground
from router.registry import Worker
from router.relay import stock
from router.relay.bodies import PIECE, pieces
from router.relay.headers import to_worker
from router.relay.ports import Call, WorkerBusy, WorkerLost
from router.relay.watching import Watch
from router.signing import RouteFields, Signing

PREFIX = "/relay"
CONNECT_S = 5.0
"""A worker that takes no connection for so long is not there."""
NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
_AS_GIVEN = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")
"""Headers that aiohttp would add where the caller sent none."""
_REFUSALS = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.UNAUTHORIZED)


class WorkerCalls:
    """``base`` of links in answers is the router's own address: what leads to a worker goes through the router."""

    def __init__(self, ground: Ground, *, watch: Watch) -> None:
        self._dispatcher: Dispatcher = ground.dispatcher
        self._direct: DirectRequests = ground.core.direct
        self._signing: Signing = ground.signing
        self._http = ground.http
        self._base_url = ground.base_url
        self._watch = watch

    def call(self, worker: Worker, call: Call) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """See ``Upstream``. Raises: NotReady where a stock worker has no such route."""
        return self._call(worker, call) if worker.is_ours else self._call_stock(worker, call)

    def reach(self, worker: Worker, call: Call) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Follow a link to a worker: the ticket names nobody, so that it opens what the link itself does and no more;
        refusals are answers."""
        return self._ticketed(worker, call, sub="")

    @asynccontextmanager
    async def _call(self, worker: Worker, call: Call) -> AsyncIterator[aiohttp.ClientResponse]:
        endpoint = worker.record.endpoint
        sub = f"{endpoint}/{call.tenant}" if call.tenant else endpoint
        async with self._ticketed(worker, call, sub=sub) as response:
            await _check_refusal(response)
            yield response

    def _ticketed(self, worker: Worker, call: Call, *, sub: str) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        url, headers = worker.record.url, _headers(call)
        base = f"{self._base_url()}/w/{worker.record.endpoint}/{worker.record.id}"
        headers[TICKET_HEADER] = self._signing.ticket(url, call.request_idx, sub=sub, base=base)
        return self._watched(worker, call, url=url + PREFIX + call.path, headers=headers)

    @asynccontextmanager
    async def _call_stock(self, worker: Worker, call: Call) -> AsyncIterator[aiohttp.ClientResponse]:
        if not stock.can_do(call.path) or call.body is None:
            raise NotReady("A stock PyWorker has no such route.")
        given = self._dispatcher.assignment(str(call.request_idx))
        fields = RouteFields(
            endpoint=worker.record.endpoint,
            cost=given.cost if given else USUAL_COST,
            reqnum=await self._direct.next_reqnum(worker.key),
            request_idx=call.request_idx,
        )
        auth_data = await self._signing.ready(worker, fields)
        call = replace(call, body=stock.envelope(auth_data, call.body))
        headers = _headers(call)
        headers.pop("Content-Length", None)
        async with self._watched(worker, call, url=worker.record.url + stock.PATH, headers=headers) as response:
            await _check_refusal(response)
            if response.status == HTTPStatus.INTERNAL_SERVER_ERROR and response.content_length == 0:
                raise WorkerLost("Its ComfyUI did not answer.")
            yield response

    @asynccontextmanager
    async def _watched(
        self, worker: Worker, call: Call, *, url: str, headers: CIMultiDict[str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        data = pieces(call.body) if isinstance(call.body, bytes) and len(call.body) > PIECE else call.body
        answered, request_id = False, str(call.request_idx) if call.request_idx else ""
        limit = asyncio.timeout(call.answer_s)
        with self._watch.over(worker, request_id=request_id, limit=limit) as watched:
            try:
                async with (
                    limit,
                    self._http.request(
                        call.method,
                        URL(url, encoded=True),
                        headers=headers,
                        data=data,
                        timeout=NO_TIMEOUT,
                        allow_redirects=False,
                        skip_auto_headers=_AS_GIVEN,
                    ) as response,
                ):
                    answered = True
                    if not limit.expired():
                        limit.reschedule(None)
                    yield response
            except aiohttp.ClientError as error:
                raise WorkerLost(_told(error), answered=answered) from error
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise WorkerLost(watched.why or "it did not answer in time", answered=answered) from error


def _headers(call: Call) -> CIMultiDict[str]:
    if isinstance(call.body, bytes) and len(call.body) > PIECE:
        return to_worker({**call.headers, "Content-Length": str(len(call.body))}, has_length=False)
    return to_worker(call.headers, has_length=call.body is None or isinstance(call.body, bytes))


async def _check_refusal(response: aiohttp.ClientResponse) -> None:
    if response.status not in _REFUSALS:
        return
    after = response.headers.get("Retry-After", "")
    retry_after_s = float(after) if after.isascii() and after.isdigit() else None
    raise WorkerBusy(f"it answered {response.status}", status=response.status, retry_after_s=retry_after_s)


def _told(error: aiohttp.ClientError) -> str:
    """Without address: whom we call is nobody's business."""
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ServerTimeoutError):
        return "it can't be reached"
    return "the connection broke off"
