"""RunPod's API on the router."""

import asyncio
from typing import Any

from aiohttp import web

from tests.fakes.job_worker import JobBook, workflow
from tests.router.relay.jobs.conftest import OTHER, TENANT, JobsWorld, Start

V2 = "/v2/ep"


def asked(text: str = "a", **more: Any) -> dict[str, Any]:
    inputs = more.pop("inputs", {})
    return {"input": {"workflow": workflow(text, **inputs)}, **more}


async def run(world: JobsWorld, text: str = "a", **more: Any) -> str:
    options = {name: more.pop(name) for name in ("key",) if name in more}
    status, told = await world.call(f"{V2}/run", asked(text, **more), **options)
    assert (status, told["status"], set(told)) == (200, "IN_QUEUE", {"id", "status"})
    assert told["id"].endswith("-u1")
    return str(told["id"])


async def on_worker(world: JobsWorld, book: JobBook, name: str) -> None:
    while (await world.get(f"{V2}/status/{name}"))[1]["status"] != "IN_PROGRESS":
        await asyncio.sleep(0)


async def test_run_then_status(world: JobsWorld) -> None:
    """Whole numbers, texts, and the router's own id, whatever the worker calls the job."""
    name = await run(world)
    assert await world.get(f"{V2}/status/{name}") == (200, {"id": name, "status": "IN_QUEUE"})
    book = await world.join()
    _, shown = await world.get(f"{V2}/status-sync/{name}?wait=20000")
    assert (shown["id"], shown["status"]) == (name, "COMPLETED")
    assert shown["output"]["images"][0]["data"] == "a"
    assert all(type(shown[field]) is int for field in ("delayTime", "executionTime"))
    assert await world.call(f"{V2}/status/{name}") == (200, shown)
    assert [job.name == name for job in book.jobs.values()] == [False]
    assert (await world.get("/v2/any/status/x"))[0] == 404
    assert (await world.get(f"/e/ep/v2/any/status/{name}"))[0] == 200


async def test_runsync_waits_for_the_end_or_its_time(world: JobsWorld) -> None:
    """Then the client goes on with ``status``; who leaves cancels."""
    book = await world.join()
    status, told = await world.call(f"{V2}/runsync", asked())
    assert (status, told["status"], told["id"][:5]) == (200, "COMPLETED", "sync-")
    book.hold()
    status, told = await world.call(f"{V2}/runsync?wait=1000", asked("b"))
    assert (status, set(told)) == (200, {"id", "status"}) and told["status"] in ("IN_QUEUE", "IN_PROGRESS")
    await on_worker(world, book, told["id"])
    book.let.set()
    _, told = await world.get(f"{V2}/status-sync/{told['id']}")
    assert told["status"] == "COMPLETED"


async def test_a_job_that_fails_is_answered_with_200(world: JobsWorld) -> None:
    """With a text, and may be tried again under its name."""
    book = await world.join()
    name = await run(world, inputs={"fails": True})
    status, shown = await world.get(f"{V2}/status-sync/{name}")
    assert (status, shown["status"], shown["error"]) == (200, "FAILED", "it failed")
    assert await world.call(f"{V2}/retry/{name}") == (200, {"id": name, "status": "IN_QUEUE"})
    _, shown = await world.get(f"{V2}/status-sync/{name}")
    assert (shown["status"], shown["retries"], book.done) == ("FAILED", 1, ["a", "a"])
    good = await run(world)
    await world.get(f"{V2}/status-sync/{good}")
    status, told = await world.call(f"{V2}/retry/{good}")
    assert (status, told["id"], told["status"]) == (400, good, "COMPLETED")


async def test_a_stream_tells_each_thing_once(world: JobsWorld) -> None:
    """What the worker tells while it runs; then the output, then nothing."""
    book = await world.join()
    book.hold()
    name = await run(world)
    await on_worker(world, book, name)
    _, told = await world.get(f"{V2}/stream/{name}")
    assert told == {"id": name, "status": "IN_PROGRESS", "stream": [{"output": {"percent": 50}}]}
    book.let.set()
    await world.get(f"{V2}/status-sync/{name}")
    _, told = await world.call(f"{V2}/stream/{name}")
    assert (told["status"], told["stream"][0]["output"]["images"][0]["data"]) == ("COMPLETED", "a")
    assert (await world.get(f"{V2}/stream/{name}"))[1] == {"id": name, "status": "COMPLETED", "stream": []}
    status, told = await world.get(f"{V2}/stream/unknown")
    assert (status, told["stream"], told["status"]) == (404, [], "FAILED")


async def test_cancel_answers_at_once(world: JobsWorld) -> None:
    """Queued or running; a second time changes nothing, a stream of it ends."""
    book = await world.join()
    book.hold()
    name = await run(world)
    await on_worker(world, book, name)
    _, told = await world.call(f"{V2}/cancel/{name}")
    assert (told["id"], told["status"]) == (name, "CANCELLED")
    assert (await world.call(f"{V2}/cancel/{name}"))[1]["status"] == "CANCELLED"
    (job,) = book.jobs.values()
    await job.over.wait()
    assert (await world.get(f"{V2}/status-sync/{name}"))[1]["status"] == "CANCELLED"
    assert (await world.get(f"{V2}/stream/{name}"))[1]["stream"] == []
    assert (await world.get(f"{V2}/stream/{name}"))[0] == 404


async def test_the_queue_is_purged_of_ones_own(world: JobsWorld) -> None:
    """Counters and lists agree with it."""
    names = [await run(world, key=TENANT) for _ in range(2)]
    await run(world, key=OTHER)
    _, health = await world.get(f"{V2}/health")
    assert health["jobs"] == {"completed": 0, "failed": 0, "inProgress": 0, "inQueue": 3, "retried": 0}
    assert set(health["workers"]) == {"idle", "initializing", "ready", "running", "throttled", "unhealthy"}
    assert await world.call(f"{V2}/purge-queue", key=TENANT) == (200, {"removed": 2, "status": "completed"})
    _, listed = await world.get(f"{V2}/requests", key=TENANT)
    assert [(one["id"], one["status"]) for one in listed["requests"]] == [(n, "CANCELLED") for n in names[::-1]]
    await world.join()
    _, health = await world.get(f"{V2}/health", key=OTHER)
    assert (health["jobs"]["inQueue"], health["workers"]["unhealthy"]) in ((0, 0), (1, 0))


async def test_a_job_is_forgotten_after_its_time(world: JobsWorld) -> None:
    """``?ttl=`` shortens the life of one that is over."""
    await world.join()
    name = await run(world)
    await world.get(f"{V2}/status-sync/{name}")
    assert (await world.get(f"{V2}/status/{name}?ttl=0"))[0] == 200
    status, told = await world.get(f"{V2}/status/{name}")
    assert (status, told) == (404, told | {"id": name, "status": "FAILED", "error": "Job ID not found"})


async def test_wrong_requests_are_told_so(world: JobsWorld) -> None:
    """400, with a text."""
    for body in (b"{", b"{}", b"[]"):
        status, told = await world.call(f"{V2}/run", body)
        assert (status, type(told["error"])) == (400, str)
    assert (await world.call(f"{V2}/run", b"{}"))[1]["error"] == "Please provide input"


async def test_the_webhook_knows_the_routers_id(start: Start) -> None:
    """The router tells it, at every end, until it is answered 200; a worker hears nothing of it."""
    told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def receive(request: web.Request) -> web.Response:
        told.put_nowait(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    world = await start()
    book = await world.join()
    name = await run(world, webhook=url)
    body = await told.get()
    assert (body["id"], body["status"], body["webhook"]) == (name, "COMPLETED", url)
    assert [b"webhook" in job.body for job in book.jobs.values()] == [False]
    book.refuse = 503
    waiting = await run(world, webhook=url)
    await world.call(f"{V2}/cancel/{waiting}")
    body = await told.get()
    assert (body["id"], body["status"]) == (waiting, "CANCELLED")
    await runner.cleanup()
