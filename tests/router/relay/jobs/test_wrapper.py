"""The wrapper's asynchronous routes on the router."""

import asyncio
from collections.abc import Awaitable, Callable

from router.ports import JobState
from tests.fakes.job_worker import workflow
from tests.fakes.router_world import ACCOUNT
from tests.router.relay.jobs.conftest import OTHER, TENANT, JobsWorld
from tests.router.relay.jobs.test_takeover import stored

Start = Callable[..., Awaitable[JobsWorld]]


async def test_a_job_is_accepted_done_and_shown_as_its_worker_told_it(world: JobsWorld) -> None:
    """202 with links on the router at once; the result under either name, once a worker is there."""
    job = await world.submit("a", name="mine")
    assert (job["id"], job["status"], job["message"], job["output"]) == ("mine", "pending", "Request accepted", [])
    assert job["status_url"] == f"{world.router.url}/result/{job['job_id']}" == world.headers["Location"]
    assert list(job["timings"]) == ["queued_at_ms"]
    status, shown = await world.get("/result/mine")
    assert (status, shown["status"]) == (200, "pending")
    book = await world.join()
    status, shown = await world.result(job)
    assert (status, shown["status"], shown["id"], shown["output"]) == (200, "completed", "mine", [{"text": "a"}])
    assert await world.get("/e/ep/result/mine") == (200, shown)
    (submitted, *_) = book.worker.heard
    assert submitted.ticket is not None
    assert (submitted.ticket.sub, submitted.ticket.request_idx > 0) == ("ep", True)
    assert book.done == ["a"]


async def test_what_the_job_is_to_blame_for_is_final(world: JobsWorld) -> None:
    """A failure, and a request that a worker finds wrong, are passed on with their status after one attempt."""
    book = await world.join()
    failed = await world.submit("bad", inputs={"fails": True})
    status, shown = await world.result(failed)
    assert (status, shown["status"], shown["message"]) == (500, "failed", "it failed")
    wrong = await world.call("/generate", {"input": {"workflow_json": {"7": {"class_type": "X", "inputs": {}}}}})
    status, shown = await world.result(wrong[1])
    assert (status, shown["error"]) == (422, "invalid_request")
    assert book.done == ["bad"]


async def test_a_failure_of_the_workers_own_is_tried_elsewhere(world: JobsWorld) -> None:
    """Three times at most; then it is a dead letter with what happened, and may be sent on its way again."""
    books = [await world.join(number) for number in (1, 2, 3)]
    job = await world.submit("bad", inputs={"fails": True, "again": True}, key=TENANT)
    status, shown = await world.result(job, key=TENANT)
    assert (status, shown["status"], shown["error"]) == (502, "failed", "engine_unreachable")
    assert [one["ended"] for one in shown["details"]["attempts"]] == ["it failed"] * 3
    assert [len(book.done) for book in books] == [1, 1, 1]
    for key, seen in ((TENANT, 1), (OTHER, 0), (ACCOUNT, 1)):
        _, letters = await world.get("/e/ep/relay/dead", key=key)
        assert len(letters["dead"]) == seen
    assert (await world.call(f"/relay/dead/{job['job_id']}/revive", key=OTHER))[0] == 404
    assert (await world.call(f"/relay/dead/{job['job_id']}/revive", key=TENANT))[0] == 200
    assert (await world.call(f"/relay/dead/{job['job_id']}/revive", key=TENANT))[0] == 404


async def test_cancelled_is_cancelled(world: JobsWorld) -> None:
    """Before a worker has it, and on one, which is told; whatever that still says."""
    waiting = await world.submit("w")
    status, told = await world.call(f"/cancel/{waiting['job_id']}")
    assert (status, told["status"]) == (200, "cancelled")
    assert told["message"] == f"Successfully cancelled request {waiting['job_id']}"
    assert (await world.result(waiting))[0] == 499
    book = await world.join()
    book.hold()
    running = await world.submit("r", name="run")
    while not book.jobs:
        await book.changed.wait()
    assert (await world.call("/cancel/run"))[1]["status"] == "cancelled"
    status, told = await world.result(running)
    assert (status, told["status"], told["error"]) == (499, "cancelled", "job_cancelled")
    (job,) = book.jobs.values()
    await job.over.wait()
    assert book.cancelled == ["run"]
    assert (await world.call("/cancel/run"))[1]["message"] == "Request run is already cancelled"
    assert await world.call("/cancel/none") == (404, {"error": "Request none not found"})


async def test_a_refusal_is_no_attempt(world: JobsWorld) -> None:
    """A full worker is passed by; one that can't be reached too."""
    full, good = await world.join(1, max_perf=1000.0), await world.join(2, max_perf=1.0)
    full.refuse = 429
    job = await world.submit("a")
    assert (await world.result(job))[0] == 200
    kept = await world.ground.jobs.get(job["job_id"])
    assert kept is not None
    assert [(one.worker, one.ended) for one in kept.attempts] == [("ep/2", "completed")]
    assert good.done == ["a"]


async def test_a_worker_that_forgot_the_job_costs_an_attempt(world: JobsWorld) -> None:
    """It is done elsewhere, or there again."""
    book = await world.join()
    book.hold()
    job = await world.submit("a")
    while not book.jobs:
        await book.changed.wait()
    other = await world.join(2)
    (lost,) = book.jobs.values()
    book.forget()
    lost.over.set()
    status, shown = await world.result(job)
    assert (status, shown["output"]) == (200, [{"text": "a"}])
    kept = await world.ground.jobs.get(job["job_id"])
    assert kept is not None
    assert [one.worker for one in kept.attempts] == ["ep/1", "ep/2"]
    assert other.done == ["a"]


async def test_an_idempotency_key_makes_one_job(world: JobsWorld) -> None:
    """409 with the job while it runs, its 202 again afterwards, 422 for another body; a tenant has keys of its own."""
    job = await world.submit("a", Idempotency_Key="k")
    status, told = await world.call("/generate", {"input": {"workflow_json": workflow("a")}}, Idempotency_Key="k")
    assert (status, told["error"], told["details"]["job_id"]) == (409, "job_conflict", job["job_id"])
    assert told["status_url"] == job["status_url"]
    await world.submit("b", Idempotency_Key="k", status=422)
    await world.submit("b", Idempotency_Key="k", key=TENANT)
    book = await world.join()
    await world.result(job)
    again = await world.submit("a", Idempotency_Key="k")
    assert (again["job_id"], again["status"]) == (job["job_id"], "completed")
    assert world.headers["Idempotency-Replayed"] == "true"
    assert book.done.count("a") == 1
    await world.submit("a", Idempotency_Key="k" * 256, status=422)


async def test_a_name_in_use_is_the_same_job_or_nobody_elses(world: JobsWorld) -> None:
    """The same request again is told of its job, another one of this name is refused; over, the name is free."""
    first = await world.submit("a", name="n")
    assert (await world.submit("a", name="n"))["job_id"] == first["job_id"]
    assert (await world.submit("b", name="n", status=409))["error"] == "job_conflict"
    assert (await world.submit("b", name="n", key=TENANT))["job_id"] != first["job_id"]
    await world.join()
    await world.result(first)
    second = await world.submit("b", name="n")
    await world.result(second)
    assert (await world.get("/result/n"))[1]["output"] == [{"text": "b"}]
    assert (await world.result(first))[1]["output"] == [{"text": "a"}]


async def test_tenants_see_their_own(world: JobsWorld) -> None:
    """The endpoint's key and the operator see all; a list has filters and pages."""
    mine = [await world.submit(f"m{number}", key=TENANT) for number in range(3)]
    await world.submit("m3", key=TENANT, status=503)  # as many as it may have waiting
    other = await world.submit("o", key=OTHER)
    assert (await world.result(mine[0], wait=0, key=OTHER))[0] == 404
    assert (await world.call(f"/cancel/{mine[0]['job_id']}", key=OTHER))[0] == 404
    assert (await world.result(mine[0], wait=0))[0] == 200
    _, page = await world.get("/jobs?limit=2", key=TENANT)
    assert [row["job_id"] for row in page["jobs"]] == [mine[2]["job_id"], mine[1]["job_id"]]
    _, page = await world.get(page["next"], key=TENANT)
    assert [row["job_id"] for row in page["jobs"]] == [mine[0]["job_id"]] and "next" not in page
    assert "tenant" not in page["jobs"][0]
    _, page = await world.get("/jobs?limit=3", key=TENANT)
    assert len(page["jobs"]) == 3 and "next" not in page
    _, page = await world.get("/jobs?tenant=other")
    assert [(row["job_id"], row["tenant"]) for row in page["jobs"]] == [(other["job_id"], "other")]
    assert (await world.get("/jobs?tenant=other", key=TENANT))[0] == 403
    _, page = await world.get("/jobs?status=queued")
    assert len(page["jobs"]) == 4
    assert (await world.get("/jobs?status=completed"))[1] == {"jobs": []}
    assert (await world.get("/jobs?status=strange"))[0] == 422
    _, info = await world.get("/queue-info")
    assert (info["waiting_count"], info["running_count"], info["generation_queue_size"]) == (4, 0, 4)
    assert info["expected_s"] is None


async def test_progress_is_the_workers(world: JobsWorld) -> None:
    """While it runs a caller sees what its worker says; and what is silent about it is no error."""
    book = await world.join()
    book.hold()
    job = await world.submit("a")
    while (answer := await world.result(job, wait=0))[1]["status"] != "generating":
        await asyncio.sleep(0)
    assert (answer[0], answer[1]["message"]) == (200, "it is generating")
    book.let.set()
    assert (await world.result(job))[1]["status"] == "completed"
    _, lean = await world.result(job, X_Include_ComfyUI_Response="0")
    assert lean["comfyui_response"] == {}


async def test_a_stopping_router_leaves_its_jobs_where_they_are(start: Start) -> None:
    """The next one goes on following what runs, and does what waits; nothing is run twice."""
    world = await start()
    book = await world.join()
    book.hold()
    running = await world.submit("r")
    while not book.jobs:
        await book.changed.wait()
    while (await world.ground.jobs.get(running["job_id"])).remote_id == "":  # type: ignore[union-attr]
        await asyncio.sleep(0)
    await world.stop()
    again = await start()
    kept = await again.ground.jobs.get(running["job_id"])
    assert kept is not None
    assert (kept.worker, bool(kept.remote_id)) == ("ep/1", True)
    await again.report(book)
    book.let.set()
    status, shown = await again.result(running)
    assert (status, shown["output"]) == (200, [{"text": "r"}])
    kept = await again.ground.jobs.get(running["job_id"])
    assert kept is not None
    assert (kept.state, len(kept.attempts), book.done) == (JobState.DONE, 1, ["r"])


async def test_prefer_respond_async_is_kept(world: JobsWorld) -> None:
    """A synchronous caller who can't wait long gets the result in time, or a link."""
    book = await world.join()
    body = {"input": {"workflow_json": workflow("a")}}
    status, told = await world.call("/generate/sync", body, Prefer="respond-async, wait=60")
    assert (status, told["output"]) == (200, [{"text": "a"}])
    book.hold()
    status, told = await world.call("/generate/sync", body, Prefer="respond-async, wait=0")
    assert (status, world.headers["Preference-Applied"]) == (202, "respond-async")
    book.let.set()
    assert (await world.result(told))[0] == 200


async def test_the_expected_wait_counts_what_the_store_has(world: JobsWorld) -> None:
    """Also what no router has begun with."""
    book = await world.join()
    book.hold()
    await world.submit("first")
    first = (await world.submit("second"))["expected_wait_s"]
    for number in range(500):
        await world.ground.jobs.add(stored(job_id=f"j{number}", request_id=f"n{number}"))
    behind = (await world.submit("last"))["expected_wait_s"]
    _, info = await world.get("/queue-info")
    assert behind > first + 0.1 and info["expected_wait_s"] > first + 0.1
    assert info["waiting_count"] >= 500 and info["expected_s"] > 0


async def test_requests_that_are_wrong_are_refused_at_once(world: JobsWorld) -> None:
    """In the wrapper's form."""
    for body in (b"{", b"[]", b"{}", b'{"input": {"request_id": "../x", "workflow_json": {"1": {}}}}'):
        status, told = await world.call("/generate", body)
        assert (status, told["error"], bool(told["detail"])) == (422, "invalid_request", True), body
    assert (await world.call("/generate", b"{}", Content_Type="text/plain"))[0] == 415
    assert (await world.call("/generate", b"{}", key="wrong-key-0123456789"))[0] == 401
    assert (await world.get("/result/x?wait=soon"))[0] in (404, 422)
