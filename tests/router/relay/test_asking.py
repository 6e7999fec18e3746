"""Salad's questions that name no worker."""

import json

from aiohttp import web

from lib.serving.payloads import json_response
from tests.fakes.relay_worker import dying
from tests.router.relay.conftest import TENANT, World


async def interrupted(request: web.Request, body: bytes) -> web.StreamResponse:
    """It has the request that is called mine."""
    known = json.loads(body)["id"] == "mine"
    return json_response({"interrupted": "success" if known else "failed"}, status=200 if known else 404)


async def strange(request: web.Request, body: bytes) -> web.StreamResponse:
    """It knows nothing."""
    return json_response({"interrupted": "failed"}, status=404)


async def models(request: web.Request, body: bytes) -> web.StreamResponse:
    """It has one."""
    return json_response({"checkpoints": ["a.safetensors"]})


async def test_whoever_has_a_request_stops_it(world: World) -> None:
    """All who speak Salad's dialect are asked, for the tenant; who is gone is no trouble."""
    await world.join(1, strange)
    await world.join(2, dying)
    mine = await world.join(3, interrupted)
    other = await world.join(4, interrupted, dialects=["wrapper"])
    async with world.call("/interrupt", {"id": "mine"}, key=TENANT) as response:
        assert (response.status, await response.json()) == (200, {"interrupted": "success"})
    async with world.call("/e/ep/interrupt", {"id": "unknown"}) as response:
        assert (response.status, await response.json()) == (404, {"interrupted": "failed"})
    assert [heard.ticket.sub for heard in mine.heard if heard.ticket] == ["ep/studio", "ep"] and not other.heard


async def test_models_are_those_of_a_worker_that_answers(world: World) -> None:
    """Of the first; without any the caller is told to come again."""
    async with world.call("/models", method="GET") as response:
        assert response.status == 503 and (await response.json())["statusCode"] == 503
    await world.join(1, dying)
    await world.join(2, models)
    async with world.call("/models", method="GET") as response:
        assert (response.status, await response.json()) == (200, {"checkpoints": ["a.safetensors"]})
