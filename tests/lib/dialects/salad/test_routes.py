"""Salad's routes over HTTP: who waits, who leaves, whose jobs; golden files are apart."""

import asyncio
from dataclasses import replace

import pytest

from lib.dialects.salad.render import BIG_CHARS
from lib.dialects.salad.submission import BIG_BYTES
from lib.errors import ExecutionFailed
from lib.jobs.model import JobStatus, OnDisconnect
from tests.fakes.clock import settle
from tests.fakes.jobs import spec

from .conftest import HOOK, HOOK_2, PICTURE, REQUEST, World, gone, open_world


async def test_who_hangs_up_cancels_what_only_he_waits_for(slow: World) -> None:
    """Down to the engine."""
    call = asyncio.ensure_future(slow.post("/prompt", {**REQUEST, "id": "abc"}))
    await slow.running()
    await gone(call)
    await slow.idle()
    assert slow.engine.cancelled == ["abc"]


async def test_who_has_a_webhook_may_hang_up(slow: World) -> None:
    """His job is kept from the start."""
    await slow.post("/prompt", {**REQUEST, "id": "abc", "webhook": HOOK}, status=202)
    await slow.running()
    assert (await slow.service.find("abc", owner=None)).spec.on_disconnect is OnDisconnect.KEEP
    slow.engine.finish()
    await slow.idle()
    assert [url for url, _ in slow.told] == [HOOK]


async def test_the_same_request_again_waits_for_the_same_job(slow: World) -> None:
    """It runs once."""
    body = {**REQUEST, "id": "abc"}
    calls = [asyncio.ensure_future(slow.post("/prompt", body)) for _ in range(2)]
    await slow.running()
    slow.engine.finish()
    first, second = await asyncio.gather(*calls)
    assert first == second
    assert slow.engine.ran == ["abc"]


async def test_large_requests_and_results(world: World) -> None:
    """Neither holds up the event loop; both are what they are, the file in the request aside."""
    world.delivery.data = "A" * (BIG_CHARS + 4)
    prompt = {**PICTURE, "3": {"class_type": "LoadImage", "inputs": {"image": "A" * BIG_BYTES}}}
    done = await world.post("/prompt", {"prompt": prompt})
    assert done["images"] == [world.delivery.data]
    assert done["prompt"]["3"]["inputs"]["image"] == "(left out)"


async def test_links_lead_to_where_the_caller_found_us(world: World) -> None:
    """For files that are too large for base64."""
    await world.post("/prompt", {**REQUEST, "id": "abc"})
    job = await world.service.find("abc", owner=None)
    assert job.spec.delivery.base_url == str(world.client._base_url).rstrip("/")


# -- whose job it is -----------------------------------------------------------------------------------------------


async def test_nobody_interrupts_others_jobs(slow: World) -> None:
    """They are not there for him; the operator may."""
    await slow.post("/prompt", {**REQUEST, "id": "abc", "webhook": HOOK}, status=202, X_Tenant="alice")
    await slow.running()
    await slow.post("/interrupt", {"id": "abc"}, status=404, X_Tenant="bob")
    assert slow.engine.cancelled == []
    await slow.post("/interrupt", {"id": "abc"})
    await slow.idle()
    assert slow.engine.cancelled == ["abc"]


async def test_models_are_listed_as_the_caller_may_see_them(world: World) -> None:
    """The operator sees everybody's."""
    for tenant, names in (("alice", ["sd.safetensors", "alice.safetensors"]), ("", ["sd.safetensors"])):
        status, told = await world.call("GET", "/models", **({"X_Tenant": tenant} if tenant else {}))
        assert (status, told["checkpoints"]) == (200, names)


async def test_tenants_are_strangers(world: World) -> None:
    """Their files get names that nobody can guess."""
    await world.post("/prompt", {**REQUEST, "id": "abc"}, X_Tenant="alice")
    job = await world.service.find("abc", owner="alice")
    assert (job.spec.owner, job.spec.stranger) == ("alice", True)


async def test_jobs_of_other_apis_are_not_interrupted(slow: World) -> None:
    """Their ids are not this API's."""
    job = await slow.service.submit(spec("other", on_disconnect=OnDisconnect.KEEP))
    await slow.running()
    await slow.post("/interrupt", {"id": "other"}, status=404)
    await slow.post("/interrupt", {"id": job.job_id}, status=404)
    slow.engine.finish()
    await slow.idle()


async def test_a_job_that_is_being_prepared_is_interrupted(world: World) -> None:
    """Its inputs need not be there first."""
    world.preparer.held["abc"] = asyncio.Event()
    await world.post("/prompt", {**REQUEST, "id": "abc", "webhook_v2": HOOK_2}, status=202)
    await settle(50)
    assert await world.post("/interrupt", {"id": "abc"}) == {"id": "abc", "interrupted": "success"}
    await world.idle()
    assert world.engine.posted == []
    ((_, told),) = world.told
    assert (told["type"], told["error"]) == ("prompt.failed", "Prompt was interrupted")


async def test_who_waits_for_an_interrupted_job_is_told(slow: World) -> None:
    """As a job that failed."""
    call = asyncio.ensure_future(slow.call("POST", "/prompt", {**REQUEST, "id": "abc"}))
    await slow.running()
    await slow.post("/interrupt", {"id": "abc"})
    status, body = await call
    assert (status, body["message"], body["code"]) == (500, "Prompt was interrupted", "job_cancelled")
    await slow.idle()


# -- paths of all APIs ---------------------------------------------------------------------------------------------


async def test_a_job_can_be_asked_for(slow: World) -> None:
    """While it goes on, and then as ``/prompt`` would have answered, for as long as it is known."""
    await slow.post("/prompt", {**REQUEST, "id": "abc", "webhook": HOOK}, status=202)
    await slow.running()
    assert await slow.call("GET", "/status/abc") == (200, {"id": "abc", "status": "running", "progress": 0.0})
    waiting = asyncio.ensure_future(slow.call("GET", "/status/abc?wait=30"))
    await settle(50)
    slow.engine.finish()
    status, done = await waiting
    assert (status, done["status"], done["images"]) == (200, "completed", [slow.delivery.data])
    again = (await slow.call("GET", "/status/abc"))[1]
    assert (again["filenames"], again["stats"], again["images"]) == (done["filenames"], done["stats"], done["images"])
    assert await slow.call("POST", "/cancel/abc") == (404, {"id": "abc", "interrupted": "failed"})


async def test_a_wait_ends(slow: World) -> None:
    """With the state of the moment."""
    await slow.post("/prompt", {**REQUEST, "id": "abc", "webhook": HOOK}, status=202)
    await slow.running()
    assert (await slow.call("GET", "/status/abc?wait=0.01"))[1]["status"] == "running"
    assert await slow.call("POST", "/cancel/abc") == (200, {"id": "abc", "interrupted": "success"})
    await slow.idle()
    status, told = await slow.call("GET", "/status/abc")
    assert (status, told["status"], told["message"]) == (500, "cancelled", "Prompt was interrupted")


@pytest.mark.parametrize("wait", ["x", "-1", "nan", "inf"])
async def test_a_wait_that_is_no_number(world: World, wait: str) -> None:
    """Refused, with its place."""
    await world.post("/prompt", {**REQUEST, "id": "abc"})
    status, body = await world.call("GET", f"/status/abc?wait={wait}")
    assert (status, body["location"]) == (400, "wait")


async def test_a_failed_job_never_looks_like_success(slow: World) -> None:
    """However it is asked for."""
    await slow.post("/prompt", {**REQUEST, "id": "abc", "webhook": HOOK}, status=202)
    await slow.running()
    slow.engine.finish(ExecutionFailed("no"))
    await slow.idle()
    status, body = await slow.call("GET", "/status/abc")
    assert (status, body["status"], body["message"]) == (500, "failed", "no")


async def test_lost_files_are_a_failure_there_too(world: World) -> None:
    """Although the job came to its end."""
    world.engine.outputs = (replace(world.engine.outputs[0], error="gone"),)
    await world.post("/prompt", {**REQUEST, "id": "abc"}, status=500)
    status, body = await world.call("GET", "/status/abc")
    assert (status, body["status"]) == (500, JobStatus.FAILED)


# -- refusals ------------------------------------------------------------------------------------------------------


async def test_a_worker_in_trouble_takes_no_jobs(world: World) -> None:
    """503, to be sent again."""
    world.blocked.append("no ComfyUI")
    status, body = await world.call("POST", "/prompt", REQUEST)
    assert (status, body["error"], body["retryable"]) == (503, "Service Unavailable", True)


async def test_what_is_delivered_is_not_in_the_queue() -> None:
    """``MAX_QUEUE_DEPTH`` counts as ComfyUI does."""
    async with open_world(max_queue_depth=1) as world:
        world.delivery.gate.clear()
        await world.post("/prompt", {**REQUEST, "webhook": HOOK}, status=202)
        while not world.engine.ran:
            await settle()
        await settle(50)
        await world.post("/prompt", {**REQUEST, "webhook": HOOK}, status=202)
        world.delivery.gate.set()
        await world.idle()
