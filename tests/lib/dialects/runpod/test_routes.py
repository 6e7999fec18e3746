"""RunPod's routes over HTTP, as its clients use them; streams and golden files are apart."""

import asyncio
import re
from dataclasses import replace
from typing import Any

import pytest

from lib.dialects.runpod.submission import BIG_BODY_BYTES
from lib.errors import ExecutionFailed, JobTimeout, StorageFailed
from lib.jobs.model import JobStatus, OnDisconnect
from tests.fakes.clock import settle
from tests.fakes.jobs import spec

from .conftest import MOST_BYTES, PICTURE, REQUEST, V2, WORKER_ID, World, gone, open_world

UUID = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
BAD = {"input": {"workflow": "text"}}
HOOK = "https://example.com/hook"


@pytest.mark.parametrize("prefix", ["", V2])
async def test_run_and_status(world: World, prefix: str) -> None:
    """Accepted at once under an id as RunPod's; then the result, as often as it is asked for."""
    accepted = await world.post(f"{prefix}/run", REQUEST)
    assert accepted.keys() == {"id", "status"}
    assert accepted["status"] == "IN_QUEUE"
    assert re.fullmatch(f"{UUID}-u1", accepted["id"])
    await world.idle()
    for method in ("GET", "POST"):
        status, done = await world.call(method, f"{prefix}/status/{accepted['id']}")
        assert (status, done["status"], done["id"]) == (200, "COMPLETED", accepted["id"])
        assert done["output"] == {"images": [{"filename": "a.png", "type": "base64", "data": "aGVsbG8="}]}
        assert done["workerId"] == WORKER_ID


async def test_runsync_answers_with_the_result(world: World) -> None:
    """Its ids say so."""
    done = await world.post(f"{V2}/runsync", REQUEST)
    assert done["status"] == "COMPLETED"
    assert re.fullmatch(f"sync-{UUID}-u1", done["id"])
    assert done["output"]["images"][0]["data"] == "aGVsbG8="


async def test_a_large_request_and_a_large_result(world: World) -> None:
    """Neither holds up the event loop; both are what they are."""
    world.delivery.data = "A" * 2_000_000
    images = [{"name": "a.png", "image": "A" * (BIG_BODY_BYTES + 4)}]
    done = await world.post("/runsync", {"input": {"workflow": PICTURE, "images": images}})
    assert len(done["output"]["images"][0]["data"]) == 2_000_000


async def test_what_the_handler_would_fail_is_a_job(world: World) -> None:
    """200 with FAILED, also from ``run``; it can be asked for again, and is told to its webhook."""
    for path in ("/run", "/runsync"):
        failed = await world.post(path, {"input": {"images": []}, "webhook": HOOK})
        assert (failed["status"], failed["error"]) == ("FAILED", "Missing 'workflow' parameter")
        assert await world.get(f"{V2}/status/{failed['id']}") == failed
    assert [event for _, event in world.told] == ["failed", "failed"]
    assert world.engine.ran == []


@pytest.mark.parametrize(
    ("sent", "status", "text"),
    [
        ({"data": b"{"}, 400, "not JSON"),
        ({"data": b""}, 400, "not JSON"),
        ({"data": b"{}", "headers": {"Content-Type": "text/plain"}}, 400, "Content-Type: application/json"),
        ({"data": b'{"input": {"x": NaN}}'}, 400, "not JSON"),
        ({"json": {}}, 400, "Please provide input"),
        ({"json": {**REQUEST, "policy": {"ttl": "x"}}}, 400, "policy.ttl"),
        ({"json": {**REQUEST, "webhook": "nonsense"}}, 400, "webhook"),
        ({"json": {"input": "x" * MOST_BYTES}}, 413, "larger than"),
    ],
)
async def test_what_the_platform_refuses(world: World, sent: Any, status: int, text: str) -> None:
    """One shape, with an id and a final status for clients that look at nothing else."""
    declared = {"headers": {"Content-Type": "application/json"}}
    for path in (f"{V2}/run", "/runsync?wait=1000"):
        async with world.client.post(path, **(declared | sent)) as answer:
            body = await answer.json()
        assert (answer.status, body["status"]) == (status, "FAILED")
        assert text in body["error"]
        assert type(body["id"]) is str


async def test_a_full_queue_is_429(slow: World) -> None:
    """With a moment to come again."""
    for _ in range(5):
        await slow.post("/run", REQUEST)
    async with slow.client.post("/run", json=REQUEST) as full:
        body = await full.json()
    assert (full.status, body["status"], body["code"]) == (429, "FAILED", "overloaded")
    assert int(full.headers["Retry-After"]) >= 1
    await slow.post("/purge-queue")
    await slow.running()
    slow.engine.finish()
    await slow.idle()


async def test_a_worker_that_ends_refuses(world: World) -> None:
    """503, which is worth another try elsewhere."""
    await asyncio.wait_for(world.service.drain(0.0), 60)
    status, body = await world.call("POST", "/run", REQUEST)
    assert (status, body["status"], body["retryable"]) == (503, "FAILED", True)


async def test_a_worker_in_trouble_takes_no_jobs(world: World) -> None:
    """A job that can't be one is not recorded either: it would have been refused at the door."""
    world.blocked.append("no ComfyUI")
    for body in (REQUEST, BAD):
        status, answer = await world.call("POST", "/run", body)
        assert (status, answer["code"], answer["status"]) == (503, "not_ready", "FAILED")


async def test_only_jobs_whose_request_is_kept_can_be_tried_again(slow: World) -> None:
    """Those of RunPod's own queue are RunPod's to try again."""
    slow.engine.left_files = False
    asked = slow.payload.read(REQUEST, request_id="abc-u1")
    job = await slow.service.submit(replace(asked.spec, repeatable=False))
    await slow.running()
    slow.engine.finish(ExecutionFailed("no"))
    await slow.service.wait(job.job_id)
    assert (await slow.call("POST", f"{V2}/retry/abc-u1"))[0] == 400


@pytest.mark.parametrize("path", ["/status/{}", "/status-sync/{}", f"{V2}/status/{{}}", f"{V2}/stream/{{}}"])
@pytest.mark.parametrize("name", ["6c1a5b52-0a3e-4d4f-8a51-0c9b1b8b0f6e-u1", "nonsense", "%20x", "latest"])
async def test_an_unknown_job_is_404(world: World, path: str, name: str) -> None:
    """With a final status: a client that ignores the code stops asking."""
    status, body = await world.call("GET", path.format(name))
    assert (status, body["status"], body["error"]) == (404, "FAILED", "Job ID not found")
    assert body.get("stream", []) == []
    assert ("stream" in body) == ("stream" in path)


async def test_jobs_of_another_dialect_are_not_here(world: World) -> None:
    """Under RunPod's paths; the shared ones find whose they are."""
    job = await world.service.submit(spec("other", on_disconnect=OnDisconnect.KEEP))
    assert (await world.call("GET", f"{V2}/status/other"))[0] == 404
    assert (await world.call("POST", f"{V2}/cancel/{job.job_id}"))[0] == 404
    await world.idle()


async def test_others_jobs_are_not_found(world: World) -> None:
    """Neither to be seen, nor cancelled, nor listed."""
    mine = await world.post("/run", REQUEST, X_Tenant="alice")
    await world.idle()
    for method, path in (("GET", "status"), ("POST", "cancel"), ("POST", "retry"), ("GET", "stream")):
        assert (await world.call(method, f"{V2}/{path}/{mine['id']}", X_Tenant="bob"))[0] == 404
    assert (await world.get("/requests", X_Tenant="bob"))["requests"] == []
    assert [job["id"] for job in (await world.get("/requests", X_Tenant="alice"))["requests"]] == [mine["id"]]
    assert (await world.get(f"{V2}/status/latest", X_Tenant="alice"))["id"] == mine["id"]


# -- waiting -------------------------------------------------------------------------------------------------------


async def test_runsync_ends_its_wait_and_the_job_goes_on(slow: World) -> None:
    """The answer says where it is; ``status-sync`` waits for the rest."""
    going = await slow.post("/runsync?wait=500", REQUEST)
    assert going.keys() == {"id", "status"}
    assert going["status"] == "IN_PROGRESS"
    assert (await slow.service.find(going["id"], owner=None)).spec.on_disconnect is OnDisconnect.KEEP
    rest = asyncio.ensure_future(slow.post(f"{V2}/status-sync/{going['id']}?wait=90000"))
    await settle(50)
    slow.engine.finish()
    done = await rest
    assert (done["status"], done["output"]["images"][0]["filename"]) == ("COMPLETED", "a.png")
    assert await slow.get(f"{V2}/status-sync/{going['id']}") == done


async def test_who_hangs_up_cancels_what_only_he_waits_for(slow: World) -> None:
    """Down to the engine."""
    call = asyncio.ensure_future(slow.post("/runsync", REQUEST))
    await slow.running()
    await gone(call)
    await slow.idle()
    assert len(slow.engine.cancelled) == 1


@pytest.mark.parametrize(
    "more",
    [
        {"webhook": HOOK},
        {"s3Config": {"accessId": "a", "accessSecret": "b", "bucketName": "mine", "endpointUrl": "https://s3.ex.com"}},
    ],
)
async def test_who_gets_the_result_elsewhere_may_hang_up(slow: World, more: Any) -> None:
    """The job goes on."""
    call = asyncio.ensure_future(slow.post("/runsync", {**REQUEST, **more}))
    await slow.running()
    await gone(call)
    await settle(50)
    slow.engine.finish()
    await slow.idle()
    (job,) = (await slow.get("/requests"))["requests"]
    assert job["status"] == "COMPLETED"


async def test_a_worker_that_ends_leaves_the_job_to_its_next_life() -> None:
    """Who waits is told where it is, and may ask again."""
    async with open_world(automatic=False, durable=True) as world:
        call = asyncio.ensure_future(world.post("/runsync", {**REQUEST, "webhook": HOOK}))
        await world.running()
        await asyncio.wait_for(world.service.drain(0.0), 60)
        going = await asyncio.wait_for(call, 60)
        assert going["status"] in ("IN_QUEUE", "IN_PROGRESS")
        status, body = await world.call("POST", f"{V2}/cancel/{going['id']}")
        assert (status, body["id"], body["status"]) == (503, going["id"], going["status"])


async def test_a_job_whose_life_ends_while_it_is_waited_for(slow: World) -> None:
    """Is not there any more."""
    job = await slow.post("/run", REQUEST)
    await slow.running()
    waiting = asyncio.ensure_future(slow.call("GET", f"{V2}/status-sync/{job['id']}"))
    await settle(50)
    await slow.get(f"{V2}/status/{job['id']}?ttl=1000")  # long after the waiting one came in
    status, body = await asyncio.wait_for(waiting, 60)
    assert (status, body["status"]) == (200, "CANCELLED")
    await slow.clock.advance(2)
    assert (await slow.call("GET", f"{V2}/status/{job['id']}"))[0] == 404
    await slow.idle()


@pytest.mark.parametrize("wait", ["x", "-1", "inf", "1 000", "nan"])
@pytest.mark.parametrize("path", ["/runsync", "/status-sync/latest", "/stream/latest"])
async def test_a_wait_that_is_no_number(world: World, path: str, wait: str) -> None:
    """Refused before anything is done."""
    method = "POST" if path == "/runsync" else "GET"
    status, body = await world.call(method, f"{V2}{path}?wait={wait}", REQUEST if method == "POST" else None)
    assert (status, "milliseconds" in body["error"]) == (400, True)
    assert world.engine.ran == []


# -- while it runs -------------------------------------------------------------------------------------------------


async def test_progress_is_in_the_status(slow: World) -> None:
    """As ``output`` while IN_PROGRESS."""
    job = await slow.post("/run", REQUEST)
    await slow.running()
    assert "output" not in await slow.get(f"{V2}/status/{job['id']}")
    slow.engine.tell(percent=25.0, node_id="3", value=1.0, maximum=4.0)
    running = await slow.get(f"{V2}/status/{job['id']}")
    assert running["status"] == "IN_PROGRESS"
    assert running["output"] == {"type": "progress", "value": 1, "max": 4, "percent": 25, "node": "3"}
    slow.engine.finish()
    await slow.idle()


async def test_cancel_answers_before_the_gpu_is_free(slow: World) -> None:
    """And a second cancel changes nothing."""
    job = await slow.post("/run", REQUEST)
    await slow.running()
    slow.engine.removal = asyncio.Event()
    cancelled = await asyncio.wait_for(slow.post(f"{V2}/cancel/{job['id']}"), 60)
    assert (cancelled["id"], cancelled["status"]) == (job["id"], "CANCELLED")
    assert slow.service.in_flight_count == 1
    assert (await slow.get(f"{V2}/status/{job['id']}"))["status"] == "CANCELLED"
    assert (await slow.post(f"{V2}/cancel/{job['id']}"))["status"] == "CANCELLED"
    slow.engine.removal.set()
    await slow.idle()
    assert slow.engine.cancelled == [job["id"]]
    assert (await slow.get(f"{V2}/status/{job['id']}"))["status"] == "CANCELLED"


async def test_a_job_that_is_over_stays_so(world: World) -> None:
    """Cancel says what it is, without what it made."""
    done = await world.post("/runsync", REQUEST)
    answer = await world.post(f"{V2}/cancel/{done['id']}")
    assert answer["status"] == "COMPLETED"
    assert "output" not in answer


async def test_the_queue_is_purged_of_the_callers_own(slow: World) -> None:
    """What runs goes on, and so do others' jobs."""
    for tenant in ("alice", "alice", "alice", "bob"):
        await slow.post("/run", REQUEST, X_Tenant=tenant)
    await slow.running()
    assert await slow.post(f"{V2}/purge-queue", X_Tenant="alice") == {"removed": 2, "status": "completed"}
    assert await slow.post("/purge-queue", X_Tenant="alice") == {"removed": 0, "status": "completed"}
    while slow.service.in_flight_count > 2:
        await settle()
    statuses = [job["status"] for job in (await slow.get("/requests"))["requests"]]
    assert statuses == ["IN_QUEUE", "CANCELLED", "CANCELLED", "IN_PROGRESS"]
    while slow.service.in_flight_count:
        await slow.running()
        slow.engine.finish()
        await settle(50)


# -- after the end -------------------------------------------------------------------------------------------------


async def test_a_failed_job_is_tried_again(slow: World) -> None:
    """Under its id, with its input; its former result is gone."""
    slow.engine.left_files = False
    job = await slow.post("/run", {**REQUEST, "webhook": HOOK})
    await slow.running()
    assert (await slow.call("POST", f"{V2}/retry/{job['id']}"))[0] == 400
    slow.engine.finish(ExecutionFailed("no"))
    await slow.idle()
    failed = await slow.get(f"{V2}/status/{job['id']}")
    assert (failed["status"], "retries" in failed) == ("FAILED", False)
    assert await slow.post(f"{V2}/retry/{job['id']}") == job
    await slow.running()
    assert (await slow.get(f"{V2}/status/{job['id']}"))["status"] == "IN_PROGRESS"
    slow.engine.finish()
    await slow.idle()
    done = await slow.get(f"{V2}/status/{job['id']}")
    assert (done["status"], done["retries"]) == ("COMPLETED", 1)
    assert [event for _, event in slow.told] == ["failed", "completed"]
    assert len((await slow.get("/requests"))["requests"]) == 1
    status, body = await slow.call("POST", f"{V2}/retry/{job['id']}")
    assert (status, body["status"]) == (400, "COMPLETED")


async def test_a_job_that_took_too_long_is_timed_out_and_may_be_tried_again(slow: World) -> None:
    """That is a state of its own."""
    job = await slow.post("/run", REQUEST)
    await slow.running()
    slow.engine.finish(JobTimeout("The job ran longer than 5 s"))
    await slow.idle()
    timed_out = await slow.get(f"{V2}/status/{job['id']}")
    assert (timed_out["status"], timed_out["error"]) == ("TIMED_OUT", "The job ran longer than 5 s")
    await slow.post(f"{V2}/retry/{job['id']}")
    await slow.running()
    slow.engine.finish()
    await slow.idle()


async def test_a_refused_job_is_refused_again(world: World) -> None:
    """There is nothing in it that could run."""
    job = await world.post("/run", BAD)
    assert (await world.post(f"{V2}/retry/{job['id']}"))["status"] == "IN_QUEUE"
    again = await world.get(f"{V2}/status/{job['id']}")
    assert (again["status"], again["error"], again["retries"]) == ("FAILED", job["error"], 1)
    assert world.engine.ran == []


async def test_a_status_may_shorten_the_jobs_life(world: World) -> None:
    """The answer is the last one."""
    done = await world.post("/runsync", REQUEST)
    assert (await world.call("GET", f"{V2}/status/{done['id']}?ttl=soon"))[0] == 400
    assert (await world.get(f"{V2}/status/{done['id']}?ttl=0"))["status"] == "COMPLETED"
    await world.clock.advance(1)
    assert (await world.call("GET", f"{V2}/status/{done['id']}"))[0] == 404


async def test_a_job_that_delivery_failed(world: World) -> None:
    """The reason is told."""
    world.engine.collect_errors = [StorageFailed("a.png could not be written to this worker's disk: no space")]
    failed = await world.post("/runsync", REQUEST)
    assert (failed["status"], failed["output"]["code"]) == ("FAILED", "storage_failed")


async def test_a_link_of_another_page_changes_nothing(world: World) -> None:
    """A browser follows it, with the rights of whoever forwards the port; what only reads stays open to it."""
    await world.post("/run", REQUEST)
    await world.idle()
    followed = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "cross-site"}
    for path, wanted in (("status/latest?ttl=0", 403), ("stream/latest", 403), ("status/latest", 200)):
        async with world.client.get(f"{V2}/{path}", headers=followed) as answer:
            assert (answer.status, "id" in await answer.json()) == (wanted, True)
    own = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}
    async with world.client.get(f"{V2}/stream/latest", headers=own) as answer:
        assert (answer.status, len((await answer.json())["stream"])) == (200, 1)


async def test_head_is_answered(world: World) -> None:
    """Where aiohttp offers it; a stream is not read by it."""
    job = await world.post("/run", REQUEST)
    await world.idle()
    async with world.client.head(f"{V2}/status/{job['id']}") as answer:
        assert answer.status == 200
    async with world.client.head(f"{V2}/stream/{job['id']}") as answer:
        assert answer.status == 405


async def test_the_operators_legacy_switch() -> None:
    """The answer of worker-comfyui before 5.0."""
    async with open_world(output="legacy") as world:
        done = await world.post("/runsync", REQUEST)
        assert done["output"] == {"status": "success", "message": "aGVsbG8="}


async def test_bodiless_posts_need_no_content_type(world: World) -> None:
    """Go's client sends no body at all, Python's an empty one that is declared as JSON, JavaScript's ``{}``."""
    for sent in ({}, {"headers": {"Content-Type": "application/json"}}, {"json": {}}):
        done = await world.post("/runsync", REQUEST)
        for path in ("status", "status-sync", "stream", "cancel"):
            async with world.client.post(f"{V2}/{path}/{done['id']}", **sent) as answer:
                assert answer.status == 200
        async with world.client.post(f"{V2}/purge-queue", **sent) as answer:
            assert answer.status == 200


async def test_nothing_is_left_of_a_job_that_was_cancelled_in_the_queue(slow: World) -> None:
    """It never ran."""
    await slow.post("/run", REQUEST)
    await slow.running()
    waiting = await slow.post("/run", REQUEST)
    assert (await slow.post(f"{V2}/cancel/{waiting['id']}"))["status"] == "CANCELLED"
    slow.engine.finish()
    await slow.idle()
    assert waiting["id"] not in slow.engine.ran
    assert (await slow.service.find(waiting["id"], owner=None)).status is JobStatus.CANCELLED
