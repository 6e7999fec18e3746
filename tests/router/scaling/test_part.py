"""The part in a router over loopback: figures for autoscalers, updates, bad settings; the operator's script."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from lib.lifecycle import Tasks
from lib.settings import SettingsError
from router.scaling.part import scaling
from router.wire import wire
from tests.comfyui_fixture import free_port
from tests.fakes.router_world import ACCOUNT, KEY, TOKEN
from tests.router.wire.conftest import TENANT, Talk, begun

ENDPOINT: dict[str, Any] = {
    "name": "ep",
    "id": 1,
    "api_key": KEY,
    "min_load": 250,
    "target_util": 1.0,
    "groups": [{"name": "g", "id": 11}],
    "tenants": [{"name": "studio", "api_keys": [TENANT]}],
}
Start = Callable[..., Awaitable[Talk]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start routers with one endpoint ``ep``."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        tasks = await stack.enter_async_context(Tasks())

        async def begin(*, endpoint: dict[str, Any] | None = None, **changes: Any) -> Talk:
            options: dict[str, Any] = {
                "state_dir": tmp_path / "state",
                "endpoints": json.dumps([ENDPOINT | (endpoint or {})]),
                "open_page": False,
                "scaling_every_s": 0.2,
            }
            return await begun(stack, tasks, http, parts=(wire, scaling), **options | changes)

        yield begin


async def until(condition: Callable[[], Awaitable[Any]], *, within_s: float = 120.0) -> Any:
    """Ask until it is true."""
    async with asyncio.timeout(within_s):
        while not (found := await condition()):
            await asyncio.sleep(0.05)
        return found


async def figures(talk: Talk) -> dict[str, Any]:
    """Once the router has looked."""

    async def asked() -> Any:
        async with talk.http.get(f"{talk.url}/scaling/ep", headers={"X-API-Key": KEY}) as response:
            return await response.json() if response.status == 200 else None

    found: dict[str, Any] = await until(asked)
    return found


async def test_autoscalers_read_flat_figures(start: Start) -> None:
    """A whole number of workers under a name; with the endpoint's key or the operator's."""
    talk = await start()
    await talk.report(1)
    told = await until(lambda: _with(talk, "ready_workers", 1))
    assert (told["desired_workers"], told["desired_capacity"], told["reason"]) == (3, 250.0, "min-load")
    everything = await talk("/scaling", method="GET", key=ACCOUNT)
    assert everything["endpoints"]["ep"]["desired_workers"] == 3 and everything["acts"] is True
    health = await talk("/health", method="GET", key=ACCOUNT)
    assert health["scaling"]["desired_workers"] == {"ep": 3}


async def _with(talk: Talk, name: str, value: Any) -> dict[str, Any] | None:
    told = await figures(talk)
    return told if told[name] == value else None


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        ("/scaling/ep", "", 401),
        ("/scaling/ep", "no-such-key-0123456789", 401),
        ("/scaling/ep", TENANT, 404),
        ("/scaling/none", KEY, 404),
        ("/scaling/none", ACCOUNT, 404),
        ("/scaling", KEY, 403),
    ],
)
async def test_figures_are_not_everybodys(start: Start, path: str, key: str, status: int) -> None:
    """Tenants see nothing of the fleet."""
    talk = await start()
    assert (await talk(path, method="GET", key=key, status=status))["error"]


@dataclass
class _Updatable:
    """A worker that takes updates, if it is shown the token."""

    url: str = ""
    asked: int = 0

    async def serve(self, stack: AsyncExitStack) -> None:
        app = web.Application()
        app.router.add_post("/pyworker/update", self._update)
        runner = web.AppRunner(app)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def _update(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401)
        self.asked += 1
        return web.json_response({"ok": True})


async def test_workers_are_told_to_update(start: Start) -> None:
    """Each by its own route and token; those that do not know it are named."""
    async with AsyncExitStack() as stack:
        worker = _Updatable()
        await worker.serve(stack)
        talk = await start()
        body = {"workergroup_id": 11, "api_key": ACCOUNT}
        nobody = await talk("/update_workers/", body)
        assert (nobody["success"], nobody["workers_to_update"], nobody["error_msg"]) == (True, 0, "")
        await talk.report(1, url=worker.url)
        await talk.report(2, url=f"http://127.0.0.1:{free_port()}")
        answer = await talk("/update_workers/", body)
        assert (answer["success"], answer["workers_to_update"], answer["cancelled"]) == (True, 1, False)
        assert "next start" in answer["error_msg"] and "2" in answer["error_msg"]
        assert worker.asked == 1
        cancelled = await talk("/update_workers/", {**body, "cancel_update": True})
        assert (cancelled["success"], cancelled["cancelled"]) == (True, True)
        await talk("/update_workers/", {"workergroup_id": 11, "api_key": KEY}, status=403)


SCRIPT = """
import json, pathlib, sys
asked = json.load(sys.stdin)
known = pathlib.Path(__file__).with_name("known.json")
instances = json.loads(known.read_text()) if known.exists() else []
with pathlib.Path(__file__).with_name("asked.jsonl").open("a") as out:
    out.write(json.dumps(asked) + chr(10))
if asked["action"] == "start":
    if asked["options"].get("broke"):
        sys.exit("out of money, the token is " + asked["environment"]["MASTER_TOKEN"])
    new = [{"id": 500 + len(instances) + place, "state": "running"} for place in range(asked["count"])]
    known.write_text(json.dumps(instances + new))
    print(json.dumps({"instances": new}))
elif asked["action"] == "list":
    print(json.dumps({"instances": instances}))
"""


def scripted(folder: Path, **options: Any) -> dict[str, Any]:
    """An endpoint whose workers a script starts."""
    script = folder / "fleet.py"
    script.write_text(SCRIPT)
    provider = {"kind": "command", "command": ["python3", str(script)], "list_every": 1, "options": options}
    return {"groups": [{"name": "g", "id": 11, "provider": provider}]}


async def test_the_operators_script_starts_workers(start: Start, tmp_path: Path) -> None:
    """It gets what a worker has to know, and is asked for as many as are missing."""
    talk = await start(endpoint=scripted(tmp_path, region="eu"))

    async def started() -> Any:
        told = await figures(talk)
        return len(told["groups"]["g"]["instances"]) == 3

    await until(started)
    asked = [json.loads(line) for line in (tmp_path / "asked.jsonl").read_text().splitlines()]
    (begun,) = [one for one in asked if one["action"] == "start"]
    assert (begun["count"], begun["endpoint"], begun["group"]) == (3, "ep", "g")
    assert begun["options"] == {"region": "eu"}
    assert begun["environment"] == {"REPORT_ADDR": f"{talk.url}/e/ep", "MASTER_TOKEN": TOKEN}


async def test_a_scripts_words_are_told_without_secrets(start: Start, tmp_path: Path) -> None:
    """Why there is no worker is seen; the token is not."""
    talk = await start(endpoint=scripted(tmp_path, broke=True))

    async def trouble() -> Any:
        return (await figures(talk))["groups"]["g"]["trouble"]

    words = await until(trouble)
    assert "out of money" in words and TOKEN not in words and "***" in words


@pytest.mark.parametrize(
    ("provider", "changes", "words"),
    [
        ({"kind": "vast", "image": "x"}, {}, "ROUTER_PUBLIC_URL"),
        ({"kind": "vast", "image": "x"}, {"public_url": "https://r.example.org"}, "ROUTER_SCALING_VAST_KEY"),
        ({"kind": "vast"}, {"public_url": "https://r.example.org", "vast_key": "k"}, "template_hash"),
        ({"kind": "local"}, {"worker_tokens": "sha256:" + "0" * 64}, "MASTER_TOKEN"),
        ({"kind": "cloud"}, {}, "kind"),
        ({"kind": "local", "places": 0}, {}, "places"),
        ({"kind": "command"}, {}, "command"),
    ],
)
async def test_a_provider_that_can_not_work_stops_the_start(
    start: Start, provider: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    """What is missing is named."""
    with pytest.raises(SettingsError, match=words):
        await start(endpoint={"groups": [{"name": "g", "provider": provider}]}, **changes)
