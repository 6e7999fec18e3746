"""``/route/`` as clients see it."""

import asyncio
import json

import pytest

from lib.protocol.auth import SignatureForm, load_public_key, verify
from tests.fakes.router_world import ACCOUNT, KEY
from tests.router.wire.conftest import OTHER_KEY, TENANT, Start, Talk


async def test_without_a_worker_the_answer_is_waiting(talk: Talk) -> None:
    """200, a number that stays, and no ``url``, by which the SDK knows READY."""
    first = await talk.route(request_idx=0)
    assert set(first) == {"endpoint", "status", "request_idx", "__request_id"}
    assert first["endpoint"] == "ep" and "none" in first["status"] and first["request_idx"] > 0
    again = await talk.route(request_idx=first["request_idx"])
    assert again["request_idx"] == first["request_idx"]


async def test_a_worker_is_named_and_signed_for(talk: Talk) -> None:
    """The six keys that workers want, and the trace id; the signature fits the key of ``/pubkey/``."""
    await talk.report(1)
    answer = await talk.route(cost=250)
    assert {name: answer[name] for name in ("url", "cost", "endpoint")} == {
        "url": "http://127.0.0.1:40001",
        "cost": 250,
        "endpoint": "ep",
    }
    assert answer["request_idx"] > 0 and answer["reqnum"] > 0 and answer["__request_id"]
    key = load_public_key((await talk("/e/ep/pubkey/", method="GET")).encode())
    assert verify(SignatureForm.D, answer, key)


@pytest.mark.parametrize(
    ("version", "form"), [(None, SignatureForm.B), ("0.2.0", SignatureForm.C), ("1.1.0", SignatureForm.D)]
)
async def test_the_signature_is_of_the_workers_age(talk: Talk, version: str | None, form: SignatureForm) -> None:
    """Also over JSON: the figures are signed as they are sent."""
    await talk.report(1, version=version)
    answer = await talk.route(cost=100.0)
    key = load_public_key((await talk("/pubkey/", method="GET")).encode())
    assert verify(form, json.loads(json.dumps(answer)), key)


async def test_requests_are_numbered_for_each_worker(talk: Talk) -> None:
    """Dense and growing, as workers of old want it."""
    await talk.report(1, slots=2, engines=2)
    first, second = await talk.route(), await talk.route()
    assert second["reqnum"] == first["reqnum"] + 1
    assert first["request_idx"] != second["request_idx"]


async def test_workers_of_ours_get_a_ticket_too(talk: Talk) -> None:
    """Good once; stock workers get none."""
    await talk.report(1, slots=1)
    assert (await talk.route())["ticket"].startswith("v1.")
    await talk.report(2)
    assert "ticket" not in await talk.route()


async def test_who_was_let_down_does_not_spin_on_a_dead_worker(talk: Talk) -> None:
    """The SDK comes back at once and for ever; the same worker is not named again."""
    await talk.report(1)
    first = await talk.route()
    assert "url" in first
    answers = [await talk.route(request_idx=first["request_idx"]) for _ in range(20)]
    assert not any("url" in answer for answer in answers)
    assert {answer["request_idx"] for answer in answers} == {first["request_idx"]}


async def test_a_waiting_request_is_held_until_there_is_a_worker(start: Start) -> None:
    """No poll is needed: the answer comes when the worker does."""
    talk = await start(route_wait_s=9.0)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(talk.route())
        while (await talk("/health", method="GET", key=ACCOUNT))["endpoints"]["ep"]["waiting"] != 1:
            assert not waiting.done()
        await talk.report(1)
    assert waiting.result()["url"] == "http://127.0.0.1:40001"


@pytest.mark.parametrize("key", [KEY, ACCOUNT, TENANT])
async def test_every_key_of_the_endpoint_routes(talk: Talk, key: str) -> None:
    """By the header alone, too."""
    assert "request_idx" in await talk("/route/", {"endpoint": "ep"}, key=key)


async def test_a_key_of_one_endpoint_needs_not_name_it(talk: Talk) -> None:
    """It says enough."""
    assert (await talk("/route/", {}, key=KEY))["endpoint"] == "ep"


@pytest.mark.parametrize(
    ("body", "key", "status"),
    [
        ({"endpoint": "ep"}, "", 401),
        ({"endpoint": "ep"}, "wrong-key-0123456789", 401),
        ({"endpoint": "ep"}, OTHER_KEY, 404),
        ({"endpoint": "nowhere"}, ACCOUNT, 404),
        ([], KEY, 400),
    ],
)
async def test_whom_it_turns_away(talk: Talk, body: object, key: str, status: int) -> None:
    """With ``error`` as text."""
    answer = await talk("/route/", body, key=key, status=status)
    assert isinstance(answer["error"], str) and answer["error"]


@pytest.mark.parametrize(
    "fields", [{"cost": None}, {"cost": "x"}, {"cost": -1}, {"request_idx": "x"}, {"replay_timeout": -3}]
)
async def test_nonsense_in_the_figures_stops_nobody(talk: Talk, fields: dict[str, object]) -> None:
    """Any other answer than 200 would end the SDK's request."""
    assert (await talk.route(**fields))["request_idx"] > 0
