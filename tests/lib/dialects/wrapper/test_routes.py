"""POST /generate/sync over HTTP."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from lib.dialects.wrapper.docs import operations
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
    assert (await world.service.latest("abc")).status is JobStatus.CANCELLED


async def test_a_live_id_is_shared_or_in_conflict(world: World) -> None:
    """The same body attaches to the live job, another one is 409."""
    world.engine.automatic = False
    first = asyncio.ensure_future(world.post(REQUEST))
    while not world.engine.posted:
        await settle()
    second = asyncio.ensure_future(world.post(REQUEST))
    other = await world.post({"input": {"request_id": "abc", "modifier": "Text2Image"}})
    assert (other.status, (await other.json())["error"]) == (409, "job_conflict")
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


async def test_the_examples_of_the_docs_run(world: World) -> None:
    """What the page puts into its form completes as it is; examples of answers fit their models."""
    (operation,) = operations()
    for example in operation.examples.values():
        assert (await world.post(example)).status == 200
    for answer in operation.answers.values():
        if answer.model is not None:
            answer.model.model_validate(answer.example)
