"""``GET /page/events``: who may read it, what it tells, and that readers are bounded."""

from contextlib import AsyncExitStack
from typing import Any

import pytest

from router.page.watching import MOST_READERS
from router.ports import JobState, RelayJob
from tests.fakes.router_world import ACCOUNT, KEY
from tests.router.page.conftest import Build, House, news


async def until(told: Any, found: Any) -> dict[str, Any]:
    """The first piece of news for which ``found`` holds."""
    async for one in told:
        if found(one):
            return dict(one)
    raise AssertionError("it never came")


async def test_a_snapshot_then_what_changes(house: House) -> None:
    """A reader is told each thing once."""
    await house.report(1)
    await house.report(2)
    async with house.events() as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        told = news(stream)
        first = await anext(told)
        assert (first["kind"], first["names"], first["order"]) == ("snapshot", ["ep", "other"], ["ep/1", "ep/2"])
        assert (first["matching"], first["known"], first["degraded"], first["jobs"]) == (2, 2, None, None)
        assert [one["key"] for one in first["workers"]] == ["ep/1", "ep/2"]
        worker = await house.give("7")
        change = await until(told, lambda one: "decisions" in one)
        assert change["kind"] == "change" and "order" not in change and "names" not in change
        assert [one["key"] for one in change["workers"]] == [worker]
        assert [(one["id"], one["worker"], one["tenant"]) for one in change["decisions"]] == [("7", worker, "studio")]
        await house.give("8")
        change = await until(told, lambda one: "decisions" in one)
        assert [one["id"] for one in change["decisions"]] == ["8"]


async def test_a_reader_sees_what_it_chose(house: House) -> None:
    """And hears that others are there."""
    await house.report(1)
    await house.report(2, gpu_name="H100")
    async with house.events(q="h100") as stream:
        first = await anext(news(stream))
        assert (first["order"], first["matching"], first["known"]) == (["ep/2"], 1, 2)


async def test_figures_are_the_operators(build: Build) -> None:
    """Not strangers', not an endpoint's."""
    house: House = await build(open_page=False)
    for key, status in (("", 401), (KEY, 403), (ACCOUNT, 200)):
        async with house.events(key=key) as stream:
            assert stream.status == status
    async with house.http.get(f"{house.url}/page/events", params={"api_key": ACCOUNT}) as stream:
        assert stream.status == 200, "as all other routes"


async def test_another_sites_page_gets_nothing(house: House) -> None:
    """Where no key is asked for, a browser that was led here is turned away."""
    headers = {"Origin": "https://evil.example.org"}
    async with house.http.get(f"{house.url}/page/events", headers=headers) as stream:
        assert stream.status == 403


@pytest.mark.parametrize("query", [{"show": "everything"}, {"most": "9999999"}])
async def test_a_choice_that_makes_no_sense_is_told_so(house: House, query: dict[str, str]) -> None:
    """And no stream begins."""
    async with house.events(**query) as stream:
        assert stream.status == 422
        assert "must be" in (await stream.json())["message"]


async def test_readers_are_bounded(house: House) -> None:
    """One too many is asked to come later."""
    async with AsyncExitStack() as stack:
        for _ in range(MOST_READERS):
            stream = await stack.enter_async_context(house.events())
            await anext(news(stream))
        refused = await stack.enter_async_context(house.events())
        assert refused.status == 429 and "Retry-After" in refused.headers


async def test_a_router_that_stops_says_so(house: House) -> None:
    """The stream ends with a word, so that nobody waits for more."""
    async with house.events() as stream:
        told = news(stream)
        await anext(told)
        await house.stop()
        assert (await until(told, lambda one: one["kind"] == "stopping")) == {"kind": "stopping"}


async def test_totals_and_relayed_jobs_are_told(house: House) -> None:
    """As the metrics and the job store have them; of dead letters no word of what was asked."""
    await house.report(1)
    await house.give("7")
    await house.done("7")
    dead = {"state": JobState.DEAD, "reason": "two workers were lost", "finished_at": 5.0, "body": b"a secret"}
    for number, changes in enumerate(({}, dead)):
        fields: dict[str, Any] = {"job_id": f"j{number}", "request_id": str(number), "tenant": "studio", **changes}
        usual = {"endpoint": "ep", "dialect": "wrapper", "path": "/generate", "body": b"{}", "created_at": 1.0}
        job = RelayJob(**usual | fields)
        await house.ground.jobs.add(job)
    async with house.events() as stream:
        first = await anext(news(stream))
    assert first["totals"]["outcomes"] == {"success": 1}
    assert first["jobs"]["counts"] == {"waiting": 1, "dead": 1}
    (letter,) = first["jobs"]["dead"]
    assert (letter["id"], letter["reason"], letter["tenant"]) == ("j1", "two workers were lost", "studio")
    assert "secret" not in str(first)
