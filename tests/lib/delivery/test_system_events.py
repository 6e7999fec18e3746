"""lib.delivery.system_events: envelope, signature, order, patience and bounds. The target is a real server."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook

from lib.clock import Clock, SystemClock
from lib.delivery import system_events
from lib.delivery.schedules import Schedule, short
from lib.delivery.system_events import SEQUENCE, SystemEvents, event_names
from lib.lifecycle import Tasks
from lib.settings import DeliverySettings, SaladSettings, SettingsError
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from tests.fakes.clock import FakeClock
from tests.fakes.http_hosts import Seen, WebHost

SECRET = "whsec_dGVzdHNlY3JldHRlc3RzZWNyZXQ="
AT_ONCE = replace(short(3), waits_s=(0.0, 0.0), persistent=True)


class RealTime(FakeClock):
    """Waits end at once."""

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(0)


def progress(value: int, *, prompt_id: str = "job", node: str = "3") -> dict[str, Any]:
    return {"type": "progress", "data": {"value": value, "max": 9, "prompt_id": prompt_id, "node": node}}


def executed(prompt_id: str = "job") -> dict[str, Any]:
    return {"type": "executed", "data": {"node": "9", "output": {"images": []}, "prompt_id": prompt_id}}


@dataclass
class Bench:
    host: WebHost
    stack: AsyncExitStack
    path: str = "/hook"

    async def events(
        self,
        names: tuple[str, ...] = ("all",),
        *,
        schedule: Schedule = AT_ONCE,
        metadata: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        running: bool = True,
        most_bytes: int = system_events.MOST_BYTES,
    ) -> SystemEvents:
        http = await self.stack.enter_async_context(GuardedHttp(AddressGuard()))
        tasks = await self.stack.enter_async_context(Tasks())
        made = SystemEvents(
            self.host.url(self.path),
            events=names,
            metadata=metadata or {},
            secret=SECRET,
            http=http,
            schedule=schedule,
            clock=clock or RealTime(),
            most_bytes=most_bytes,
        )
        if running:
            tasks.spawn(made.run(), name="events")
        return made

    async def seen(self, count: int) -> list[Seen]:
        async with asyncio.timeout(60):
            while len(self.host.seen) < count:
                self.host.arrived.clear()
                await self.host.arrived.wait()
        return self.host.seen

    def told(self) -> list[str]:
        return [str(orjson.loads(seen.body)["event"]) for seen in self.host.seen]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with WebHost() as host, AsyncExitStack() as stack:
        yield Bench(host, stack)


async def test_a_message_goes_out_whole_in_its_envelope(bench: Bench) -> None:
    """Event, the message as ComfyUI sent it, the operator's metadata; signed so that the usual library verifies it."""
    events = await bench.events(metadata={"batch": "abc", "salad_machine_id": "m"}, clock=None)
    message = executed() | {"sid": "s"}
    events.heard("executed", message)
    [seen] = await bench.seen(1)
    assert orjson.loads(seen.body) == {
        "event": "comfy.executed",
        "data": message,
        "metadata": {"batch": "abc", "salad_machine_id": "m"},
    }
    assert seen.method == "POST" and seen.headers["Content-Type"] == "application/json"
    assert seen.headers[SEQUENCE] == "1"


async def test_it_is_signed(bench: Bench) -> None:
    """By the Standard Webhooks library's own reading, with the time of the first attempt."""
    events = await bench.events(clock=SystemClock())
    events.heard("executed", executed())
    [seen] = await bench.seen(1)
    assert Webhook(SECRET).verify(seen.body, seen.headers)


async def test_storage_events_show_no_secret(bench: Bench) -> None:
    """A URL's query may be its signature, its user a password; a file without a known URL is called unknown."""
    events = await bench.events()
    url = "https://user:pw@host.example/a/m.safetensors?sig=secret#f"
    events.downloaded(url=url, local_path="/models/m.safetensors", size_bytes=3, duration_s=1.5)
    events.uploaded(url="s3://b/k.png", local_path="/out/k.png", size_bytes=4, duration_s=0.5)
    events.deleted(url=None, local_path="/models/m.safetensors", size_bytes=3)
    seen = await bench.seen(3)
    assert [orjson.loads(one.body)["data"] for one in seen] == [
        {
            "url": "https://host.example/a/m.safetensors",
            "local_path": "/models/m.safetensors",
            "size": 3,
            "duration": 1.5,
        },
        {"url": "s3://b/k.png", "local_path": "/out/k.png", "size": 4, "duration": 0.5},
        {"url": "unknown", "local_path": "/models/m.safetensors", "size": 3},
    ]
    assert bench.told() == ["storage.file_downloaded", "storage.file_uploaded", "storage.file_deleted"]


async def test_only_events_that_were_asked_for_are_sent(bench: Bench) -> None:
    """Others are not even wanted."""
    events = await bench.events(("comfy.executed", "file_deleted"))
    assert events.wants("executed") and not events.wants("progress") and not events.wants("logs")
    events.heard("progress", progress(1))
    events.downloaded(url="http://h/a", local_path="/a", size_bytes=1, duration_s=1)
    events.heard("executed", executed())
    await bench.seen(1)
    assert bench.told() == ["comfy.executed"]


async def test_figures_of_a_slow_target_are_told_by_their_newest(bench: Bench) -> None:
    """Progress of one node replaces itself where it waits; of other jobs and nodes it does not; order is kept."""
    events = await bench.events(running=False)
    events.heard("status", {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 1}}}})
    events.heard("progress", progress(1))
    events.heard("progress", progress(1, prompt_id="other"))
    events.heard("progress", progress(2))
    events.heard("executed", executed())
    events.heard("progress", progress(1, node="4"))
    events.heard("status", {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}}})
    tasks = await bench.stack.enter_async_context(Tasks())
    tasks.spawn(events.run(), name="late")
    seen = await bench.seen(5)
    assert bench.told() == ["comfy.progress", "comfy.progress", "comfy.executed", "comfy.progress", "comfy.status"]
    bodies = [orjson.loads(one.body)["data"]["data"] for one in seen]
    assert (bodies[0]["prompt_id"], bodies[1]["value"], bodies[3]["node"]) == ("other", 2, "4")
    assert [one.headers[SEQUENCE] for one in seen] == ["3", "4", "5", "6", "7"]


async def test_a_failed_event_is_tried_again_before_the_next(bench: Bench) -> None:
    """Same id, same time, same body; then the order goes on."""
    bench.host.statuses = [500, 404]
    events = await bench.events()
    events.heard("executed", executed("a"))
    events.heard("executed", executed("b"))
    seen = await bench.seen(4)
    assert len({one.headers["webhook-id"] for one in seen[:3]}) == 1
    assert len({(one.body, one.headers["webhook-signature"]) for one in seen[:3]}) == 1
    assert orjson.loads(seen[3].body)["data"]["data"]["prompt_id"] == "b"


async def test_an_event_that_is_given_up_does_not_stop_the_others(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """After so many attempts; the log says so once."""
    bench.host.statuses = [500] * 6
    events = await bench.events()
    with caplog.at_level(logging.WARNING):
        for name in ("a", "b", "c"):
            events.heard("executed", executed(name))
        seen = await bench.seen(7)
    assert orjson.loads(seen[6].body)["data"]["data"]["prompt_id"] == "c"
    assert [record.message for record in caplog.records] == ["system event lost"]


async def test_too_many_waiting_events_lose_the_oldest(bench: Bench) -> None:
    """Memory is bounded in number and in bytes."""
    events = await bench.events(running=False)
    for number in range(system_events.MOST_WAITING + 5):
        events.heard("executed", executed(str(number)))
    tasks = await bench.stack.enter_async_context(Tasks())
    tasks.spawn(events.run(), name="late")
    seen = await bench.seen(1)
    assert seen[0].headers[SEQUENCE] == "6"


async def test_too_many_waiting_bytes_lose_the_oldest(bench: Bench) -> None:
    """An event that is over the bound by itself goes, too."""
    events = await bench.events(running=False, most_bytes=1000)
    for size in (600, 700, 10, 100, 2000):
        events.heard("executed", executed("x" * size))
    events.heard("executed", executed())
    tasks = await bench.stack.enter_async_context(Tasks())
    tasks.spawn(events.run(), name="late")
    [seen] = await bench.seen(1)
    assert seen.headers[SEQUENCE] == "6"


async def test_what_json_cannot_say_is_left_out(bench: Bench) -> None:
    """A node's own numbers; the socket's loop goes on."""
    events = await bench.events()
    events.heard("executed", {"type": "executed", "data": {"output": 1 << 70}})
    events.heard("executed", executed())
    [seen] = await bench.seen(1)
    assert seen.headers[SEQUENCE] == "2"


def test_names_are_checked_at_start() -> None:
    """The error lists those that there are; one that is listed twice counts once."""
    assert "progress_state" in event_names(("all",)) and len(event_names(("all",))) == 13
    with pytest.raises(SettingsError, match=r"SYSTEM_WEBHOOK_EVENTS=message: .*execution_success, file_deleted"):
        event_names(("status", "message"))


@pytest.mark.parametrize("url", ["ftp://h/x", "h/x", "http://", "http://[::1"])
def test_a_target_that_is_no_url_stops_the_start(url: str) -> None:
    """Only http and https are spoken."""
    salad = SaladSettings(system_webhook_url=url, system_webhook_events=("all",))
    with pytest.raises(SettingsError, match="SYSTEM_WEBHOOK_URL"):
        system_events.system_events(salad, DeliverySettings(), http=GuardedHttp(AddressGuard()), clock=FakeClock())


@pytest.mark.parametrize(
    ("salad", "delivery"),
    [
        ({"system_webhook_url": "http://h/x"}, {}),
        ({"system_webhook_events": ("all",)}, {}),
        ({"system_webhook_url": "http://h/x", "system_webhook_events": ("all",)}, {"salad_webhook_attempts": 0}),
    ],
)
async def test_nothing_is_sent_unless_asked_for(salad: dict[str, Any], delivery: dict[str, Any]) -> None:
    """No target, no events, or no attempts."""
    found = system_events.system_events(
        SaladSettings(**salad), DeliverySettings(**delivery), http=GuardedHttp(AddressGuard()), clock=FakeClock()
    )
    assert found is None


async def test_settings_become_events(bench: Bench) -> None:
    """Salad's own secret wins over the webhook's; what SaladCloud says goes with each event."""
    http = await bench.stack.enter_async_context(GuardedHttp(AddressGuard()))
    salad = SaladSettings(
        system_webhook_url=bench.host.url("/hook"),
        system_webhook_events=("executed",),
        system_metadata={"k": "v"},
        machine_id="m",
    )
    delivery = DeliverySettings(salad_webhook_secret=SecretStr(SECRET), webhook_secret=SecretStr("other"))
    events = system_events.system_events(salad, delivery, http=http, clock=SystemClock())
    assert events is not None
    tasks = await bench.stack.enter_async_context(Tasks())
    tasks.spawn(events.run(), name="events")
    events.heard("executed", executed())
    [seen] = await bench.seen(1)
    assert Webhook(SECRET).verify(seen.body, seen.headers)
    assert orjson.loads(seen.body)["metadata"] == {"k": "v", "salad_machine_id": "m"}
