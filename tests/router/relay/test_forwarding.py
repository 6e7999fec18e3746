"""Requests whose callers wait, over real sockets: passed on whole, done elsewhere when a worker fails, or broken off
visibly."""

import asyncio
import collections
import gzip
import io
import json
import random
from collections.abc import Callable

import aiohttp
import pytest
from aiohttp import web

from lib.serving.payloads import json_response
from router.dispatch import Dispatcher
from router.endpoints import Bearer, Scope
from router.model import Condition
from tests.fakes.relay_worker import RelayWorker, busy, dying, echo, hanging
from tests.fakes.router_world import ACCOUNT, KEY
from tests.router.relay.conftest import GRAPH, TENANT, World

PATIENCE_S = 120.0
"""Until something counts as missing; machines that test are busy."""


async def test_a_request_goes_to_a_worker_and_its_answer_comes_back(world: World) -> None:
    """Path, query, body and headers as they are, without the caller's key; the ticket names number, tenant and base."""
    worker = await world.join(1, echo)
    status, answer = await world.sync(
        "/generate/sync?x=%2F1&api_key=nobody", key=TENANT, X_Request_ID="trace-1", X_Odd="y"
    )
    assert status == 200 and json.loads(answer["said"])["input"]["workflow_json"] == GRAPH
    (heard,) = worker.heard
    assert heard.path == "/generate/sync?x=/1" and heard.ticket is not None
    assert (heard.ticket.sub, heard.ticket.base) == ("ep/studio", f"{world.router.url}/w/ep/1")
    assert heard.ticket.request_idx > 0
    assert heard.headers["X-Odd"] == "y" and heard.headers["X-Forwarded-For"] == "127.0.0.1"
    assert not any(TENANT in value for value in heard.headers.values())
    text = await world.metrics()
    assert 'pyrouter_relay_requests_total{dialect="wrapper/sync",outcome="success"} 1.0' in text


async def test_a_decision_can_be_explained(world: World) -> None:
    """By the number that came with the answer."""
    await world.join(1, echo)
    async with world.call("/generate/sync", {"input": {"workflow_json": GRAPH}}) as response:
        number = response.headers["X-Pyrouter-Request"]
    async with world.call(f"/explain/{number}", method="GET", key=ACCOUNT) as response:
        assert response.status == 200 and "ep/1" in await response.text()


async def test_a_run_is_learned_from_the_answer(world: World) -> None:
    """The size of such jobs follows the time that the worker says they ran."""
    await world.join(1, echo)
    for _ in range(30):
        await world.sync()
    sizes = {row.key: row for row in world.ground[0].core.learning.sizes}
    (row,) = sizes.values()
    assert row.count == 30


async def test_the_endpoint_stands_in_the_path_too(world: World) -> None:
    """``/e/<endpoint>`` before any path; who does not reach it is not told of it."""
    worker = await world.join(1, echo)
    assert (await world.sync("/e/ep/generate/sync"))[0] == 200
    assert worker.heard[0].path == "/generate/sync"
    status, answer = await world.sync("/e/other/generate/sync")
    assert status == 404 and "other" in answer["message"]
    assert (await world.sync(key="wrong-key"))[0] == 401


@pytest.mark.parametrize("first", [busy, dying])
async def test_another_worker_does_what_one_did_not(world: World, first: object) -> None:
    """A refusal, or a death before the answer, is nothing that the caller sees."""
    bad = await world.join(1, first, max_perf=1000.0)  # type: ignore[arg-type]
    good = await world.join(2, echo, max_perf=10.0)
    status, answer = await world.sync()
    assert (status, answer["status"]) == (200, "completed")
    assert (len(bad.heard), len(good.heard)) == (1, 1)
    assert bad.heard[0].body == good.heard[0].body


async def test_three_workers_are_tried_and_no_more(world: World) -> None:
    """Then the caller hears what happened, and when to come again."""
    workers = [await world.join(number, busy) for number in range(1, 6)]
    async with world.call("/generate/sync", {"input": {"workflow_json": GRAPH}}) as response:
        answer = await response.json()
        assert response.status == 503 and int(response.headers["Retry-After"]) >= 1
    assert sum(len(worker.heard) for worker in workers) == 3
    assert answer["status"] == "failed" and answer["message"].count("it answered 503") == 3
    (number,) = {heard.ticket.request_idx for worker in workers for heard in worker.heard if heard.ticket}
    assert not world.ground[0].dispatcher.may_know(str(number), Bearer(scope=Scope.TENANT, endpoint="ep"))


async def test_an_answer_that_breaks_off_is_seen(world: World) -> None:
    """What was passed on in part is not asked for again: the connection ends before the answer does."""

    async def half(request: web.Request, body: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000000"})
        await response.prepare(request)
        await response.write(b"x" * 1000)
        assert request.transport is not None
        request.transport.close()
        return response

    worker = await world.join(1, half)
    await world.join(2, half)
    with pytest.raises(aiohttp.ClientPayloadError):
        async with world.call("/generate/sync", {"input": {}}) as response:
            await response.read()
    assert len(worker.heard) <= 1


async def test_events_come_as_they_are_made(world: World) -> None:
    """Each before the next is there; in the end a worker that dies is told of with an event of the wrapper's."""
    begin, further = asyncio.Event(), asyncio.Event()

    async def stream(request: web.Request, body: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": no event yet\n\n")
        await begin.wait()
        await response.write(b'data: {"request_id":"job-7","status":"queued"}\n\n')
        await further.wait()
        await response.write(b'data: {"request_id":"job-7","status"')
        assert request.transport is not None
        request.transport.close()
        return response

    await world.join(1, stream)
    async with world.call("/generate/stream", {"input": {"workflow_json": GRAPH}}) as response:
        assert response.status == 200 and response.content_type == "text/event-stream"
        assert await response.content.readuntil(b"\n\n") == b": no event yet\n\n"
        begin.set()
        assert await response.content.readuntil(b"\n\n") == b'data: {"request_id":"job-7","status":"queued"}\n\n'
        further.set()
        *_, last, nothing = (await response.read()).split(b"\n\n")
    told = json.loads(last.removeprefix(b"data: "))
    assert nothing == b"" and (told["request_id"], told["status"]) == ("job-7", "error")


async def test_a_caller_who_leaves_takes_the_request_along(world: World) -> None:
    """The worker sees it, and has room again."""
    worker = await world.join(1, hanging)
    caller = asyncio.ensure_future(world.sync())
    await asyncio.wait_for(worker.came.wait(), PATIENCE_S)
    caller.cancel()
    await asyncio.wait_for(worker.gone.wait(), PATIENCE_S)
    await until_nothing_is_held(world, worker)
    assert worker.left == 1


@pytest.mark.parametrize("changes", [{"error_msg": "ComfyUI is gone"}, {"url": "http://127.0.0.1:9"}])
async def test_a_worker_that_is_lost_while_it_is_waited_for_is_given_up(world: World, changes: dict[str, str]) -> None:
    """Its connection may stay open for ever; its reports say that nothing will come."""
    bad = await world.join(1, hanging, max_perf=1000.0)
    task = asyncio.ensure_future(world.sync())
    await asyncio.wait_for(bad.came.wait(), PATIENCE_S)
    good = await world.join(2, echo)
    await world.report(bad, **changes)
    assert (await asyncio.wait_for(task, PATIENCE_S))[0] == 200
    assert len(good.heard) == 1


async def test_a_stock_worker_does_synchronous_requests_in_the_envelope(world: World) -> None:
    """Signed as it knows it, the body untouched inside; nothing but ``/generate/sync`` is asked of it."""

    async def stock(request: web.Request, body: bytes) -> web.StreamResponse:
        assert request.path == "/generate/sync"
        return json_response(json.loads(body)["payload"])

    worker = await world.join(1, stock, slots=None, engines=None, dialects=None)
    status, answer = await world.sync()
    assert (status, answer) == (200, {"input": {"workflow_json": GRAPH}})
    told = json.loads(worker.heard[0].body)["auth_data"]
    assert told["url"] == worker.url and told["request_idx"] > 0 and told["signature"] and told["reqnum"] > 0
    own = await world.join(2, echo, max_perf=1.0)
    async with world.call("/prompt", {"prompt": GRAPH}) as response:
        assert response.status == 200
    assert [heard.path for heard in own.heard] == ["/prompt"]


async def test_a_worker_of_ours_without_the_dialect_is_not_asked(world: World) -> None:
    """Salad's requests wait for one that speaks it."""
    await world.join(1, dying, dialects=["wrapper"], max_perf=1000.0)
    salad = await world.join(2, echo, dialects=["salad"])
    async with world.call("/workflow/sd15/txt2img", {"input": {}}) as response:
        assert response.status == 200
    assert [heard.path for heard in salad.heard] == ["/workflow/sd15/txt2img"]


async def test_what_nobody_waits_for_is_kept(world: World) -> None:
    """``Prefer``, a cap in the body, a key for repeats, and Salad's webhooks go to the half that keeps jobs."""
    worker = await world.join(1, echo)
    assert (await world.sync(Prefer="respond-async, wait=3"))[0] == 202
    assert (await world.sync(body={"input": {"workflow_json": GRAPH, "sync_timeout_s": 2}}))[0] == 202
    assert (await world.sync("/prompt", body={"prompt": GRAPH, "webhook": "http://example.org"}))[0] == 202
    assert (await world.sync(Idempotency_Key="again"))[0] == 202
    told = [(kept.dialect, kept.wait_s) for kept in world.kept]
    assert told == [("wrapper", 3), ("wrapper", 2), ("salad", 0), ("wrapper", 3600)]
    assert (await world.sync(Prefer="wait=3"))[0] == 200
    assert "Prefer" not in worker.heard[0].headers


async def test_a_full_line_is_told_at_once(world: World) -> None:
    """A tenant's cap counts; the answer is the wrapper's 503, with the time to come again."""
    first = asyncio.ensure_future(world.sync(key=TENANT))
    dispatcher = world.ground[0].dispatcher
    await until(dispatcher, lambda: bool(dispatcher.desk("ep").waiting))
    async with world.call("/generate/sync", {"input": {"workflow_json": GRAPH}}, key=TENANT) as response:
        assert response.status == 503 and "Retry-After" in response.headers
        assert (await response.json())["error"] == "overloaded"
    await world.join(1, echo)
    assert (await first)[0] == 200


async def test_what_is_no_json_is_refused_in_the_form_of_its_api(world: World) -> None:
    """Without asking a worker."""
    async with world.call("/generate/sync", b"{") as response:
        assert response.status == 422 and (await response.json())["detail"][0]["type"] == "json_invalid"
    for path in ("/prompt", "/workflow/a/b", "/e/ep/workflow/a/b"):
        async with world.call(path, b"[]") as response:
            assert response.status == 400 and (await response.json())["statusCode"] == 400


@pytest.mark.parametrize(("path", "status"), [("/generate/sync", 415), ("/generate/stream", 415), ("/prompt", 400)])
async def test_what_is_not_declared_as_json_waits_for_no_worker(world: World, path: str, status: int) -> None:
    """A worker would refuse it: the router says so at once, as that API does."""
    async with world.call(path, {"input": {}}, Content_Type="text/plain") as response:
        assert response.status == status and "Content-Type" in (await response.json())["message"]


async def test_packed_bodies_are_unpacked_once(world: World) -> None:
    """The router reads them to size them, and passes on what it read."""
    worker = await world.join(1, echo)
    body = json.dumps({"input": {"workflow_json": GRAPH, "padding": "x" * 3_000_000}}).encode()
    async with world.call("/generate/sync", gzip.compress(body), Content_Encoding="gzip") as response:
        assert response.status == 200
    assert worker.heard[0].body == body and "Content-Encoding" not in worker.heard[0].headers


async def test_large_bodies_go_both_ways_without_being_held_in_memory(world: World) -> None:
    """Thirty megabytes there and back, the same to the byte, to a second worker as well."""
    blob = b'{"input":{"workflow_json":{},"data":"' + b"x" * 30_000_000 + b'"}}'

    async def back(request: web.Request, body: bytes) -> web.StreamResponse:
        return web.Response(body=body)

    first = await world.join(1, dying, max_perf=1000.0)
    await world.join(2, back, max_perf=1.0)
    async with world.call("/generate/sync", io.BytesIO(blob)) as response:
        assert await response.read() == blob
    assert len(first.heard) == 1


async def test_a_stale_worker_ends_its_calls(world: World) -> None:
    """A host that went dark closes no connection."""
    bad = await world.join(1, hanging, max_perf=1000.0)
    task = asyncio.ensure_future(world.sync(key=KEY))
    await asyncio.wait_for(bad.came.wait(), PATIENCE_S)
    async with world.call("/health", method="GET", key=ACCOUNT) as response:
        assert (await response.json())["relay"]["calls"] == 1
    await world.join(2, echo)
    dispatcher = world.ground[0].dispatcher
    dispatcher.stopped("ep/1")
    worker = dispatcher.worker("ep/1")
    assert worker is not None and worker.condition is Condition.STOPPED
    assert (await asyncio.wait_for(task, PATIENCE_S))[0] == 200


async def test_nothing_is_left_of_many_at_once(world: World) -> None:
    """Workers refuse and die, callers leave: every request ends, and no place stays taken."""
    chance, hung, changed = random.Random(7), list[web.Request](), asyncio.Event()

    async def moody(request: web.Request, body: bytes) -> web.StreamResponse:
        (mood,) = chance.choices((echo, busy, dying, hanging), (90, 4, 4, 2))
        if mood is hanging:
            hung.append(request)
            changed.set()
        return await mood(request, body)

    workers = [await world.join(number, moody, slots=20, engines=20) for number in range(1, 5)]
    callers = [asyncio.ensure_future(world.sync()) for _ in range(200)]
    for caller in callers:
        caller.add_done_callback(lambda _: changed.set())
    async with asyncio.timeout(PATIENCE_S):
        while sum(not caller.done() for caller in callers) > len(hung):
            changed.clear()
            await changed.wait()
    assert hung, "nobody has to leave"
    statuses = collections.Counter(caller.result()[0] for caller in callers if caller.done())
    for caller in callers:
        caller.cancel()
    assert statuses.keys() <= {200, 503} and statuses[200] > 170, statuses
    await until_nothing_is_held(world, *workers)
    assert "pyrouter_relay_calls 0.0" in await world.metrics()


async def until_nothing_is_held(world: World, *workers: RelayWorker) -> None:
    """No request counts for any of them."""
    dispatcher = world.ground[0].dispatcher
    await until(dispatcher, lambda: not any(dispatcher.held(f"ep/{worker.number}") for worker in workers))


async def until(dispatcher: Dispatcher, condition: Callable[[], bool]) -> None:
    """Look at each change of the fleet until it holds."""
    changed = asyncio.Event()
    stop = dispatcher.changes.listen(lambda change: changed.set())
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            changed.clear()
            await changed.wait()
    stop()
