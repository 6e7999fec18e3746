"""Links in workers' answers lead through the router to that very worker, and to nothing else of it."""

import pytest
from aiohttp import web

from tests.router.relay.conftest import World


async def show(request: web.Request, body: bytes) -> web.StreamResponse:
    """A file of ten bytes, of which a part may be asked for."""
    if request.headers.get("If-None-Match") == '"v"':
        return web.Response(status=304, headers={"ETag": '"v"'})
    whole = b"0123456789"
    if "Range" in request.headers:
        return web.Response(status=206, body=whole[2:5], headers={"Content-Range": "bytes 2-4/10"})
    return web.Response(body=whole, headers={"ETag": '"v"', "Content-Type": "image/png"})


async def test_a_link_is_the_workers_to_check(world: World) -> None:
    """Path, query, ranges and conditions as they are; the ticket names nobody, the caller's key stays here."""
    worker = await world.join(1, show)
    link = "/w/ep/1/outputs/job-1/a%20b.png?expires=1&signature=x%2By"
    async with world.call(link, method="GET", key="") as response:
        assert (response.status, response.content_type, await response.read()) == (200, "image/png", b"0123456789")
    async with world.call(link, method="GET", Range="bytes=2-4") as response:
        assert (response.status, response.headers["Content-Range"], await response.read()) == (
            206,
            "bytes 2-4/10",
            b"234",
        )
    async with world.call(link, method="GET", If_None_Match='"v"') as response:
        assert response.status == 304
    async with world.call(link, method="HEAD") as response:
        assert response.status == 200 and response.headers["Content-Length"] == "10"
    assert {heard.path for heard in worker.heard} == {"/outputs/job-1/a b.png?expires=1&signature=x%2By"}
    assert {heard.ticket.sub for heard in worker.heard if heard.ticket} == {""}
    assert not any("Authorization" in heard.headers for heard in worker.heard)


@pytest.mark.parametrize(
    "path",
    ["metrics", "session/end", "outputs/..", "outputs/../x", "outputs/job", "outputs/job/a/b", "relay/jobs", "jobs"],
)
async def test_no_link_leads_elsewhere(world: World, path: str) -> None:
    """What is not an output, a result, its events, is not there."""
    worker = await world.join(1, show)
    async with world.call(f"/w/ep/1/{path}", method="GET") as response:
        assert response.status == 404
    assert not worker.heard


async def test_results_and_cancels_need_their_token_at_the_worker(world: World) -> None:
    """GET for a result and its events, POST for a cancel."""
    worker = await world.join(1, show)
    for method, path in (("GET", "result/j"), ("GET", "generate/stream/j"), ("POST", "cancel/j")):
        async with world.call(f"/w/ep/1/{path}?job_token=t", method=method) as response:
            assert response.status == 200
    async with world.call("/w/ep/1/cancel/j", method="GET") as response:
        assert response.status == 404
    assert [heard.path for heard in worker.heard] == [
        f"/{path}?job_token=t" for path in ("result/j", "generate/stream/j", "cancel/j")
    ]


async def test_a_worker_that_is_away_is_told_of(world: World) -> None:
    """404 where it is gone with its files, 503 where it may come back."""
    worker = await world.join(1, show)
    await world.report(worker, url="http://127.0.0.1:9")
    async with world.call("/w/ep/1/outputs/j/f", method="GET") as response:
        assert response.status == 503 and "Retry-After" in response.headers
    world.ground[0].dispatcher.stopped("ep/1")
    async with world.call("/w/ep/1/outputs/j/f", method="GET") as response:
        assert response.status == 503
    async with world.call("/w/ep/9/outputs/j/f", method="GET") as response:
        assert response.status == 404 and "gone" in (await response.json())["message"]
