"""Tickets at a worker's door: beside signatures by default, instead of them where they are required."""

import time
from typing import Any

import pytest

from lib.protocol.ticket import new_ticket_key
from tests.fakes.vast_worker import URL, World
from tests.lib.dialects.vast.conftest import Build


def with_ticket(world: World, **changes: Any) -> dict[str, Any]:
    """The router's answer, with a ticket for its request."""
    auth = world.auth(**changes)
    issuer = new_ticket_key(world.router.key, now=time.time(), life_s=600)
    ticket = issuer.issue(url=URL, request_idx=auth["request_idx"], now=time.time(), life_s=300)
    return {**auth, "ticket": ticket}


@pytest.fixture
async def strict(build: Build) -> World:
    made: World = await build(tickets_required=True)
    return made


async def test_a_ticket_opens_without_a_signature(world: World) -> None:
    """Either is proof of a route."""
    assert (await world.work(auth=with_ticket(world, signature="none"))).status == 200


async def test_a_used_ticket_leaves_the_signature(world: World) -> None:
    """A client that keeps its auth_data is served as before."""
    auth = with_ticket(world)
    assert [(await world.work(auth=auth)).status for _ in range(2)] == [200, 200]


async def test_a_signature_is_not_enough_where_tickets_are_required(strict: World) -> None:
    """It never ends, so a copy of it would be good for ever."""
    assert (await strict.work(auth=strict.auth())).status == 401


async def test_a_required_ticket_is_good_once(strict: World) -> None:
    """The copy of a request does not run again."""
    auth = with_ticket(strict)
    assert [(await strict.work(auth=auth)).status for _ in range(2)] == [200, 401]


async def test_a_session_needs_one_ticket(strict: World) -> None:
    """Its requests carry the auth_data that opened it, and no other."""
    auth = with_ticket(strict)
    created = await strict.post("/session/create", {"auth_data": auth, "payload": {}})
    assert created.status == 201
    session = created.body["session_id"]
    assert (await strict.work(auth=auth, session_id=session)).status == 200
    assert (await strict.work(auth=strict.auth(), session_id=session)).status == 401
    ended = await strict.post("/session/end", {"session_id": session, "session_auth": auth})
    assert ended.status == 200


async def test_results_need_no_new_ticket(strict: World) -> None:
    """A job's own token says whose it is."""
    auth = with_ticket(strict)
    accepted = await strict.post("/generate", strict.body(auth=auth))
    assert accepted.status == 202
    body = {"auth_data": auth, "payload": {"job_token": accepted.body["job_token"], "wait": 5}}
    assert (await strict.post(f"/result/{accepted.body['id']}", body)).status == 200
