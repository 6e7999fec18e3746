"""Salad's requests that nobody waits for."""

from typing import Any

from tests.fakes.job_worker import workflow
from tests.router.relay.jobs.conftest import JobsWorld


def asked(text: str = "a", **more: Any) -> dict[str, Any]:
    return {"prompt": workflow(text), "webhook_v2": "https://example.com/hook", **more}


async def test_a_request_with_a_webhook_is_answered_at_once(world: JobsWorld) -> None:
    """202 with the request and its id, without secrets; the result is there by this id."""
    credentials = [{"url_pattern": "https://x/**", "auth": {"type": "bearer", "token": "secret"}}]
    status, told = await world.call("/prompt", asked(credentials=credentials, s3={"bucket": "b"}))
    assert (status, told["status"], told["webhook_v2"]) == (202, "ok", "https://example.com/hook")
    assert told["prompt"] == workflow("a") and told["s3"] == {"bucket": "b"}
    assert told["credentials"] == [{"url_pattern": "https://x/**", "auth": {"type": "bearer"}}]
    name = told["id"]
    assert await world.get(f"/result/{name}") == (200, {"id": name, "status": "queued", "progress": 0.0})
    book = await world.join()
    status, shown = await world.get(f"/result/{name}?wait=60")
    assert (status, shown["id"], shown["status"], shown["images"]) == (200, name, "completed", ["a"])
    (submitted, *_) = book.worker.heard
    assert submitted.path == "/relay/prompt" or submitted.path == "/prompt"
    assert b"secret" in submitted.body


async def test_the_callers_own_id_counts(world: JobsWorld) -> None:
    """And what was cancelled says so."""
    status, told = await world.call("/e/ep/prompt", asked(id="mine"))
    assert (status, told["id"]) == (202, "mine")
    assert (await world.call("/cancel/mine"))[0] == 200
    status, shown = await world.get("/result/mine")
    assert (status, shown["status"], shown["code"]) == (500, "cancelled", "job_cancelled")
    assert (await world.call("/prompt", asked(id="mine")))[0] == 202
