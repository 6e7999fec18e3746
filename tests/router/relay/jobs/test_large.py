"""Results that are larger than what the router keeps."""

from typing import Any

import pytest
from aiohttp import web

from router.ports import JobState, RelayJob
from tests.fakes.job_worker import workflow
from tests.fakes.relay_worker import dying
from tests.router.relay.jobs.conftest import JobsWorld, Start
from tests.router.relay.jobs.test_notices import Receiver, receiver

__all__ = ["receiver"]
KEPT = 65_536
LARGE = "x" * 400_000


@pytest.fixture
async def world(start: Start) -> JobsWorld:
    """A router that keeps little."""
    return await start(max_result_bytes=KEPT)


async def unkept(world: JobsWorld, name: str) -> RelayJob:
    """The record of a job that is done, and whose result is elsewhere."""
    job = await world.ground.jobs.get(name) or await world.ground.jobs.find(name, tenant="ep/")
    assert job is not None
    assert (job.state, job.result, job.reason, len(job.attempts)) == (JobState.DONE, None, "completed", 1)
    assert (await world.get("/relay/dead"))[1] == {"dead": []}
    return job


async def test_its_worker_tells_of_it_as_long_as_it_can(world: JobsWorld) -> None:
    """The job is done; its result comes through the router, is asked for again while the worker is silent, and gone
    with the worker's memory of it."""
    book = await world.join()
    job = await world.submit(LARGE)
    status, shown = await world.result(job)
    assert (status, shown["status"], shown["output"]) == (200, "completed", [{"text": LARGE}])
    await unkept(world, job["job_id"])
    assert [one["status"] for one in (await world.get("/jobs"))[1]["jobs"]] == ["completed"]
    behave, book.worker.behave = book.worker.behave, dying
    status, shown = await world.result(job)
    assert (status, shown["status"], world.headers["Retry-After"]) == (503, "pending", "5")
    book.worker.behave = behave
    assert (await world.result(job))[0] == 200
    book.forget()
    status, shown = await world.result(job)
    assert (status, shown["status"], shown["error"]) == (410, "failed", "output_not_found")
    assert book.done == [LARGE]


async def test_salads_webhook_is_the_workers_to_tell(world: JobsWorld, receiver: Receiver) -> None:
    """Nothing has failed: the router tells nobody of this job, and shows what the worker has."""
    book = await world.join()
    status, told = await world.call("/prompt", {"prompt": workflow(LARGE), "webhook_v2": receiver.url})
    assert status == 202
    status, shown = await world.get(f"/result/{told['id']}?wait=20")
    assert (status, shown["status"], shown["images"]) == (200, "completed", [LARGE])
    job = await unkept(world, told["id"])
    assert (job.hooked, job.notice_at, receiver.heard.empty()) == (True, 0.0, True)
    assert [b"webhook_v2" in one.body for one in book.jobs.values()] == [True]


async def test_a_caller_who_waits_gets_it_at_once(world: JobsWorld) -> None:
    """Also where he would have taken a link."""
    await world.join()
    body: dict[str, Any] = {"input": {"workflow_json": workflow(LARGE)}}
    status, shown = await world.call("/generate/sync", body, Prefer="respond-async, wait=20")
    assert (status, shown["output"]) == (200, [{"text": LARGE}])


async def test_runpods_clients_are_told_that_it_failed_and_why(world: JobsWorld, receiver: Receiver) -> None:
    """By the record and by webhook: no worker tells them of it; another try would make no difference."""
    book = await world.join()
    asked = {"input": {"workflow": workflow(LARGE)}, "webhook": receiver.url}
    name = (await world.call("/v2/ep/run", asked))[1]["id"]
    status, shown = await world.get(f"/v2/ep/status-sync/{name}?wait=20000")
    assert (status, shown["id"], shown["status"], shown["output"]["retryable"]) == (200, name, "FAILED", False)
    assert shown["error"] == f"The result is larger than {KEPT} bytes; ask for links to its files instead."
    _, body = await receiver.heard.get()
    assert shown["error"] in body.decode()
    assert book.done == [LARGE]


async def test_an_answer_to_a_submission_is_no_result(world: JobsWorld) -> None:
    """A worker that says so much before it has begun is strange; the job is done elsewhere."""

    async def wordy(request: web.Request, body: bytes) -> web.StreamResponse:
        return web.json_response({"id": "x", "job_id": "x", "status": "pending", "more": 5 * LARGE}, status=202)

    first = await world.join(1, max_perf=1000.0)
    first.worker.behave = wordy
    second = await world.join(2, max_perf=1.0)
    job = await world.submit("a")
    assert (await world.result(job))[0] == 200
    kept = await world.ground.jobs.get(job["job_id"])
    assert kept is not None
    assert [(one.worker, one.ended) for one in kept.attempts] == [
        ("ep/1", "its answer is strange"),
        ("ep/2", "completed"),
    ]
    assert second.done == ["a"]
