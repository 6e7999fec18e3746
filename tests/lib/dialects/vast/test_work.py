"""Signed work: what is admitted, how failures are told, what a retry and a lost connection mean."""

import asyncio
import threading
from typing import Any

import aiohttp
import pytest

from lib.dialects.vast.translate import refusal
from lib.errors import (
    EngineDied,
    EngineUnreachable,
    ExecutionFailed,
    InputFetchFailed,
    InvalidWorkflow,
    JobTimeout,
    OutOfMemory,
    ServiceError,
    StorageFailed,
    UnsafeInput,
)
from lib.fleet.ledger import Amounts
from lib.protocol.auth import SignatureForm
from tests.fakes.autoscaler import new_key
from tests.fakes.clock import settle
from tests.fakes.vast_worker import MOST_BYTES, URL, World
from tests.lib.dialects.vast.conftest import Build

LONG_S = 100_000.0


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


async def test_work_is_counted_and_given_back(world: World) -> None:
    """A served request is received and served workload, and its number goes back as Success."""
    auth = world.auth()
    assert (await world.work(auth=auth)).status == 200
    figures = world.ledger.figures()
    assert figures.since_report == Amounts(received=100.0, served=100.0)
    assert (figures.load, figures.seen_count) == (0.0, 1)
    assert world.told == [(auth["request_idx"], "Success")]


async def test_headers_choose_the_comfyui_response(world: World) -> None:
    """The payload's dialect decides by the caller's headers."""
    headers = {"X-Include-ComfyUI-Response": "false"}
    answer = await world.post("/generate/sync", world.body(), headers=headers)
    assert answer.body["comfyui_response"] == {}


@pytest.mark.parametrize("form", [SignatureForm.C, SignatureForm.D])
async def test_the_accepted_forms_open_the_worker(world: World, form: SignatureForm) -> None:
    """D is today's form, C that of older routers."""
    world.router.form = form
    assert (await world.work()).status == 200


@pytest.mark.parametrize("form", [SignatureForm.A, SignatureForm.B])
async def test_other_forms_do_not(world: World, form: SignatureForm) -> None:
    """A and B cover less and are off unless SIGNATURE_FORMS names them."""
    world.router.form = form
    assert (await world.work()).status == 401


async def test_a_refused_signature_is_rejected_workload(world: World) -> None:
    """401 is in the ledger as PyWorker does it, and no job was made."""
    auth = world.auth(signature="AAAA", request_idx=5)
    answer = await world.work(auth=auth)
    assert (answer.status, answer.body["request_idx"]) == (401, 5)
    assert world.ledger.figures().since_report == Amounts(rejected=100.0)
    assert world.told == [(5, "Rejected")]
    assert world.engine.ran == []


async def test_a_full_worker_says_429_with_a_moment_to_come_back(build: Build) -> None:
    """JSON body, Retry-After, rejected workload: PyWorker sends nothing of it."""
    world = await build(in_flight=1, automatic=False)
    first = asyncio.create_task(world.work())
    await until(lambda: world.engine.posted)
    auth = world.auth()
    answer = await world.work(auth=auth)
    assert answer.status == 429
    assert answer.body["error"] == "overloaded"
    assert answer.body["request_idx"] == auth["request_idx"]
    assert "capacity" in answer.body["message"]
    assert int(answer.headers["Retry-After"]) >= 1
    assert world.ledger.figures().since_report.rejected == 100.0
    assert world.told == [(auth["request_idx"], "Rejected")]
    world.engine.finish()
    assert (await first).status == 200


async def test_a_worker_that_is_not_ready_says_503(world: World) -> None:
    """The SDK tries elsewhere; the number goes back as Rejected."""
    world.not_ready.append("ComfyUI is starting")
    answer = await world.work()
    assert (answer.status, answer.body["error"]) == (503, "not_ready")
    assert int(answer.headers["Retry-After"]) >= 1
    assert [status for _, status in world.told] == ["Rejected"]


async def test_a_wrong_payload_is_no_load(world: World) -> None:
    """422, and nothing that makes an autoscaler add workers."""
    auth = world.auth()
    answer = await world.post("/generate/sync", {"auth_data": auth, "payload": {"input": {"workflow_json": {}}}})
    assert answer.status == 422
    assert world.ledger.figures().since_report == Amounts()
    assert world.told == [(auth["request_idx"], "Error")]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidWorkflow("no such node"), 422),
        (UnsafeInput("no"), 422),
        (InputFetchFailed("404"), 422),
        (ExecutionFailed("a node failed"), 422),
        (OutOfMemory("too big"), 422),
        (JobTimeout("too long"), 422),
        (StorageFailed("no bucket"), 422),
        (ServiceError("a defect"), 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ServiceError) else str(value),
)
async def test_how_a_failed_job_is_told(build: Build, error: ServiceError, status: int) -> None:
    """The SDK repeats 5xx without end on paid GPUs: only what another worker may do better is one."""
    world = await build(automatic=False)
    asked = asyncio.create_task(world.work(request_id="r-9"))
    for _ in range(2 if isinstance(error, OutOfMemory) else 1):  # that is tried once more
        await until(lambda: any(entry.running for entry in world.engine.posted))
        world.engine.finish(error)
        await settle()
    answer = await asyncio.wait_for(asked, 60)
    assert answer.status == status
    assert answer.body["error"] == error.code.value
    assert answer.body["message"] == error.message
    assert (answer.body["id"], answer.body["status"]) == ("r-9", "failed")
    assert answer.body["request_idx"]
    assert world.ledger.figures().since_report.failed == 100.0
    assert [told for _, told in world.told] == ["Error"]


def test_what_another_worker_may_do_better_is_5xx() -> None:
    """A lost engine is this worker's trouble: the SDK shall go elsewhere."""
    status, body, headers = refusal(EngineDied("gone", started=True), 8)
    assert (status, body["request_idx"], headers) == (503, 8, {"Retry-After": "5"})
    assert refusal(EngineUnreachable("away"), None)[0] == 502


async def test_a_defect_of_ours_is_a_json_500(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never an empty body; the trace is in the log, not in the answer."""

    async def broken(spec: Any) -> Any:
        raise KeyError("secret")

    monkeypatch.setattr(world.service, "submit", broken)
    answer = await world.work()
    assert (answer.status, answer.body["error"]) == (500, "internal")
    assert answer.body["request_idx"]
    assert "secret" not in str(answer.body)


async def test_a_retry_attaches_to_the_running_job(build: Build) -> None:
    """Same request_idx and body: one generation, two answers, counted once."""
    world = await build(automatic=False)
    auth = world.auth()
    body = world.body(auth=auth)
    one = asyncio.create_task(world.post("/generate/sync", body))
    await until(lambda: world.engine.posted)
    again = {**body, "auth_data": {**auth, "reqnum": auth["reqnum"] + 1}}
    two = asyncio.create_task(world.post("/generate/sync", again))
    await until(lambda: world.ledger.figures().seen_count == 2)
    await settle()
    world.engine.finish()
    first, second = await one, await two
    assert first.status == second.status == 200
    assert first.body["id"] == second.body["id"]
    assert len(world.engine.ran) == 1
    assert world.ledger.figures().since_report == Amounts(received=100.0, served=100.0)


async def test_every_number_that_shared_a_job_is_given_back(build: Build) -> None:
    """A caller's request_id came twice, under two numbers of the router's: one generation frees both."""
    world = await build(automatic=False)
    numbers = [world.auth(), world.auth()]
    answers = [asyncio.create_task(world.work(auth=auth, request_id="same")) for auth in numbers]
    await until(lambda: world.ledger.figures().seen_count == 2)
    await settle()
    world.engine.finish()
    assert [(await answer).status for answer in answers] == [200, 200]
    assert sorted(world.told) == [(auth["request_idx"], "Success") for auth in numbers]
    assert world.ledger.figures().since_report == Amounts(received=100.0, served=100.0)


async def test_a_number_whose_caller_left_is_given_back_with_the_job(build: Build) -> None:
    """It joined a job of another number and did not wait for the end."""
    world = await build(automatic=False)
    numbers = [world.auth(), world.auth()]
    first = asyncio.create_task(world.work(auth=numbers[0], request_id="same"))
    await until(lambda: world.engine.posted)
    await _leave(world, world.body(auth=numbers[1], request_id="same"), seen=2)
    assert world.told == []
    assert world.ledger.figures().working_tags == tuple(auth["request_idx"] for auth in numbers)
    world.engine.finish()
    assert (await first).status == 200
    assert sorted(world.told) == [(auth["request_idx"], "Success") for auth in numbers]


async def test_a_retry_after_the_end_gets_the_finished_result(world: World) -> None:
    """The answer was lost on the way; the SDK asks again with the same id."""
    body = world.body()
    first, second = await world.post("/generate/sync", body), await world.post("/generate/sync", body)
    assert first.body == second.body
    assert len(world.engine.ran) == 1
    assert world.ledger.figures().since_report == Amounts(received=100.0, served=100.0)
    assert [told for _, told in world.told] == ["Success", "Success"], "the router assigned it twice"


async def test_another_body_under_the_same_id_is_another_job(world: World) -> None:
    """request_idx alone identifies nothing: it is not signed."""
    auth = world.auth()
    await world.work(auth=auth, cost=100)
    await world.work(auth=auth, cost=50)
    assert len(world.engine.ran) == 2


async def test_a_lost_connection_without_id_cancels_at_once(build: Build) -> None:
    """request_idx 0 is never repeated: the job ends with its caller."""
    world = await build(automatic=False)
    await _leave(world, world.body(auth=world.auth(request_idx=0)))
    await until(lambda: world.service.in_flight_count == 0)
    assert world.engine.cancelled
    assert world.ledger.figures().since_report.cancelled == 100.0


async def test_a_lost_connection_with_id_has_its_grace(build: Build) -> None:
    """The SDK comes back with the same id: within the grace it finds its job, after it the job is gone."""
    world = await build(automatic=False, grace_s=LONG_S)
    body = world.body()
    await _leave(world, body)
    await until(lambda: _far_timers() == 1)
    assert world.engine.posted
    back = asyncio.create_task(world.post("/generate/sync", body))
    await until(lambda: _far_timers() == 0)
    assert world.engine.posted, "somebody waits again: no cancel, now or later"
    world.engine.finish()
    assert (await back).status == 200
    assert [told for _, told in world.told] == ["Success"]
    other = await build(automatic=False, grace_s=0.05)
    await _leave(other, other.body())
    await until(lambda: other.service.in_flight_count == 0)
    assert [told for _, told in other.told] == ["Cancelled"]


def _far_timers() -> int:
    """How much the loop is to do when a long grace is over."""
    loop = asyncio.get_running_loop()
    timers = loop._scheduled  # type: ignore[attr-defined]
    return sum(not timer.cancelled() and timer.when() > loop.time() + LONG_S / 2 for timer in timers)


async def _leave(world: World, body: Any, *, seen: int = 0) -> None:
    """Send a request and drop the connection once its job runs."""
    async with aiohttp.ClientSession() as http:
        asked = asyncio.create_task(http.post(world.listener.url + "/generate/sync", json=body))
        await until(lambda: world.engine.posted and world.ledger.figures().seen_count >= seen)
        await settle()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked


async def test_unsecured_takes_partial_auth_data_and_no_id(build: Build) -> None:
    """The SDK's debug mode sends request_idx 1 with everything: it must not mean "the same request again"."""
    world = await build(unsecured=True)
    for _ in range(2):
        answer = await world.work(auth={"request_idx": 1, "url": "http://127.0.0.1:3000"})
        assert answer.status == 200
    assert len(world.engine.ran) == 2
    assert world.told == []


async def test_a_body_over_the_limit_is_413(world: World) -> None:
    """Bounded, as JSON, in the envelope's own form."""
    answer = await world.post("/generate/sync", b"x" * (MOST_BYTES + 1))
    assert (answer.status, answer.body["error"]) == (413, "body_too_large")


async def test_a_big_body_holds_up_nobody_else(world: World) -> None:
    """Above the threshold it is decoded and translated in a thread; the answer is the same."""
    for note in ("small", "x" * 300_000):
        assert (await world.work(note=note)).status == 200
    assert [thread is threading.main_thread() for thread in world.payload.threads] == [True, False]


async def test_a_hundred_levels_are_refused(world: World) -> None:
    """Deep nesting kills ComfyUI's executor; it does not get there."""
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    answer = await world.post("/generate/sync", {"auth_data": world.auth(), "payload": {"input": deep}})
    assert (answer.status, answer.body["error"]) == (422, "invalid_request")


async def test_get_on_a_work_route_is_405(world: World) -> None:
    """Only POST, as PyWorker."""
    async with world.http.get(world.listener.url + "/generate/sync") as response:
        assert response.status == 405


async def test_a_rotated_key_is_learned_from_a_failed_signature(world: World) -> None:
    """The router changed its key: after the pause between fetches its signatures are good again."""
    world.router.key = new_key()
    assert (await world.work()).status == 401
    await world.clock.advance(11)
    assert (await world.work()).status == 200


async def test_the_url_check_can_be_switched_off(build: Build) -> None:
    """SIGNATURE_CHECK_URL=false: behind a proxy whose name we don't know."""
    world = await build(check_url=False)
    assert (await world.work(auth=world.router.auth_data("http://proxy.example"))).status == 200
    strict = await build()
    assert (await strict.work(auth=strict.router.auth_data("http://proxy.example"))).status == 401
    assert (await strict.work(auth=strict.router.auth_data(URL.upper() + "/"))).status == 200
