"""Sessions: opened with a signature, kept by use, ended by client or time, never under a running request."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from lib.dialects.vast.schema import LONGEST_LIFETIME_S
from lib.fleet.ledger import Amounts
from tests.fakes.clock import START, settle
from tests.fakes.vast_worker import World
from tests.lib.dialects.vast.conftest import Build


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


def epoch(seconds: float) -> float:
    return (START + timedelta(seconds=seconds)).timestamp()


async def health(world: World, session_id: str, auth: dict[str, Any]) -> bool:
    answer = await world.post("/session/health", {"session_id": session_id, "session_auth": auth})
    assert answer.status == 200
    return bool(answer.body["ok"])


async def test_a_session_is_load_until_it_ends(world: World) -> None:
    """Opened: its cost is load. Ended: served, and its number goes back as Success."""
    session_id, auth = await world.session(lifetime=30)
    assert len(session_id) >= 20
    figures = world.ledger.figures()
    assert (figures.load, figures.working_tags) == (100.0, (auth["request_idx"],))
    answer = await world.post("/session/end", {"session_id": session_id, "session_auth": auth})
    assert (answer.status, answer.body) == (200, {"ended": True, "removed_session": session_id})
    assert world.ledger.figures().since_report == Amounts(received=100.0, served=100.0)
    assert world.ledger.figures().load == 0.0
    assert world.told == [(auth["request_idx"], "Success")]
    again = await world.post("/session/end", {"session_id": session_id, "session_auth": auth})
    assert again.status == 400


async def test_get_tells_everything_about_it(world: World) -> None:
    """The seven keys of the protocol."""
    session_id, auth = await world.session(lifetime=30, on_close_route="/cancel/x", on_close_payload={"a": 1})
    answer = await world.post("/session/get", {"session_id": session_id, "session_auth": auth})
    assert answer.body == {
        "session_id": session_id,
        "auth_data": auth,
        "lifetime": 30.0,
        "expiration": epoch(30),
        "created_at": epoch(0),
        "on_close_route": "/cancel/x",
        "on_close_payload": {"a": 1},
    }


@pytest.mark.parametrize("path", ["/session/get", "/session/health", "/session/end"])
async def test_only_its_owner_may_touch_it(world: World, path: str) -> None:
    """session_auth must equal the auth_data of the creation; 100 and 100.0 are the same cost."""
    session_id, auth = await world.session()
    for wrong in (None, {}, "x", {**auth, "signature": "AAAA"}, {**auth, "extra": 1}):
        answer = await world.post(path, {"session_id": session_id, "session_auth": wrong})
        assert (answer.status, answer.body) == (401, {"error": "session_auth is not valid"})
    answer = await world.post(path, {"session_id": session_id, "session_auth": {**auth, "cost": int(auth["cost"])}})
    assert answer.status == 200


async def test_the_plain_listener_only_ends_sessions(world: World) -> None:
    """WORKER_HTTP_PORT is for a webhook on this host; it has no other route."""
    session_id, auth = await world.session()
    refused = await world.post("/generate/sync", world.body(), plain=True)
    assert refused.status == 404
    answer = await world.post("/session/end", {"session_id": session_id, "session_auth": auth}, plain=True)
    assert answer.status == 200


async def test_requests_of_a_session_are_covered_by_it(world: World) -> None:
    """New and served work, but no load on top, no number given back, no attachment to one another."""
    session_id, auth = await world.session()
    for _ in range(2):
        answer = await world.work(auth=auth, session_id=session_id)
        assert answer.status == 200
    assert len(world.engine.ran) == 2, "the same auth_data is not the same request"
    assert world.ledger.figures().since_report == Amounts(received=300.0, served=200.0)
    assert world.ledger.figures().load == 100.0
    assert world.told == []
    assert world.ledger.figures().seen_count == 1


async def test_a_request_in_a_session_needs_a_signature_too(world: World) -> None:
    """A session id alone opens nothing, and a refused request does not keep the session alive."""
    session_id, auth = await world.session(lifetime=30)
    await world.clock.advance(20)
    answer = await world.work(auth={**auth, "signature": "AAAA"}, session_id=session_id)
    assert answer.status == 401
    await world.clock.advance(11)
    assert not await health(world, session_id, auth)


async def test_an_unused_session_expires(world: World) -> None:
    """At the end of its lifetime, not some seconds later; nothing polls."""
    session_id, auth = await world.session(lifetime=30)
    before = len(world.clock.pauses)
    await world.clock.advance(29.9)
    assert await health(world, session_id, auth)
    assert len(world.clock.pauses) == before
    await world.clock.advance(0.2)
    assert not await health(world, session_id, auth)
    assert world.told == [(auth["request_idx"], "Success")]


async def test_use_gives_at_least_one_more_lifetime(world: World) -> None:
    """From the request on; a hundred requests at once don't add up to a hundred lifetimes."""
    session_id, auth = await world.session(lifetime=30)
    for _ in range(5):
        await world.work(auth=auth, session_id=session_id)
    answer = await world.post("/session/get", {"session_id": session_id, "session_auth": auth})
    assert answer.body["expiration"] == epoch(30)
    await world.clock.advance(20)
    await world.work(auth=auth, session_id=session_id)
    await world.clock.advance(29)
    assert await health(world, session_id, auth)
    await world.clock.advance(2)
    assert not await health(world, session_id, auth)


async def test_a_running_request_keeps_its_session(build: Build) -> None:
    """A generation longer than the lifetime is not cut; the lifetime counts again from its end."""
    world = await build(automatic=False)
    session_id, auth = await world.session(lifetime=30)
    asked = asyncio.create_task(world.work(auth=auth, session_id=session_id))
    await until(lambda: world.engine.posted)
    await world.clock.advance(100)
    assert await health(world, session_id, auth)
    world.engine.finish()
    assert (await asked).status == 200
    await world.clock.advance(29)
    assert await health(world, session_id, auth)
    await world.clock.advance(2)
    assert not await health(world, session_id, auth)


async def test_ending_a_session_cancels_its_jobs(build: Build) -> None:
    """Those of this session only; who waited hears that it was closed."""
    world = await build(automatic=False)
    session_id, auth = await world.session()
    inside = asyncio.create_task(world.work(auth=auth, session_id=session_id))
    await until(lambda: len(world.engine.posted) == 1)
    outside = asyncio.create_task(world.work())
    await until(lambda: len(world.engine.posted) == 2)
    await world.post("/session/end", {"session_id": session_id, "session_auth": auth})
    answer = await inside
    assert (answer.status, answer.body) == (410, {"error": "session already closed"})
    assert len(world.engine.cancelled) == 1
    world.engine.finish()
    assert (await outside).status == 200


async def test_the_close_route_is_called_once(build: Build) -> None:
    """With the payload and the session's id; a relative route is our plain listener, an absolute one is guarded."""
    world = await build()
    relative, auth = await world.session(on_close_route="/cancel/job-1", on_close_payload={"job_token": "t"})
    absolute, _ = await world.session(on_close_route="https://example.com/hook", lifetime=5)
    other, _ = await world.session(on_close_route="@evil.example/", on_close_payload=[1], lifetime=5)
    await world.post("/session/end", {"session_id": relative, "session_auth": auth})
    await world.clock.advance(6)
    await until(lambda: len(world.posts) == 3)
    told = {post["url"]: (json.loads(post["body"]), post["trusted"], post["timeout_s"]) for post in world.posts}
    assert told == {
        "http://127.0.0.1:3001/cancel/job-1": ({"session_id": relative, "job_token": "t"}, True, 10.0),
        "https://example.com/hook": ({"session_id": absolute}, False, 10.0),
        "@evil.example/": ({"session_id": other, "payload": [1]}, False, 10.0),
    }
    assert all(post["headers"]["Content-Type"] == "application/json" for post in world.posts)


@pytest.mark.parametrize(
    "route",
    [
        "/generate",
        "/jobs",
        "/session/end/",
        "/session/end?x=1",
        "//evil.example/",
        "/cancel/",
        "/cancel/a/b",
        "/cancel/..%2f",
    ],
)
async def test_only_routes_of_ours_that_take_a_capability_are_called(world: World, route: str) -> None:
    """Nothing is done at a session's end that its client could not do himself; it opens and ends all the same."""
    refused, auth = await world.session(on_close_route=route)
    await world.post("/session/end", {"session_id": refused, "session_auth": auth})
    called, auth = await world.session(on_close_route="/session/end")
    await world.post("/session/end", {"session_id": called, "session_auth": auth})
    await until(lambda: world.posts)
    await settle()
    assert [post["url"] for post in world.posts] == ["http://127.0.0.1:3001/session/end"]


async def test_a_job_that_outlives_its_request_holds_the_session(build: Build) -> None:
    """Vast's pattern: open a session, POST /generate, and the job's end sends a webhook that ends the session."""
    world = await build(automatic=False)
    session_id, auth = await world.session(lifetime=30)
    answer = await world.post("/generate", world.body(auth=auth, session_id=session_id))
    assert answer.status == 202
    await until(lambda: world.engine.posted)
    await world.clock.advance(100)
    assert await health(world, session_id, auth)
    world.engine.finish()
    await until(lambda: world.service.in_flight_count == 0)
    await world.clock.advance(29)
    assert await health(world, session_id, auth)
    await world.clock.advance(2)
    assert not await health(world, session_id, auth)
    assert world.told == [(auth["request_idx"], "Success")], "of the session, not of its job"


async def test_the_end_of_a_session_cancels_jobs_that_nobody_waits_for(build: Build) -> None:
    """They belong to it."""
    world = await build(automatic=False)
    session_id, auth = await world.session()
    await world.post("/generate", world.body(auth=auth, session_id=session_id))
    await until(lambda: world.engine.posted)
    await world.post("/session/end", {"session_id": session_id, "session_auth": auth})
    await until(lambda: world.service.in_flight_count == 0)
    assert world.engine.cancelled


async def test_a_finished_job_holds_no_session(world: World) -> None:
    """Also one that was over before the answer went out."""
    session_id, auth = await world.session(lifetime=30)
    await world.post("/generate", world.body(auth=auth, session_id=session_id))
    await until(lambda: world.service.in_flight_count == 0)
    await world.clock.advance(31)
    assert not await health(world, session_id, auth)


async def test_a_close_route_that_fails_harms_nobody(world: World) -> None:
    """Logged, and that is all."""
    session_id, auth = await world.session(on_close_route="https://refused.example/")
    answer = await world.post("/session/end", {"session_id": session_id, "session_auth": auth})
    assert answer.status == 200
    await until(lambda: len(world.posts) == 1)


async def test_there_are_so_many_sessions_and_no_more(build: Build) -> None:
    """429 with a moment to come back and rejected workload; an end makes room."""
    world = await build(max_sessions=1)
    session_id, auth = await world.session(lifetime=20)
    second = world.auth(cost=40.0)
    answer = await world.post("/session/create", {"auth_data": second, "payload": {}})
    assert (answer.status, answer.body["error"]) == (429, "overloaded")
    assert answer.headers["Retry-After"] == "20"
    assert world.ledger.figures().since_report.rejected == 40.0
    assert world.told == [(second["request_idx"], "Rejected")]
    await world.post("/session/end", {"session_id": session_id, "session_auth": auth})
    await world.session()


async def test_zero_means_no_limit_of_sessions(build: Build) -> None:
    """MAX_SESSIONS=0."""
    world = await build(max_sessions=0)
    for _ in range(12):
        await world.session()


async def test_a_worker_that_is_not_ready_opens_no_session(world: World) -> None:
    """Who binds itself to a worker should get one that works."""
    world.not_ready.append("ComfyUI is starting")
    answer = await world.post("/session/create", {"auth_data": world.auth(), "payload": {}})
    assert (answer.status, answer.body["error"]) == (503, "not_ready")
    assert [told for _, told in world.told] == ["Rejected"]


async def test_a_huge_lifetime_is_cut(world: World) -> None:
    """A session holds one of few places; the answer says when it really ends."""
    auth = world.auth()
    answer = await world.post("/session/create", {"auth_data": auth, "payload": {"lifetime": 1e12}})
    assert answer.body["expiration"] == epoch(LONGEST_LIFETIME_S)


async def test_closing_all_winds_every_session_up(build: Build) -> None:
    """The end of the worker: jobs cancelled, routes called, nothing is load."""
    world = await build(automatic=False)
    session_id, auth = await world.session(on_close_route="/session/end")
    asked = asyncio.create_task(world.work(auth=auth, session_id=session_id))
    await until(lambda: world.engine.posted)
    await world.sessions.close_all()
    assert (await asked).status == 410
    assert [post["url"] for post in world.posts] == ["http://127.0.0.1:3001/session/end"]
    await settle()
    assert world.ledger.figures().load == 0.0
    assert world.ledger.open_cost == 0.0
