"""Events of a job over HTTP: what comes, in which order, from where it resumes, how it ends."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest

from lib.errors import ExecutionFailed
from lib.jobs.model import Preview, Progress
from tests.fakes.clock import settle

from .conftest import PICTURE, World
from .test_routes import REQUEST, posted

Event = tuple[str, dict[str, Any]]


async def events(answer: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    """Id and data of each event; comments and the retry time are skipped."""
    event_id = ""
    async for line in answer.content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "id":
            event_id = value
        elif name == "data":
            yield event_id, orjson.loads(value)


async def started(world: World, **query: str) -> tuple[aiohttp.ClientResponse, AsyncIterator[Event], Event]:
    """A stream whose job runs: the answer, the events to come, and the one that says "generating"."""
    world.engine.automatic = False
    answer = await world.client.post("/generate/stream", json=REQUEST, params=query)
    stream = events(answer)
    await posted(world)
    async for event in stream:
        if event[1]["status"] == "generating":
            return answer, stream, event
    raise AssertionError("the stream ended")


async def test_a_stream_has_the_wrappers_events(world: World) -> None:
    """First, progress, result; upstream's keys first in each."""
    answer = await world.post(REQUEST, "/generate/stream")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    found = [event async for event in events(answer)]
    first, last = found[0][1], found[-1][1]
    assert list(first)[:4] == ["request_id", "status", "message", "timestamp"]
    assert (first["request_id"], first["status"], first["message"]) == ("abc", "queued", "Request queued")
    assert first["timestamp"].endswith("Z")
    assert first["stream_url"] == f"{world.url}/generate/stream/{first['job_id']}"
    for _, progress in found[1:-1]:
        assert list(progress)[:7] == [
            *("request_id", "status", "message", "timestamp", "elapsed_time", "queue_info", "queue_position"),
        ]
    assert list(last) == ["request_id", "status", "result", "elapsed_time", "http_status"]
    assert (last["status"], last["result"]["status"], last["http_status"]) == ("final_result", "completed", 200)
    assert found[-1][0] == "final"


async def test_progress_is_told_as_it_happens(world: World) -> None:
    """Node, step and percent; the percentage never goes back."""
    answer, stream, _ = await started(world)
    (running,) = world.engine.posted
    steps = Progress(percent=40.0, node_id="3", node_type="KSampler", value=8, maximum=20)
    running.observer.progressed(steps)
    _, told = await anext(stream)
    assert (told["node_id"], told["node_type"], told["step"], told["steps"]) == ("3", "KSampler", 8, 20)
    assert (told["percent"], told["stage"], told["message"]) == (40.0, "execute", "Progress: 40.0% (8/20)")
    assert told["queue_position"]["current_queue"] == "processing"
    running.observer.progressed(Progress(percent=10.0, node_id="4"))
    running.observer.progressed(Progress(percent=60.0, node_id="4"))
    assert (await anext(stream))[1]["percent"] == 60.0
    world.engine.finish()
    assert [event["status"] async for _, event in stream][-1] == "final_result"
    answer.close()


async def test_a_job_that_waits_is_told_its_place(world: World) -> None:
    """From 1, among those that wait."""
    world.engine.automatic = False
    for name in ("a", "b"):
        await world.post({"input": {"request_id": name, "workflow_json": PICTURE}}, "/generate")
    await posted(world)
    answer = await world.post(REQUEST, "/generate/stream")
    stream = events(answer)
    await anext(stream)
    _, waiting = await anext(stream)
    assert (waiting["status"], waiting["queue_position"]["current_queue"]) in (
        ("pending", "generation"),
        ("processing", "generation"),
    )
    assert (waiting["queue_position"]["position"], waiting["queue_position"]["queue_size"]) == (2, 2)
    for name in ("a", "b", "abc"):
        await world.client.post(f"/cancel/{name}")
    last = [event async for _, event in stream][-1]
    assert (last["result"]["status"], last["http_status"]) == ("cancelled", 499)


@pytest.mark.parametrize("asked", [True, False])
async def test_previews_come_when_they_are_asked_for(world: World, asked: bool) -> None:
    """Once each, as base64."""
    answer, stream, _ = await started(world, **({"previews": "true"} if asked else {}))
    (running,) = world.engine.posted
    running.observer.previewed(Preview(node_id="3", mime_type="image/jpeg", data=b"picture"))
    running.observer.progressed(Progress(percent=50.0))
    _, told = await anext(stream)
    shown = {"node_id": "3", "mimetype": "image/jpeg", "data": base64.b64encode(b"picture").decode()}
    assert told.get("preview") == (shown if asked else None)
    running.observer.progressed(Progress(percent=60.0))
    assert "preview" not in (await anext(stream))[1]
    world.engine.finish()
    answer.close()


async def test_a_failed_job_says_so_at_the_end(world: World) -> None:
    """The stream itself was 200 long ago."""
    world.preparer.error = ExecutionFailed("no")
    answer = await world.post(REQUEST, "/generate/stream")
    _, last = [event async for event in events(answer)][-1]
    assert (last["result"]["status"], last["result"]["error"], last["http_status"]) == (
        "failed",
        "execution_failed",
        500,
    )


async def test_the_response_obeys_the_flag(world: World) -> None:
    """Upstream always sends it whole."""
    for value, kept in (("1", True), ("0", False)):
        answer = await world.post(REQUEST, "/generate/stream", X_Include_ComfyUI_Response=value)
        _, last = [event async for event in events(answer)][-1]
        assert bool(last["result"]["comfyui_response"]) is kept


async def test_a_refusal_is_no_stream(world: World) -> None:
    """Its status and body are as on the other routes."""
    world.blocked.append("warming up")
    refused = await world.post(REQUEST, "/generate/stream")
    assert (refused.status, (await refused.json())["error"]) == (503, "not_ready")
    assert (await world.post({"input": {}}, "/generate/stream")).status == 422


async def test_leaving_does_not_cancel(world: World) -> None:
    """As upstream; and who comes back with the last id gets only what is newer."""
    answer, _, (seen, _) = await started(world)
    answer.close()
    await settle(50)
    (running,) = world.engine.posted
    back = await world.client.get("/generate/stream/abc", headers={"Last-Event-ID": seen})
    stream = events(back)
    while not world.streams.open_count:
        await settle()
    await settle(50)
    running.observer.progressed(Progress(percent=70.0))
    event_id, told = await anext(stream)
    assert (told["status"], told["percent"], int(event_id) > int(seen)) == ("generating", 70.0, True)
    world.engine.finish()
    assert [event["status"] async for _, event in stream][-1] == "final_result"


async def test_a_finished_job_can_still_be_followed(world: World) -> None:
    """First and last event; who has the last one is told to stay away, or a browser would come for ever."""
    await world.post(REQUEST)
    found = [event async for event in events(await world.client.get("/generate/stream/abc"))]
    assert [data["status"] for _, data in found] == ["queued", "final_result"]
    again = await world.client.get("/generate/stream/abc", headers={"Last-Event-ID": found[-1][0]})
    assert again.status == 204
    late = await world.client.get("/generate/stream/abc", headers={"Last-Event-ID": "17"})
    assert [data["status"] async for _, data in events(late)] == ["final_result"]


async def test_a_worker_that_goes_tells_to_come_again(world: World) -> None:
    """With where; the job is not touched."""
    answer, stream, _ = await started(world)
    world.streams.close()
    (told,) = [event async for _, event in stream]
    assert (told["status"], told["message"].startswith("Stream error: ")) == ("error", True)
    assert told["stream_url"].endswith(f"/generate/stream/{told['job_id']}")
    assert world.engine.cancelled == []
    world.engine.finish()
    answer.close()


async def test_two_can_follow_one_job(world: World) -> None:
    """Each at its own pace."""
    _, stream, _ = await started(world)
    other = events(await world.client.get("/generate/stream/abc"))
    world.engine.finish()
    ends = await asyncio.gather(*(_last(each) for each in (stream, other)))
    assert [end["status"] for end in ends] == ["final_result", "final_result"]


async def _last(stream: AsyncIterator[Event]) -> dict[str, Any]:
    return [event async for _, event in stream][-1]
