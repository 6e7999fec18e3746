"""Listing and showing jobs of every dialect, and dead webhook messages: each tenant its own."""

import asyncio
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from lib.dialects.native.docs import operations
from lib.dialects.native.routes import NativeDialect
from lib.errors import ExecutionFailed
from lib.jobs.model import JobEvent, JobSpec, OutboxItem, Progress, WebhookTarget
from lib.serving.access import Access, Need, caller_of
from lib.serving.application import Site
from lib.serving.keyring import KeyRing
from lib.serving.openapi import build
from lib.serving.payloads import json_response
from lib.serving.server import Listener
from tests.fakes.clock import settle

from .conftest import ALICE, BOB, KEYS, OPS, World


def ids(page: Any) -> list[str]:
    return [job["request_id"] for job in page["jobs"]]


async def test_a_tenant_sees_its_own_jobs(world: World) -> None:
    """In the list and one by one; an admin sees all of them and whose they are."""
    mine, other = await world.job("mine"), await world.job("other", owner="bob")
    assert ids((await world.get("/jobs", headers=ALICE))[1]) == ["mine"]
    assert ids((await world.get("/jobs", headers=BOB))[1]) == ["other"]
    _, page, _ = await world.get("/jobs", headers=OPS)
    assert [(job["request_id"], job["tenant"]) for job in page["jobs"]] == [("other", "bob"), ("mine", "alice")]
    assert (await world.get(f"/jobs/{other.job_id}", headers=ALICE))[0] == 404
    assert (await world.get("/jobs/other", headers=ALICE))[0] == 404
    for name in (mine.job_id, "mine"):
        status, shown, _ = await world.get(f"/jobs/{name}", headers=ALICE)
        assert (status, shown["job_id"], "tenant" in shown) == (200, mine.job_id, False)
    assert (await world.get("/jobs", headers={}))[0] == 401


async def test_an_admin_may_look_at_one_tenant(world: World) -> None:
    """Nobody else may name one."""
    await world.job("a"), await world.job("b", owner="bob"), await world.job("c", owner="")
    for tenant, wanted in (("bob", ["b"]), ("", ["c"]), ("nobody", [])):
        assert ids((await world.get("/jobs", headers=OPS, params={"tenant": tenant}))[1]) == wanted
    assert (await world.get("/jobs?tenant=bob", headers=ALICE))[0] == 403


async def test_pages_show_each_job_once(world: World) -> None:
    """Newest first, by the next page's link, with the filters kept."""
    for number in range(5):
        await world.job(f"job-{number}")
        await world.job("else", owner="bob")
    seen, path = [], "/jobs?limit=2&status=completed"
    while path:
        _, page, headers = await world.get(path, headers=ALICE)
        seen += ids(page)
        path = page.get("next", "")
        assert headers.get("Link", "") == (f'<{path}>; rel="next"' if path else "")
        assert "status=completed" in path or not path
    assert seen == [f"job-{number}" for number in (4, 3, 2, 1, 0)]


async def test_filters(world: World) -> None:
    """Status, dialect, request id; together they narrow."""
    await world.job("a")
    await world.job("a", body_hash="again")
    await world.job("v", dialect="vast")
    world.engine.automatic = False
    live = await world.job("live", ends=False)
    await settle(200)
    for query, wanted in (
        ("status=completed", ["v", "a", "a"]),
        ("status=running", ["live"]),
        ("status=running,queued,failed", ["live"]),
        ("dialect=vast", ["v"]),
        ("request_id=a", ["a", "a"]),
        ("request_id=a&dialect=vast", []),
        ("", ["live", "v", "a", "a"]),
    ):
        assert ids((await world.get(f"/jobs?{query}", headers=ALICE))[1]) == wanted, query
    _, page, _ = await world.get("/jobs?request_id=a", headers=ALICE)
    assert [job["run"] for job in page["jobs"]] == [2, 1]
    await world.jobs.service.cancel(live.job_id, reason="end")


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=x",
        "limit=",
        "limit=1e2",
        "limit=٣",
        "before=0",
        "before=-1",
        f"before={10**30}",
        "status=done",
    ],
)
async def test_a_wrong_query_is_refused(world: World, query: str) -> None:
    """With the field and what was expected."""
    status, body, _ = await world.get(f"/jobs?{query}", headers=ALICE)
    assert (status, body["error"], body["details"]["field"]) == (422, "invalid_request", query.partition("=")[0])


async def test_everything_that_is_known_of_a_job(world: World) -> None:
    """Predicted and actual, progress, place in the line; no paths of the host, no secrets of the spec."""
    world.engine.automatic = False
    first = await world.job("first", ends=False)
    second = await world.job("second", ends=False)
    third = await world.job("third", ends=False)
    await settle(200)
    world.engine.posted[0].observer.progressed(Progress(percent=40.0, node_id="3", node_type="KSampler"))
    _, running, headers = await world.get(f"/jobs/{first.job_id}", headers=ALICE)
    assert headers["Cache-Control"] == "no-store"
    assert (running["status"], running["stage"], running["progress"]["percent"]) == ("running", "execute", 40.0)
    assert running["actual"]["wait_s"] >= 0
    _, waiting, _ = await world.get(f"/jobs/{third.job_id}", headers=ALICE)
    assert (waiting["status"], waiting["queue"]["position"], waiting["queue"]["waiting_count"]) == ("queued", 2, 2)
    for _ in range(3):
        world.engine.finish()
        await settle(200)
    done = await asyncio.wait_for(world.jobs.service.wait(second.job_id), 60)
    _, shown, _ = await world.get(f"/jobs/{done.job_id}", headers=ALICE)
    assert (shown["status"], shown["actual"]["execute_s"]) == ("completed", 1.0)
    assert "queue" not in shown
    assert {"workflow", "local_path", "body_hash", "spec"}.isdisjoint(shown)


async def test_a_failed_job_says_why(world: World) -> None:
    """With the stable code."""
    world.engine.automatic = False
    job = await world.job("bad", ends=False)
    await settle(200)
    world.engine.finish(ExecutionFailed("a node failed", details={"node_id": "3"}))
    await asyncio.wait_for(world.jobs.service.wait(job.job_id), 60)
    _, shown, _ = await world.get("/jobs/bad", headers=ALICE)
    assert shown["error"] == {
        "error": "execution_failed",
        "message": "a node failed",
        "retryable": False,
        "details": {"node_id": "3"},
    }


async def test_a_jobs_files_have_paths_here(world: World) -> None:
    """Not where they are on the disk."""
    job = await world.with_files("a b.png", "a b.png")
    _, shown, _ = await world.get(f"/jobs/{job.job_id}", headers=ALICE)
    paths = [output["path"] for output in shown["outputs"]]
    assert len(set(paths)) == 2
    assert str(world.folder) not in str(shown)
    for path in paths:
        assert (await world.get(path, headers=ALICE))[0] == 200


async def test_a_token_shows_its_job(world: World) -> None:
    """As a link for who has no key."""
    job = await world.job("mine")
    token = world.signer.job_token(job.job_id)
    assert (await world.get(f"/jobs/{job.job_id}?job_token={token}"))[0] == 200
    assert (await world.get(f"/jobs?job_token={token}"))[0] == 401


# -- dead letters ------------------------------------------------------------------------------------------------------


async def dead(world: World, message_id: str, owner: str) -> None:
    """A message that was given up."""
    now = world.jobs.clock.now()
    item = OutboxItem(
        message_id=message_id,
        job_id="job",
        owner=owner,
        event=JobEvent.COMPLETED,
        target=WebhookTarget(url="https://user:pw@hooks.example:8443/path?token=secret", secret="hidden"),
        body=b'{"secret": 1}',
        created_at=now,
        next_at=now,
    )
    job = await world.job(f"of-{message_id}", owner=owner)
    await world.stored(job, outbox=(item,))
    await world.jobs.store.bury(message_id, error="status 500")


async def test_dead_letters_are_the_tenants_own(world: World) -> None:
    """Without URL, body and secret; an admin sees all."""
    await dead(world, "m-1", "alice")
    await dead(world, "m-2", "bob")
    status, shown, _ = await world.get("/webhooks/dead", headers=ALICE)
    assert status == 200
    (letter,) = shown["messages"]
    assert (letter["message_id"], letter["host"], letter["last_error"]) == ("m-1", "hooks.example:8443", "status 500")
    assert not any(word in str(shown) for word in ("secret", "token", "pw@", "hidden", "/path"))
    _, everything, _ = await world.get("/webhooks/dead", headers=OPS)
    assert [letter["tenant"] for letter in everything["messages"]] == ["bob", "alice"]
    assert len((await world.get("/webhooks/dead?limit=1", headers=OPS))[1]["messages"]) == 1
    assert (await world.get("/webhooks/dead?limit=x", headers=OPS))[0] == 422
    assert (await world.get("/webhooks/dead"))[0] == 401


async def test_a_dead_letter_is_sent_again_by_its_owner(world: World) -> None:
    """The sender is told; a stranger's, or one that is not dead, is not there."""
    await dead(world, "m-1", "alice")
    for headers, message_id in ((BOB, "m-1"), (ALICE, "m-9")):
        status, body, _ = await world.get(f"/webhooks/dead/{message_id}/retry", headers=headers, method="POST")
        assert (status, body["error"]) == (404, "not_found")
    assert world.woken == []
    status, body, _ = await world.get("/webhooks/dead/m-1/retry", headers=ALICE, method="POST")
    assert (status, body, world.woken) == (202, {"message_id": "m-1"}, [1])
    due = await world.jobs.store.due(world.jobs.clock.now() + timedelta(seconds=1), limit=5)
    assert [item.message_id for item in due] == ["m-1"]
    assert (await world.get("/webhooks/dead/m-1/retry", headers=OPS, method="POST"))[0] == 404


# -- limits and docs ---------------------------------------------------------------------------------------------------


async def test_unfinished_jobs_count_against_the_key(world: World) -> None:
    """The listener sees each job of a tenant from its acceptance to its end."""
    world.engine.automatic = False
    job = await world.job("b", owner="bob", ends=False)
    await world.job("operators", owner="", ends=False)
    assert list(world.limits._live) == ["bob"]
    await world.jobs.service.cancel(job.job_id, reason="end")
    assert world.limits._live == {}
    await world.jobs.service.cancel((await world.jobs.service.find("operators", owner="")).job_id, reason="end")


async def test_a_request_and_its_job_take_one_place(world: World) -> None:
    """Waiting for the job or not: a limit of two is two jobs, and the third is told when to come back."""
    world.engine.automatic = False
    service = world.jobs.service

    async def submit(request: web.Request) -> web.Response:
        name = request.query["id"]
        job = await service.submit(
            JobSpec(request_id=name, dialect="d", workflow=b"{}", body_hash=name, owner=caller_of(request).tenant)
        )
        if "wait" in request.query:
            await service.wait(job.job_id)
        return json_response({})

    access = Access(keys=KeyRing(fixed=KEYS, path=None, clock=world.jobs.clock), required=True, limits=world.limits)
    site = Site(max_body_bytes=100, access=access)
    site.mount([web.post("/submit", submit)], owner="x", needs={"/submit": Need.SUBMIT})
    listener = Listener(site.app, name="test", host="127.0.0.1", port=0)
    async with listener, aiohttp.ClientSession(listener.url, headers=BOB) as bob:
        waiting = asyncio.create_task(bob.post("/submit?id=a&wait=1"))
        await asyncio.wait_for(_live(world, 1), 60)
        assert (await bob.post("/submit?id=b")).status == 200
        full = await bob.post("/submit?id=c")
        assert (full.status, (await full.json())["details"]["max_in_flight"]) == (429, 2)
        world.engine.finish()
        assert (await waiting).status == 200
        assert (await bob.post("/submit?id=c")).status == 200
        for job in service.live_jobs:
            await service.cancel(job.job_id, reason="end")


async def _live(world: World, count: int) -> None:
    while len(world.engine.posted) < count:
        await asyncio.sleep(0)


def test_the_docs_describe_every_route() -> None:
    """The document can be built, and says what the routes ask of callers as they are mounted."""
    needs = {path.replace(":[^/]+", ""): need for path, need in object.__new__(NativeDialect).needs().items()}
    assert {operation.path: operation.need for operation in operations() if operation.need is not Need.KEY} == needs
    document = build(title="t", version="1", description="d", operations=operations())
    assert set(document["paths"]) == {
        "/jobs",
        "/jobs/{job_id}",
        "/outputs/{job_id}/{name}",
        "/inputs",
        "/webhooks/dead",
        "/webhooks/dead/{message_id}/retry",
    }
