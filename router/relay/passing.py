"""Passes a worker's answer on to a caller, as it comes, no faster than it is taken."""

import asyncio
import logging
import re
from http import HTTPStatus

import aiohttp
from aiohttp import web

from lib.serving.payloads import dumps
from router.relay.headers import to_caller

log = logging.getLogger(__name__)

IN_ONE_PIECE = 256 * 1024
"""Answers up to this are read before they are passed on: until then another worker may still do it."""
STALLED_S = 300.0
"""A caller who takes nothing for so long is gone."""
TAIL = 8 * 1024
"""The end of an answer tells how long the job ran."""
LEFT = 499
"""For the log, of a caller who left: nobody reads this answer."""
NUMBER_HEADER = "X-Pyrouter-Request"
EVENTS = "text/event-stream"
_RAN = re.compile(rb'"generation_ms": ?(\d{1,12})|"comfy_execution": ?\{[^{}]{0,200}"duration": ?(\d{1,12})')


class CallerLeft(Exception):
    """Nobody takes the answer any more."""


class Passing:
    """One answer on its way. ``begun``: a part of it is out, so that no other worker's can take its place. ``number``
    is the request's, "" for none; the caller is told, to ask about the decision."""

    __slots__ = ("_head", "_number", "_request", "_response", "_tail", "status")

    def __init__(self, request: web.Request, *, number: str = "") -> None:
        self._request = request
        self._number = number
        self._response: web.StreamResponse | None = None
        self._head = self._tail = b""
        self.status = 0

    @property
    def begun(self) -> bool:
        return self._response is not None

    @property
    def is_stream(self) -> bool:
        """Whether events are passed on."""
        return self._response is not None and self._response.headers.get("Content-Type", "").startswith(EVENTS)

    @property
    def ran_s(self) -> float | None:
        """How long the job ran, as its answer says."""
        found = _RAN.findall(self._tail)
        return int(next(filter(None, found[-1]))) / 1000 if found else None

    async def pass_on(self, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        """Pass the whole answer on. Raises: CallerLeft, and what reading from the worker raises."""
        self.status, headers = answer.status, to_caller(answer.headers)
        if self._number:
            headers[NUMBER_HEADER] = self._number
        length = answer.content_length
        if length is not None and length <= IN_ONE_PIECE and self._request.method != "HEAD":
            body = await answer.read()
            self._tail = body[-TAIL:]
            return web.Response(status=answer.status, reason=answer.reason, headers=headers, body=body)
        response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
        try:
            await response.prepare(self._request)
        except ConnectionError as error:
            raise CallerLeft from error
        self._response = response
        async for chunk in answer.content.iter_any():
            await self._write(response, chunk)
        await self._end(response)
        return response

    async def break_off(self, why: str) -> web.StreamResponse:
        """Let the caller see that the rest is missing: an error event, or a connection that ends in the middle."""
        response = self._response
        if response is None:
            raise ValueError("nothing is out yet")
        try:
            if self.is_stream:
                await self._write(response, _trouble(self._head, self._tail, why))
                await self._end(response)
            elif self._request.transport is not None:
                self._request.transport.abort()
        except CallerLeft:
            log.debug("a caller left", extra={"event": "relay.left"})
        return response

    async def _write(self, response: web.StreamResponse, chunk: bytes) -> None:
        if len(self._head) < TAIL:
            self._head = (self._head + chunk)[:TAIL]
        self._tail = chunk[-TAIL:] if len(chunk) >= TAIL else (self._tail + chunk)[-TAIL:]
        try:
            async with asyncio.timeout(STALLED_S):
                await response.write(chunk)
        except (ConnectionError, TimeoutError) as error:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise CallerLeft from error

    async def _end(self, response: web.StreamResponse) -> None:
        try:
            await response.write_eof()
        except ConnectionError as error:
            raise CallerLeft from error


def _trouble(head: bytes, tail: bytes, why: str) -> bytes:
    """The wrapper's last event of a stream that ends before its job does."""
    named = re.search(rb'"request_id": ?"([^"\\]{1,128})"', head)
    event = {"request_id": named[1].decode(errors="replace") if named else "", "status": "error"}
    event["message"] = f"Stream error: the worker was lost: {why}"
    gap = b"" if not tail or tail.endswith(b"\n\n") else b"\n\n"
    return gap + b"data: " + dumps(event) + b"\n\n"


def is_failure(status: int) -> bool:
    """Whether this status says that the worker's side failed."""
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR
