"""The process as a whole, over loopback: who sees what, what parts add, how it stops, what survives."""

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from lib.errors import Overloaded
from lib.lifecycle import Tasks
from lib.serving.access import Need
from lib.serving.payloads import json_response
from router.app import Router
from router.parts import Ground, Part, PartBuilder
from router.ports import News, NewsKind
from router.registry import record_of
from router.settings import RouterSettings
from tests.fakes.router_world import ACCOUNT, KEY, TOKEN

Start = Callable[..., Any]


class Running:
    """A router that runs, and what it was built from."""

    def __init__(self, router: Router, said: list[str], http: aiohttp.ClientSession, task: asyncio.Task[int]) -> None:
        self.router = router
        self.said = said
        self.task = task
        self._http = http

    async def get(self, path: str, *, key: str = "", **headers: str) -> tuple[int, Any]:
        if key:
            headers["Authorization"] = f"Bearer {key}"
        async with self._http.get(self.router.url + path, headers=headers) as response:
            is_json = response.content_type == "application/json"
            return response.status, await response.json() if is_json else await response.text()

    async def stop(self) -> int:
        self.router.stop()
        return await self.task


class Listening:
    """A part that shows the ground it stands on, and holds one route."""

    def __init__(self) -> None:
        self.ground: Ground
        self.stopped = False

    async def __call__(self, ground: Ground, stack: AsyncExitStack) -> Part:
        self.ground = ground
        return Part(
            name="held",
            routes=[web.get("/hold", self._hold), web.get("/full", self._full)],
            needs={"/hold": Need.FREE, "/full": Need.FREE},
            health=lambda: {"well": True},
            stop=self._stop,
        )

    async def _hold(self, request: web.Request) -> web.Response:
        dispatcher = self.ground.dispatcher
        ask = dispatcher.learning.ask("held", endpoint="ep", arrived_at=self.ground.clock.monotonic(), cost=100)
        given = await dispatcher.assign(ask, wait_s=30)
        return json_response({"worker": given.worker if given else None})

    async def _full(self, request: web.Request) -> web.Response:
        raise Overloaded("Too many.", retry_after_s=7)

    async def _stop(self) -> None:
        self.stopped = True

    async def report(self, worker_id: int, **changes: Any) -> None:
        report = {"id": worker_id, "version": "1.1.0", "loadtime": 1.0, "max_perf": 100.0, "cur_load": 0.0} | changes
        report.setdefault("url", f"http://127.0.0.1:{worker_id}")
        place = self.ground.endpoints.place(worker_id, token=TOKEN)
        now = self.ground.clock.now().timestamp()
        record = record_of(report, worker_id=worker_id, place=place, now=now, previous=None)
        await self.ground.dispatcher.heard(record)


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start routers on free ports, with one endpoint ``ep``; all are stopped in the end."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        tasks = await stack.enter_async_context(Tasks())

        async def begin(*parts: PartBuilder, **changes: Any) -> Running:
            options = {
                "port": 0,
                "state_dir": tmp_path,
                "account_keys": ACCOUNT,
                "worker_tokens": TOKEN,
                "endpoints": f'[{{"name": "ep", "api_key": "{KEY}"}}]',
                "open_page": False,
                "stale_s": 300.0,
            }
            said: list[str] = []
            listening = asyncio.Event()

            def say(text: str) -> None:
                said.append(text)
                listening.set()

            router = Router(RouterSettings(**options | changes), parts=parts, say=say)
            task = tasks.spawn(router.run(), name="router")
            waiting = tasks.spawn(listening.wait(), name="listening")
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            running = Running(router, said, http, task)
            stack.push_async_callback(running.stop)
            return running

        yield begin


async def test_strangers_hear_that_it_is_well_and_no_more(start: Start) -> None:
    """Endpoints and figures are the operator's."""
    running = await start()
    status, body = await running.get("/health")
    assert (status, set(body)) == (200, {"version", "status", "ready"})
    assert (await running.get("/healthz"))[0] == 200
    assert (await running.get("/ready"))[0] == 200
    assert (await running.get("/metrics"))[0] == 401
    assert (await running.get("/metrics", key=KEY))[0] == 403


async def test_the_operator_sees_health_and_metrics(start: Start) -> None:
    """Workers by condition, capacity, what waits."""
    part = Listening()
    running = await start(part)
    await part.report(1)
    _, body = await running.get("/health", key=ACCOUNT)
    assert body["endpoints"]["ep"]["ready_workers"] == 1
    assert body["held"] == {"well": True}
    _, text = await running.get("/metrics", key=ACCOUNT)
    assert 'pyrouter_workers{condition="ready",endpoint="ep"} 1.0' in text
    assert 'pyrouter_capacity{endpoint="ep"} 100.0' in text
    assert "pyrouter_worker_reports_total 1.0" in text


async def test_an_open_page_lets_everybody_look_but_no_foreign_page(start: Start) -> None:
    """Looking needs no key on loopback; a page that another site shows gets nothing."""
    running = await start(open_page=True)
    assert (await running.get("/metrics"))[0] == 200
    status, body = await running.get("/metrics", Host="evil.example.org")
    assert status == 403 and "ROUTER_ALLOWED_HOSTS" in body["message"]
    assert (await running.get("/metrics", Origin="https://evil.example.org"))[0] == 403
    assert (await running.get("/metrics", key="wrong-key-0123456789"))[0] == 401


async def test_requests_are_explained_to_whom_they_belong(start: Start) -> None:
    """To the operator and the endpoint's key, not to strangers."""
    part = Listening()
    running = await start(part)
    await part.report(1)
    assert (await running.get("/hold"))[1] == {"worker": "ep/1"}
    status, body = await running.get("/explain/held", key=KEY)
    assert status == 200 and body["worker"] == "ep/1" and body["candidates"]
    assert (await running.get("/explain/held", key=ACCOUNT))[0] == 200
    assert (await running.get("/explain/held"))[0] == 401
    assert (await running.get("/explain/other", key=ACCOUNT))[0] == 404


async def test_who_can_explain_a_request_of_another_router_is_told(start: Start) -> None:
    """To the operator and the endpoint's key: whose request it was is not known here, so that no tenant hears of it."""
    part, tenant = Listening(), "tenant-key-0123456789"
    endpoint = {"name": "ep", "api_key": KEY, "tenants": [{"name": "studio", "api_keys": [tenant]}]}
    running = await start(part, endpoints=json.dumps([endpoint, {"name": "two", "api_key": "key-of-two-0123456789"}]))
    given = {"request_id": "77", "worker": "ep/9", "endpoint": "ep", "at": 1.0, "cost": 100.0, "size": 100.0}
    news = News(kind=NewsKind.ASSIGNED, origin="r2", body=given)
    while "details" not in (told := (await running.get("/explain/77", key=ACCOUNT)))[1]:
        await part.ground.state.tell(news)
    assert (told[0], told[1]["details"]) == (404, {"replica": "r2", "worker": "ep/9"})
    assert "r2" in (await running.get("/explain/77", key=KEY))[1]["message"]
    for key in (tenant, "key-of-two-0123456789"):
        status, body = await running.get("/explain/77", key=key)
        assert status == 404 and "r2" not in str(body)


async def test_errors_have_their_status_and_retry_time(start: Start) -> None:
    """By the one table of the services."""
    running = await start(Listening())
    status, body = await running.get("/full")
    assert status == 429 and body["error"] == "overloaded"


async def test_a_stop_tells_who_waits_to_come_again(start: Start) -> None:
    """Nobody's connection is just cut."""
    part = Listening()
    running = await start(part)
    async with asyncio.TaskGroup() as group:
        held = group.create_task(running.get("/hold"))
        while not len(part.ground.dispatcher.desk("ep").queue):
            await asyncio.sleep(0)
        assert await running.stop() == 0
    assert held.result() == (200, {"worker": None})
    assert part.stopped


async def test_what_was_learned_survives_a_restart(start: Start) -> None:
    """Sizes of jobs, and the numbers that were given."""
    part = Listening()
    running = await start(part)
    learning = part.ground.core.learning
    for _ in range(20):
        learning.sizes.observe("ep/100", seconds=4.0, speed=100.0, prior=100.0)
    learning.changed = True
    first = await part.ground.state.next_number("request_idx")
    await running.stop()
    again = Listening()
    await start(again)
    assert again.ground.core.learning.sizes.size("ep/100", prior=100.0).median == pytest.approx(400, rel=0.05)
    assert await again.ground.state.next_number("request_idx") > first
    assert again.ground.signing.public_pem == part.ground.signing.public_pem


async def test_the_greeting_says_what_workers_and_clients_need(start: Start) -> None:
    """Keys that we made are in it; those that the operator chose are not."""
    running = await start(endpoints=None, account_keys=None, worker_tokens=None)
    text = running.said[0]
    assert f"REPORT_ADDR={running.router.url}/e/default" in text
    assert "MASTER_TOKEN=" in text and "API key" in text
    await running.stop()
    chosen = await start()
    assert ACCOUNT not in chosen.said[0] and TOKEN not in chosen.said[0]


async def test_a_variable_that_is_none_of_ours_is_told(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With the one that may be meant; its value may be a secret, so it is not said."""
    monkeypatch.setenv("ROUTER_ACOUNT_KEYS", "hunter2")
    await start()
    (told,) = [record for record in caplog.records if getattr(record, "event", "") == "settings.unknown"]
    assert (told.variable, told.meant) == ("ROUTER_ACOUNT_KEYS", "ROUTER_ACCOUNT_KEYS")  # type: ignore[attr-defined]
    assert "hunter2" not in str(vars(told))


async def test_a_taken_port_is_named(start: Start, tmp_path: Path) -> None:
    """With the setting that moves it; loops of parts that never began are closed."""
    running, loop = await start(), asyncio.sleep(3600)

    async def looping(ground: Ground, stack: AsyncExitStack) -> Part:
        return Part(name="looping", loops={"loop": loop})

    port = int(running.router.url.rpartition(":")[2])
    with pytest.raises(OSError, match="ROUTER_PORT"):
        await start(looping, port=port, state_dir=tmp_path / "second")
    assert inspect.getcoroutinestate(loop) == inspect.CORO_CLOSED


async def test_an_address_of_somebody_else_is_named(start: Start) -> None:
    """With the setting."""
    with pytest.raises(OSError, match="ROUTER_HOST"):
        await start(host="192.0.2.1")
