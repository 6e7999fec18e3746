"""The wrapper's routes over HTTP; streams and multipart have files of their own."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from lib.dialects.wrapper.answers import QueueInfo, Result
from lib.errors import EngineUnreachable, ExecutionFailed, InvalidWorkflow
from lib.jobs.model import JobStatus
from tests.fakes.clock import settle

from .conftest import MOST_BYTES, PICTURE, World

GOLDEN = Path(__file__).parents[3] / "golden" / "wrapper"
REQUEST = {"input": {"request_id": "abc", "workflow_json": PICTURE}}


def matches(expected: Any, found: Any) -> bool:
    """Whether ``found`` holds all that is ``expected``: objects may have more keys, ``"*"`` is anything."""
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(
            name in found and matches(expected[name], found[name]) for name in expected
        )
    if isinstance(expected, list):
        return isinstance(found, list) and len(expected) == len(found) and all(map(matches, expected, found))
    return bool(expected == "*" or expected == found)


async def posted(world: World) -> None:
    """Wait until something is with the engine, and nothing moves any more."""
    while not world.engine.posted:
        await settle()
    await settle(50)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
async def test_golden_requests(world: World, path: Path) -> None:
    """Requests and answers as files, written from the API's documentation."""
    golden = json.loads(await asyncio.to_thread(path.read_text))
    raw = golden["raw"] if "raw" in golden else json.dumps(golden["body"])
    headers = {"Content-Type": "application/json", **golden.get("headers", {})}
    answer = await world.client.post("/generate/sync", data=raw.encode(), headers=headers)
    found = await answer.json()
    assert answer.status == golden["status"], found
    assert matches(golden["answer"], found), found
    if "exact_keys" in golden:
        assert list(found) == golden["exact_keys"]


async def test_a_completed_job_is_200(world: World) -> None:
    """The result object, with the caller's id."""
    answer = await world.post(REQUEST)
    result = await answer.json()
    assert (answer.status, result["status"], result["id"]) == (200, "completed", "abc")
    assert result["output"][0]["filename"] == "a.png"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ExecutionFailed("KSampler failed", details={"node_id": "3"}), 500),
        (EngineUnreachable("ComfyUI does not answer"), 502),
        (InvalidWorkflow("Value not in list", details={"node_errors": {"4": {}}}), 400),
    ],
)
async def test_a_failed_job_is_never_2xx(world: World, error: Any, status: int) -> None:
    """Result object, stable code, details."""
    world.preparer.error = error
    answer = await world.post(REQUEST)
    result = await answer.json()
    assert (answer.status, result["status"], result["error"]) == (status, "failed", error.code)
    assert result["message"].endswith(error.message)


async def test_full_and_not_ready_are_503_with_a_moment(world: World) -> None:
    """The wrapper's status for both, a result that failed, and when to come again."""
    world.engine.automatic = False
    body = {"input": {"workflow_json": PICTURE}}
    calls = [asyncio.ensure_future(world.post(body)) for _ in range(3)]
    while world.service.in_flight_count < 3:
        await settle()
    full = await world.post(REQUEST)
    assert full.status == 503
    assert int(full.headers["Retry-After"]) >= 1
    result = await full.json()
    assert (result["id"], result["status"]) == ("abc", "failed")
    assert result["message"] == "Worker at capacity (3 in flight); retry shortly"
    for call in calls:
        call.cancel()
    while world.service.in_flight_count:
        await settle()
    world.blocked.append("warming up")
    starting = await world.post(REQUEST)
    assert (starting.status, (await starting.json())["error"]) == (503, "not_ready")


async def test_a_client_that_leaves_cancels_its_job(world: World) -> None:
    """Down to the engine."""
    world.engine.automatic = False
    call = asyncio.ensure_future(world.post(REQUEST))
    while not world.engine.posted:
        await settle()
    call.cancel()
    while world.service.in_flight_count:
        await settle()
    assert world.engine.cancelled == ["abc"]
    assert (await world.service.find("abc", owner=None)).status is JobStatus.CANCELLED


async def test_a_live_id_is_shared_or_in_conflict(world: World) -> None:
    """The same body attaches to the live job, another one is 409."""
    world.engine.automatic = False
    first = asyncio.ensure_future(world.post(REQUEST))
    while not world.engine.posted:
        await settle()
    second = asyncio.ensure_future(world.post(REQUEST))
    other = await world.post({"input": {"request_id": "abc", "modifier": "Text2Image"}})
    assert (other.status, (await other.json())["error"]) == (409, "job_conflict")
    live = world.service._lookup.live((await world.service.find("abc", owner=None)).job_id)
    while live is not None and live.waiter_count < 2:
        await settle()
    world.engine.finish()
    assert [answer.status for answer in await asyncio.gather(first, second)] == [200, 200]
    assert world.engine.ran == ["abc"]


async def test_the_response_is_left_out_on_request(world: World) -> None:
    """The header decides either way."""
    full = await (await world.post(REQUEST)).json()
    bare = await (await world.post(REQUEST, X_Include_ComfyUI_Response="0")).json()
    assert full["comfyui_response"] != {}
    assert bare["comfyui_response"] == {}


async def test_big_requests_work_and_too_big_ones_are_413(world: World) -> None:
    """A large graph is translated beside the event loop; the limit holds."""
    note = {"3": {"class_type": "Note", "inputs": {"text": "x" * (MOST_BYTES - 10_000)}}}
    assert (await world.post({"input": {"workflow_json": {**PICTURE, **note}}})).status == 200
    note["3"]["inputs"]["text"] = "x" * MOST_BYTES  # type: ignore[index]
    refused = await world.post({"input": {"workflow_json": {**PICTURE, **note}}})
    assert (refused.status, (await refused.json())["error"]) == (413, "body_too_large")


async def test_web_pages_of_others_are_refused(world: World) -> None:
    """Neither a foreign origin nor a body type that needs no leave."""
    assert (await world.post(REQUEST, Origin="https://evil.example")).status == 403
    plain = await world.client.post("/generate/sync", data=json.dumps(REQUEST), headers={"Content-Type": "text/plain"})
    assert plain.status == 415
    assert world.engine.ran == []


async def test_a_slash_at_the_end_is_another_path(world: World) -> None:
    """As upstream; and GET is no submit."""
    assert (await world.client.post("/generate/sync/", json=REQUEST)).status == 404
    assert (await world.client.get("/generate/sync")).status == 405


# -- in the background ---------------------------------------------------------------------------------------------


async def test_a_job_in_the_background_says_where_it_is(world: World) -> None:
    """202 with links that work, and it outlives its caller."""
    world.engine.automatic = False
    answer = await world.post(REQUEST, "/generate")
    accepted = await answer.json()
    assert (answer.status, accepted["status"], accepted["id"]) == (202, "pending", "abc")
    assert answer.headers["Location"] == accepted["status_url"] == f"{world.url}/result/{accepted['job_id']}"
    await posted(world)
    assert (await (await world.client.get(accepted["status_url"])).json())["status"] == "generating"
    world.engine.finish()
    done = await world.client.get(accepted["status_url"], params={"wait": "5"})
    assert (done.status, (await done.json())["status"]) == (200, "completed")


async def test_the_links_name_the_public_address(world: World) -> None:
    """The Host that the caller used, where no other is configured."""
    named = await world.post(REQUEST, "/generate", Host="localhost:8080")
    assert (await named.json())["status_url"].startswith("http://localhost:8080/result/")
    job = await world.service.find("abc", owner=None)
    assert job.spec.delivery.base_url == "http://localhost:8080"


async def test_a_background_caller_keeps_a_synchronous_job(world: World) -> None:
    """Who attaches in the background was promised a result, whatever the first caller does."""
    world.engine.automatic = False
    sync = asyncio.ensure_future(world.post(REQUEST))
    await posted(world)
    assert (await world.post(REQUEST, "/generate")).status == 202
    sync.cancel()
    await settle(50)
    world.engine.finish()
    assert (await (await world.client.get("/result/abc?wait=5")).json())["status"] == "completed"


# -- links instead of long waits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "headers", "applied"),
    [
        ({"sync_timeout_s": 0.01}, {}, None),
        ({}, {"Prefer": "respond-async, wait=0"}, "respond-async, wait=0"),
        ({"sync_timeout_s": 0.01}, {"Prefer": "respond-async"}, "respond-async"),
    ],
)
async def test_past_the_cap_there_is_a_link(
    world: World, body: dict[str, Any], headers: dict[str, str], applied: str | None
) -> None:
    """202 where the caller asked for it; the job goes on though nobody waits."""
    world.engine.automatic = False
    answer = await world.post({"input": {**REQUEST["input"], **body}}, **headers)
    accepted = await answer.json()
    assert (answer.status, accepted["id"]) == (202, "abc")
    assert answer.headers["Location"] == accepted["status_url"]
    assert answer.headers.get("Preference-Applied") == applied
    await posted(world)
    world.engine.finish()
    assert (await world.client.get(accepted["status_url"] + "?wait=5")).status == 200
    assert world.engine.cancelled == []


async def test_within_the_cap_there_is_the_result(world: World) -> None:
    """As without one; and nobody who did not ask gets a link."""
    asked = await world.post(REQUEST, Prefer="respond-async, wait=30")
    assert (asked.status, (await asked.json())["status"]) == (200, "completed")
    assert "Preference-Applied" not in asked.headers
    assert (await world.post(REQUEST, Prefer="wait=0")).status == 200


async def test_who_leaves_before_the_cap_cancels(world: World) -> None:
    """The link was not given yet."""
    world.engine.automatic = False
    call = asyncio.ensure_future(world.post(REQUEST, Prefer="respond-async, wait=100"))
    await posted(world)
    call.cancel()
    while world.service.in_flight_count:
        await settle()
    assert world.engine.cancelled == ["abc"]


# -- idempotency -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "status"), [("/generate/sync", 200), ("/generate", 202), ("/generate/stream", 200)])
async def test_a_key_runs_once(world: World, path: str, status: int) -> None:
    """The second answer is the first one's, and says so."""
    body = {"input": {"workflow_json": PICTURE}}
    first = await world.post(body, path, Idempotency_Key="k 1")
    assert (first.status, first.headers.get("Idempotency-Replayed")) == (status, None)
    await first.read()
    while world.service.in_flight_count:
        await settle()
    second = await world.post(body, path, Idempotency_Key="k 1")
    assert (second.status, second.headers["Idempotency-Replayed"]) == (status, "true")
    assert "completed" in await second.text()
    assert len(world.engine.ran) == 1
    other = await world.post({"input": {"modifier": "Text2Image"}}, path, Idempotency_Key="k 1")
    assert (other.status, (await other.json())["error"]) == (422, "idempotency_mismatch")


async def test_a_failure_is_replayed_as_a_failure(world: World) -> None:
    """With its status."""
    world.preparer.error = ExecutionFailed("no")
    answers = [await world.post(REQUEST, Idempotency_Key="k") for _ in range(2)]
    assert [answer.status for answer in answers] == [500, 500]
    assert answers[1].headers["Idempotency-Replayed"] == "true"


async def test_a_key_that_still_runs_is_a_conflict_with_a_link(world: World) -> None:
    """Also after its caller lost the connection: he means to ask again."""
    world.engine.automatic = False
    call = asyncio.ensure_future(world.post(REQUEST, Idempotency_Key="k"))
    await posted(world)
    call.cancel()
    await settle(50)
    again = await world.post(REQUEST, Idempotency_Key="k")
    body = await again.json()
    assert (again.status, body["error"]) == (409, "job_conflict")
    assert again.headers["Location"] == body["status_url"]
    assert (await (await world.client.get(body["status_url"])).json())["id"] == "abc"
    world.engine.finish()
    while world.service.in_flight_count:
        await settle()
    assert (await world.post(REQUEST, Idempotency_Key="k")).status == 200


async def test_keys_are_of_a_tenant_and_a_route(world: World) -> None:
    """The same text elsewhere is another key."""
    body = {"input": {"workflow_json": PICTURE}}
    for path, tenant in (("/generate/sync", "a"), ("/generate/sync", "b"), ("/generate", "a")):
        answer = await world.post(body, path, Idempotency_Key="k", X_Tenant=tenant)
        assert "Idempotency-Replayed" not in answer.headers
    while world.service.in_flight_count:
        await settle()
    assert len(world.engine.ran) == 3


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "ü"])
async def test_a_bad_key_is_refused(world: World, key: str) -> None:
    """With its place; nothing runs."""
    answer = await world.post(REQUEST, Idempotency_Key=key)
    assert answer.status == 422
    assert (await answer.json())["detail"][0]["loc"] == ["header", "Idempotency-Key"]
    assert world.engine.ran == []


# -- asking ----------------------------------------------------------------------------------------------------------


async def test_a_result_is_found_by_either_id(world: World) -> None:
    """The request's, or the job's; with the status of its outcome."""
    job_id = (await (await world.post(REQUEST, "/generate")).json())["job_id"]
    for name in ("abc", job_id):
        found = await world.client.get(f"/result/{name}", params={"wait": "5"})
        assert (found.status, (await found.json())["output"][0]["filename"]) == (200, "a.png")
    world.preparer.error = EngineUnreachable("gone")
    assert (await world.post({"input": {"request_id": "bad", "workflow_json": PICTURE}})).status == 502
    assert (await world.client.get("/result/bad")).status == 502


async def test_a_result_has_what_was_inlined(world: World) -> None:
    """The store forgets the files, so they are read again."""
    body = {"input": {**REQUEST["input"], "return_outputs_as_base64": True}}
    assert (await world.post(body)).status == 200
    assert world.delivery.delivered == ["abc"]
    assert (await world.client.get("/result/abc")).status == 200
    assert world.delivery.delivered == ["abc", "abc"]


@pytest.mark.parametrize("name", ["nobody", "a%2Fb", "..%2f", "%00", "%ff", "{x}", "x" * 300])
async def test_unknown_ids_are_404_in_the_wrappers_form(world: World, name: str) -> None:
    """A failed result; for cancel an error text."""
    asked = await world.client.get(URL(f"{world.url}/result/{name}", encoded=True))
    result = await asked.json()
    assert (asked.status, result["status"], result["message"]) == (404, "failed", "Request ID not found")
    Result.model_validate(result)
    cancelled = await world.client.post(URL(f"{world.url}/cancel/{name}", encoded=True))
    assert cancelled.status == 404
    assert list(await cancelled.json()) == ["error"]
    assert (await world.client.get(URL(f"{world.url}/generate/stream/{name}", encoded=True))).status == 404


async def test_a_long_poll_returns_when_its_time_is_over(world: World) -> None:
    """With what is known then; a wait that is no number is refused."""
    world.engine.automatic = False
    await world.post(REQUEST, "/generate")
    await posted(world)
    early = await world.client.get("/result/abc", params={"wait": "0.01"})
    assert (early.status, (await early.json())["status"]) == (200, "generating")
    for wait in ("soon", "-1", "nan", "inf"):
        refused = await world.client.get("/result/abc", params={"wait": wait})
        assert (refused.status, (await refused.json())["detail"][0]["loc"]) == (422, ["query", "wait"])
    world.engine.finish()


async def test_cancelling_reaches_the_engine_and_stays(world: World) -> None:
    """The wrapper's texts; what is over is not changed."""
    world.engine.automatic = False
    await world.post(REQUEST, "/generate")
    await posted(world)
    answer = await world.client.post("/cancel/abc")
    assert answer.status == 200
    assert await answer.json() == {"message": "Successfully cancelled request abc", "status": "cancelled"}
    assert world.engine.cancelled == ["abc"]
    again = await world.client.post("/cancel/abc")
    assert await again.json() == {"message": "Request abc is already cancelled", "status": "cancelled"}
    assert (await world.client.get("/result/abc")).status == 499
    world.engine.automatic = True
    await world.post({"input": {"request_id": "done", "workflow_json": PICTURE}})
    over = await world.client.post("/cancel/done")
    assert (over.status, (await over.json())["message"]) == (200, "Request done is already completed")


async def test_tenants_see_their_own_jobs_only(world: World) -> None:
    """To others there is no such job; the operator sees all."""
    job_id = (await (await world.post(REQUEST, "/generate", X_Tenant="a")).json())["job_id"]
    while world.service.in_flight_count:
        await settle()
    for name in ("abc", job_id):
        statuses = [
            (await world.client.get(f"/result/{name}", headers=headers)).status
            for headers in ({"X-Tenant": "a"}, {"X-Tenant": "b"}, {})
        ]
        assert statuses == [200, 404, 200]
        assert (await world.client.post(f"/cancel/{name}", headers={"X-Tenant": "b"})).status == 404
    spec = (await world.service.find("abc", owner="a")).spec
    assert (spec.owner, spec.stranger) == ("a", True)


async def test_the_queues_are_counted(world: World) -> None:
    """Upstream's keys first; what is being worked on does not wait."""
    empty = await (await world.client.get("/queue-info")).json()
    assert list(empty)[:3] == ["preprocess_queue_size", "generation_queue_size", "postprocess_queue_size"]
    assert QueueInfo.model_validate(empty).waiting_count == 0
    assert empty["expected_s"] is None
    world.speed.benchmarked(50, engine_count=1)
    world.engine.automatic = False
    for number in range(3):
        await world.post({"input": {"request_id": f"r{number}", "workflow_json": PICTURE}}, "/generate")
    await posted(world)
    busy = QueueInfo.model_validate(await (await world.client.get("/queue-info")).json())
    assert (busy.running_count, busy.generation_queue_size, busy.waiting_count) == (1, 2, 2)
    assert busy.expected_s == 2.0
    for number in range(3):
        await world.client.post(f"/cancel/r{number}")


async def test_the_trace_of_the_caller_goes_with_the_job(world: World) -> None:
    """W3C trace context; nonsense is ignored."""
    good = f"00-{'a' * 32}-{'b' * 16}-01"
    for value, kept in ((good, good), ("nonsense", None)):
        await world.post(REQUEST, traceparent=value)
        assert (await world.service.find("abc", owner=None)).spec.traceparent == kept
