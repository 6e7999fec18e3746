"""After the submit answer: a job is there for who has its token, by link and in the envelope, and for nobody else."""

import asyncio
import itertools
from typing import Any

import aiohttp
import pytest

from lib.errors import ExecutionFailed
from lib.fleet.ledger import Amounts
from tests.fakes.clock import settle
from tests.fakes.vast_worker import SIGNER, URL, Answer, World
from tests.lib.dialects.vast.conftest import Build


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


async def submit(world: World, **options: Any) -> tuple[str, str]:
    """Job id and token of an accepted job."""
    answer = await world.post("/generate", world.body(**options))
    assert answer.status == 202, answer.body
    return answer.body["job_id"], answer.body["job_token"]


async def envelope(world: World, path: str, *, auth: dict[str, Any] | None = None, **payload: Any) -> Answer:
    return await world.post(path, {"auth_data": auth or world.auth(), "session_id": None, "payload": payload})


async def test_a_submit_answers_at_once_and_is_load_until_the_end(build: Build) -> None:
    """202 with the token and our own base URL; the number goes back when the work is done, not when it was taken."""
    world = await build(automatic=False)
    auth = world.auth()
    answer = await world.post("/generate", world.body(auth=auth))
    assert answer.status == 202
    assert answer.body["base_url"] == URL
    await until(lambda: world.engine.posted)
    figures = world.ledger.figures()
    assert (figures.load, figures.working_tags, world.told) == (100.0, (auth["request_idx"],), [])
    world.engine.finish()
    await until(lambda: world.service.in_flight_count == 0)
    assert world.ledger.figures().since_report == Amounts(received=100.0, served=100.0)
    assert world.told == [(auth["request_idx"], "Success")]


async def test_a_repeated_submit_is_the_same_job(build: Build) -> None:
    """The same number and body: the same token, one generation; also when it is over."""
    world = await build(automatic=False)
    body = world.body()
    answers = [await world.post("/generate", body) for _ in range(2)]
    await until(lambda: world.engine.posted)
    world.engine.finish()
    await until(lambda: world.service.in_flight_count == 0)
    answers.append(await world.post("/generate", body))
    assert [answer.status for answer in answers] == [202] * 3
    assert len({(answer.body["job_id"], answer.body["job_token"]) for answer in answers}) == 1
    assert len(world.engine.ran) == 1


async def test_of_a_job_that_has_the_name_a_stranger_hears_nothing(build: Build) -> None:
    """409 for another body under the same request id, without that job's own id and state."""
    world = await build(automatic=False)
    job_id, _ = await submit(world, request_id="mine")
    body = world.body(request_id="mine")
    body["payload"]["input"]["cost"] = 7
    answer = await world.post("/generate", body)
    assert answer.status == 409
    assert job_id not in str(answer.body) and "details" not in answer.body
    world.engine.finish()
    await until(lambda: world.service.in_flight_count == 0)


async def test_without_its_token_a_job_is_not_there(world: World) -> None:
    """By either id, by every way in, the answer is that of a job that never was."""
    auth = world.auth()
    job_id, token = await submit(world, auth=auth, request_id="mine")
    other_id, other = await submit(world, request_id="other")
    assert token != other
    unknown = await world.get("/result/no-such-job")
    wrong = ["", other, token[:-1], token.upper(), job_id]
    for name, shown in itertools.product((job_id, "mine"), wrong):
        answers = [
            await world.get(f"/result/{name}?job_token={shown}"),
            await world.get(f"/result/{name}", headers={"X-Job-Token": shown}),
            await world.get(f"/generate/stream/{name}?job_token={shown}"),
            await world.post(f"/cancel/{name}", {"job_token": shown}, plain=True),
            await envelope(world, f"/result/{name}", auth=auth, job_token=shown),
            await envelope(world, f"/cancel/{name}", auth=auth, job_token=shown),
        ]
        for answer in answers:
            assert answer.status == 404
            assert answer.body["message"] == unknown.body["message"]
    assert (await world.get(f"/result/{other_id}?job_token={token}")).status == 404


@pytest.mark.parametrize("by", ["job_id", "request_id"])
async def test_every_way_in_tells_the_same(world: World, by: str) -> None:
    """Link, header, envelope; POST equals GET, as the SDK only POSTs."""
    job_id, token = await submit(world, request_id="mine")
    name = job_id if by == "job_id" else "mine"
    await until(lambda: world.service.in_flight_count == 0)
    answers = [
        await world.get(f"/result/{name}?job_token={token}"),
        await world.get(f"/result/{name}", headers={"X-Job-Token": token}),
        await world.post(f"/result/{name}?job_token={token}", None),
        await world.post(f"/result/{name}", None, headers={"X-Job-Token": token}),
        await envelope(world, f"/result/{name}", job_token=token),
        await world.post(f"/result/{name}?job_token={token}", world.body()),
    ]
    for answer in answers:
        assert (answer.status, answer.body["id"], answer.body["status"]) == (200, "mine", "completed")
        assert answer.headers["Cache-Control"] == "no-store"


async def test_a_signature_alone_is_still_checked(world: World) -> None:
    """In the envelope it must fit, token or not."""
    job_id, token = await submit(world)
    answer = await envelope(world, f"/result/{job_id}", auth=world.auth(signature="AAAA"), job_token=token)
    assert answer.status == 401
    assert (await world.post(f"/result/{job_id}", b"{", headers={"X-Job-Token": token})).status == 422
    assert (await world.post(f"/result/{job_id}", None)).status == 422, "no token and no envelope"


async def test_waiting_for_the_end(build: Build) -> None:
    """?wait= answers when the job ends, or with its state when the time is up; the number of the asker is free."""
    world = await build(automatic=False)
    job_id, token = await submit(world)
    early = await world.get(f"/result/{job_id}?job_token={token}&wait=0.01")
    assert (early.status, early.body["status"] in ("queued", "running")) == (200, True)
    auth = world.auth()
    late = asyncio.create_task(envelope(world, f"/result/{job_id}", auth=auth, job_token=token, wait=20))
    await until(lambda: world.engine.posted and world.ledger.figures().seen_count == 2)
    await settle()
    world.engine.finish()
    assert (await late).body["status"] == "completed"
    assert (auth["request_idx"], "Success") in world.told
    for wait in ("x", "-1", "nan", "inf"):
        assert (await world.get(f"/result/{job_id}?job_token={token}&wait={wait}")).status == 422


async def test_asking_with_the_jobs_own_number_does_not_end_it(build: Build) -> None:
    """Who keeps the ticket of the submit and polls with it must not make the router think that the work is done."""
    world = await build(automatic=False)
    auth = world.auth()
    job_id, token = await submit(world, auth=auth)
    for _ in range(3):
        assert (await envelope(world, f"/result/{job_id}", auth=auth, job_token=token)).status == 200
        assert (await envelope(world, f"/result/{job_id}", auth=auth)).status == 404
    assert world.told == []
    assert world.ledger.figures().working_tags == (auth["request_idx"],)
    await until(lambda: world.engine.posted)
    world.engine.finish()
    await until(lambda: world.service.in_flight_count == 0)
    assert world.told == [(auth["request_idx"], "Success")]


async def test_a_question_is_no_work(world: World) -> None:
    """Neither received nor rejected, and its number goes back, also for a job that is not there."""
    auth = world.auth()
    assert (await envelope(world, "/result/unknown", auth=auth)).status == 404
    assert world.ledger.figures().since_report == Amounts()
    assert world.told == [(auth["request_idx"], "Success")]


async def test_a_failed_job_is_told_as_when_it_is_waited_for(build: Build) -> None:
    """4xx for what would fail again."""
    world = await build(automatic=False)
    job_id, token = await submit(world)
    await until(lambda: world.engine.posted)
    world.engine.finish(ExecutionFailed("a node failed"))
    await until(lambda: world.service.in_flight_count == 0)
    answer = await world.get(f"/result/{job_id}?job_token={token}")
    assert (answer.status, answer.body["error"], answer.body["status"]) == (422, "execution_failed", "failed")


@pytest.mark.parametrize("way", ["link", "header", "envelope", "plain"])
async def test_cancel(build: Build, way: str) -> None:
    """It reaches the engine, and is said once; a second time the job is over already."""
    world = await build(automatic=False)
    job_id, token = await submit(world, request_id="mine")
    await until(lambda: world.engine.posted)

    async def cancel() -> Answer:
        if way == "link":
            return await world.post(f"/cancel/{job_id}?job_token={token}", None)
        if way == "header":
            return await world.post(f"/cancel/{job_id}", None, headers={"X-Job-Token": token})
        if way == "plain":
            return await world.post(f"/cancel/{job_id}", {"session_id": "s", "job_token": token}, plain=True)
        return await envelope(world, f"/cancel/{job_id}", job_token=token)

    first = await cancel()
    assert (first.status, first.body["status"]) == (200, "cancelled")
    assert world.engine.cancelled == ["mine"]
    second = await cancel()
    assert (second.status, second.body) == (
        200,
        {"message": "Request mine is already cancelled", "status": "cancelled"},
    )
    assert (await world.get(f"/result/{job_id}?job_token={token}")).status == 499
    assert ("Cancelled" in [status for _, status in world.told]) is True


async def test_a_submitted_job_outlives_every_connection(build: Build) -> None:
    """Also one that a waiting caller began: who joins it by /generate keeps it."""
    world = await build(automatic=False, grace_s=0.01)
    body = world.body(auth=world.auth(), request_id="same")
    async with aiohttp.ClientSession() as http:
        asked = asyncio.create_task(http.post(world.listener.url + "/generate/sync", json=body))
        await until(lambda: world.engine.posted)
        await submit(world, request_id="same")
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
    await asyncio.sleep(0.1)
    assert world.engine.posted
    world.engine.finish()
    await until(lambda: world.service.in_flight_count == 0)
    assert [status for _, status in world.told] == ["Success", "Success"]


async def test_a_stream_can_be_taken_up_again(build: Build) -> None:
    """The first one tells the token; when it breaks the job goes on, and the token opens another."""
    world = await build(automatic=False)
    async with aiohttp.ClientSession() as http:
        response = await http.post(world.listener.url + "/generate/stream", json=world.body())
        job_id, token, base = (await response.content.readline()).decode().split()
        assert (base, token) == (URL, SIGNER.job_token(job_id))
        response.close()
    async with world.http.get(world.listener.url + f"/generate/stream/{job_id}?job_token={token}") as again:
        assert (await again.content.readline()).decode().split() == [job_id, token, URL]
        await until(lambda: world.engine.posted)
        world.engine.finish()
        assert await again.content.readline() == b"completed\n"


async def test_nothing_of_the_operators_is_public(world: World) -> None:
    """Lists, dead letters, metrics, uploads and docs are on the API listener only."""
    for path in ("/jobs", "/jobs/x", "/webhooks/dead", "/metrics", "/inputs", "/docs", "/internal/live", "/queue-info"):
        assert (await world.get(path)).status == 404
    assert (await world.post("/inputs", b"x")).status == 404
