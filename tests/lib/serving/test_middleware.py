"""The edge: ids, errors as JSON, cancellation."""

import asyncio
import logging

import aiohttp
import pytest
from aiohttp import web

from lib.errors import InvalidWorkflow, NotReady, ServiceError
from lib.serving.application import RouteClash, Site
from lib.serving.payloads import json_response, read_body

from .conftest import Serve, site_with


async def fine(request: web.Request) -> web.Response:
    """A handler that works."""
    return json_response({})


async def broken(request: web.Request) -> web.Response:
    """A handler with a bug."""
    raise KeyError("secret detail")


async def test_a_request_id_is_minted_or_taken(serve: Serve) -> None:
    """Each answer carries one; a caller's own is kept when it is harmless."""
    served = await serve(site_with(web.get("/", fine)))
    minted = [(await served.client.get("/")).headers["X-Request-ID"] for _ in range(2)]
    assert len(set(minted)) == 2
    for given, kept in (("abc-1", True), ("a b", False), ("x" * 200, False), ("", False)):
        answer = await served.client.get("/", headers={"X-Request-ID": given})
        assert (answer.headers["X-Request-ID"] == given) == kept


async def test_a_service_error_has_its_status_and_body(serve: Serve) -> None:
    """Code, message and details reach the caller."""

    async def refuse(request: web.Request) -> web.Response:
        raise InvalidWorkflow("No such node", details={"node_id": "3"})

    served = await serve(site_with(web.get("/", refuse)))
    answer = await served.client.get("/", headers={"X-Request-ID": "r1"})
    assert answer.status == 400
    body = await answer.json()
    assert body["error"] == "invalid_workflow"
    assert body["details"] == {"node_id": "3"}
    assert body["request_id"] == "r1"


async def test_a_retryable_refusal_says_when(serve: Serve) -> None:
    """503 and 429 carry Retry-After."""

    async def refuse(request: web.Request) -> web.Response:
        raise NotReady("starting", retry_after_s=3)

    served = await serve(site_with(web.get("/", refuse)))
    answer = await served.client.get("/")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "3")


async def test_a_bug_is_a_logged_500_without_its_text(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets an id to ask with, the log gets the trace."""
    served = await serve(site_with(web.get("/", broken)))
    answer = await served.client.get("/")
    assert answer.status == 500
    text = await answer.text()
    assert "secret detail" not in text
    assert answer.headers["X-Request-ID"] in text
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None


async def test_unknown_paths_and_methods_are_json(serve: Serve) -> None:
    """404 and 405 look like every other error; 405 names what is allowed."""
    served = await serve(site_with(web.get("/", fine)))
    missing = await served.client.get("/nothing")
    assert (missing.status, (await missing.json())["error"]) == (404, "not_found")
    wrong = await served.client.delete("/")
    assert (wrong.status, (await wrong.json())["error"]) == (405, "method_not_allowed")
    assert "GET" in wrong.headers["Allow"]


async def test_a_path_that_nobody_has_is_answered_in_the_form_that_is_set(serve: Serve) -> None:
    """The one that callers of this listener know; of a path that is there nothing changes."""

    def missing(request: web.Request) -> web.Response:
        return json_response({"statusCode": 404, "message": request.path}, status=404)

    site = Site(max_body_bytes=10, missing=missing)
    site.mount([web.get("/", broken)], owner="test")
    served = await serve(site)
    answer = await served.client.get("/nothing")
    assert (answer.status, await answer.json()) == (404, {"statusCode": 404, "message": "/nothing"})
    assert (await served.client.post("/")).status == 404
    assert (await (await served.client.get("/")).json())["error"] == "internal"


async def test_a_dialect_renders_its_own_errors(serve: Serve) -> None:
    """The owner of the route decides the body, also for a bug; other routes keep ours."""

    def render(error: ServiceError, request: web.Request) -> web.Response:
        return json_response({"mine": error.code}, status=418)

    site = site_with(web.get("/plain", broken))
    site.mount([web.get("/own", broken)], owner="dialect", render_error=render)
    served = await serve(site)
    own = await served.client.get("/own")
    assert (own.status, await own.json()) == (418, {"mine": "internal"})
    assert (await served.client.get("/plain")).status == 500


async def test_two_owners_of_one_route_stop_the_start() -> None:
    """The clash names both."""
    site = Site(max_body_bytes=10)
    site.mount([web.get("/x", fine), web.post("/x", fine)], owner="one")
    with pytest.raises(RouteClash, match="GET /x is claimed by one and by two"):
        site.mount([web.get("/x", fine)], owner="two")


async def test_a_client_that_leaves_cancels_the_handler(serve: Serve) -> None:
    """The handler's CancelledError is not swallowed and not answered."""
    entered, left = asyncio.Event(), asyncio.Event()

    async def wait(request: web.Request) -> web.Response:
        await read_body(request, limit=100)
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        return json_response({})

    served = await serve(site_with(web.post("/", wait)))
    call = asyncio.ensure_future(served.client.post("/", data=b"x"))
    await asyncio.wait_for(entered.wait(), 60)
    call.cancel()
    await asyncio.wait_for(left.wait(), 60)


async def test_a_client_that_leaves_while_sending_is_no_error(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Half a body, then nothing: the handler ends and the log stays clean."""
    entered, left = asyncio.Event(), asyncio.Event()

    async def read(request: web.Request) -> web.Response:
        entered.set()
        try:
            await read_body(request, limit=100)
        finally:
            left.set()
        return json_response({})

    served = await serve(site_with(web.post("/", read)))
    _, writer = await asyncio.open_connection(served.listener.host, served.listener.port)
    writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\nhalf")
    await asyncio.wait_for(entered.wait(), 60)
    writer.close()
    await writer.wait_closed()
    await asyncio.wait_for(left.wait(), 60)
    assert (await served.client.get("/nothing")).status == 404
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_lost_connection_of_our_own_is_a_bug_like_others(serve: Serve) -> None:
    """The caller is still there and gets an answer."""

    async def refused(request: web.Request) -> web.Response:
        raise ConnectionRefusedError("the other side of ours")

    served = await serve(site_with(web.get("/", refused)))
    assert (await served.client.get("/")).status == 500


async def test_an_error_after_the_answer_began_closes_the_connection(serve: Serve) -> None:
    """A half-sent stream can't become an error body."""

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"part")
        raise NotReady("too late")

    served = await serve(site_with(web.get("/", stream)))
    answer = await served.client.get("/")
    assert answer.headers["X-Request-ID"]
    with pytest.raises(aiohttp.ClientPayloadError):
        await answer.read()
