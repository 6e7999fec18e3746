"""Relayed requests: who they are, and what becomes of the router's number."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from lib.errors import InvalidRequest, Overloaded
from lib.fleet.ledger import Ledger
from lib.fleet.relay import PREFIX, RelayedJobs, TicketGate
from lib.jobs.model import JobSpec
from lib.protocol.auth import SignatureCheck
from lib.protocol.ticket import TICKET_HEADER, TicketCheck, TicketKey, new_ticket_key
from lib.serving.access import Need, caller_of
from lib.serving.application import Site
from lib.serving.links import base_url_of
from lib.serving.payloads import json_response
from lib.serving.server import Listener
from tests.fakes.clock import FakeClock
from tests.fakes.jobs import JobWorld, build_jobs, finished
from tests.fakes.jobs import spec as a_spec
from tests.fakes.vast_worker import SIGNER, shared_key

URL, BASE = "http://10.0.0.1:3000", "https://router/w/ep/1"


class Keys:
    """A key source."""

    keys = (shared_key().public_key(),)

    async def refresh(self) -> None: ...


@dataclass
class World:
    """Routes that submit, refuse and ask, below ``/relay`` of a listener."""

    jobs: JobWorld
    ledger: Ledger
    issuer: TicketKey
    http: aiohttp.ClientSession

    async def call(self, path: str, *, number: int = 0, sub: str = "ep/a", base: str = "", **query: str) -> Any:
        text = self.issuer.issue(url=URL, request_idx=number, now=time.time(), life_s=60, sub=sub, base=base)
        async with self.http.post(PREFIX + path, headers={TICKET_HEADER: text}, params=query) as response:
            return response.status, await response.json()

    @property
    def told(self) -> list[tuple[int, str]]:
        """What the router will be told of numbers that are free."""
        return [(item.request_idx, str(item.status)) for item in self.ledger.deleted(100)]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    clock = FakeClock()
    ledger = Ledger(clock=clock)
    jobs = build_jobs(clock=clock, ledger=ledger, in_flight=2, kind=RelayedJobs)
    check = SignatureCheck(keys=Keys(), forms=("D",), own_urls=[URL], check_url=True, unsecured=False)
    gate = TicketGate(tickets=TicketCheck(check), signer=SIGNER, ledger=ledger, cost=100.0, base_url=URL)
    public, relay = Site(max_body_bytes=1024), Site(max_body_bytes=1024, access=gate)
    paths = ["/submit", "/refuse", "/broken", "/ask", "/job/{job_id}", "/admin", "/link", "/free"]
    needs = dict.fromkeys(paths[:3], Need.SUBMIT) | {"/admin": Need.ADMIN, "/link": Need.LINK, "/free": Need.FREE}
    relay.mount([web.post(path, _answer(jobs)) for path in paths], owner="test", needs=needs)
    public.app.add_subapp(PREFIX, relay.app)
    async with AsyncExitStack() as stack:
        listener = await stack.enter_async_context(Listener(public.app, name="test", host="127.0.0.1", port=0))
        http = await stack.enter_async_context(aiohttp.ClientSession(listener.url))
        yield World(jobs, ledger, new_ticket_key(shared_key(), now=time.time(), life_s=600), http)
        await jobs.tasks.cancel()


def _answer(jobs: JobWorld) -> Any:
    def spec(request: web.Request) -> JobSpec:
        asked = request.query
        return a_spec(
            asked.get("name", "r"), owner=caller_of(request).tenant, cost=10.0, body_hash=asked.get("body", "")
        )

    async def answer(request: web.Request) -> web.Response:
        match request.path.removeprefix(PREFIX):
            case "/submit":
                return json_response({"id": (await jobs.service.submit(spec(request))).job_id})
            case "/refuse":
                return json_response({"id": (await jobs.service.refuse(spec(request), InvalidRequest("no"))).job_id})
            case "/broken":
                raise InvalidRequest("no")
        return json_response({"base": base_url_of(request, "http://configured")})

    return answer


async def test_a_job_has_the_routers_number(world: World) -> None:
    """It is in reports until the job is over, and told then as one of Vast's envelope is."""
    _, body = await world.call("/submit", number=7)
    job = await world.jobs.service.get(body["id"])
    assert (job.spec.tag, job.spec.owner) == (7, "ep/a")
    figures = world.ledger.figures()
    assert (figures.working_tags, figures.load, figures.seen_count) == ((7,), 10.0, 1)
    world.jobs.engine.finish()
    await finished(world.jobs, job)
    assert world.told == [(7, "Success")] and world.ledger.figures().working_tags == ()


async def test_a_cancelled_job_frees_its_number(world: World) -> None:
    """Whoever cancelled it."""
    _, body = await world.call("/submit", number=7)
    await world.jobs.service.cancel(body["id"], reason="enough")
    assert world.told == [(7, "Cancelled")]


@pytest.mark.parametrize(("path", "outcome"), [("/refuse", "Error"), ("/broken", "Error"), ("/ask", "Success")])
async def test_a_request_without_work_frees_its_number(world: World, path: str, outcome: str) -> None:
    """At once, and once."""
    await world.call(path, number=8)
    assert world.told == [(8, outcome)] and world.ledger.figures().load == 0.0


async def test_a_full_worker_says_so_by_number(world: World) -> None:
    """The router sends the next one elsewhere."""
    for number in (1, 2):
        assert (await world.call("/submit", number=number, name=f"n{number}"))[0] == 200
    assert (await world.call("/submit", number=3, name="n3"))[0] == 429
    assert world.told == [(3, "Rejected")]
    assert world.ledger.figures().since_report.rejected == 100.0


async def test_a_request_that_joins_a_job_ends_with_it(world: World) -> None:
    """Both numbers are free when the job is over; of a finished one the second is free at once."""
    _, body = await world.call("/submit", number=1)
    assert (await world.call("/submit", number=2))[1] == body
    assert world.ledger.figures().working_tags == (1, 2)
    world.jobs.engine.finish()
    await finished(world.jobs, await world.jobs.service.get(body["id"]))
    assert sorted(world.told) == [(1, "Success"), (2, "Success")]
    assert (await world.call("/submit", number=1))[1] == body, "the router's retry"
    assert world.told[-1] == (1, "Success")


async def test_a_retry_that_conflicts_does_not_free_the_number(world: World) -> None:
    """The job under it goes on; of another number the conflict is an error."""
    _, body = await world.call("/submit", number=1)
    assert [(await world.call("/submit", number=number, body="other"))[0] for number in (1, 2)] == [409, 409]
    assert world.told == [(2, "Error")]
    world.jobs.engine.finish()
    await finished(world.jobs, await world.jobs.service.get(body["id"]))
    assert world.told[1:] == [(1, "Success")]


async def test_numbers_stay_with_their_request(world: World) -> None:
    """The next one over the same connection has none, as no job of anybody else."""
    await world.call("/submit", number=7, name="first")
    _, body = await world.call("/submit", name="second")
    assert (await world.jobs.service.get(body["id"])).spec.tag is None


async def test_links_begin_where_the_ticket_says(world: World) -> None:
    """Else at the worker's public address; never at what is configured for the API listener."""
    assert (await world.call("/ask", base=BASE))[1] == {"base": BASE}
    assert (await world.call("/ask"))[1] == {"base": URL}


async def test_without_a_tenant_only_links_and_tokens_open_something(world: World) -> None:
    """What a route of direct mode gives is no API key."""
    assert (await world.call("/ask", sub=""))[0] == 401
    assert (await world.call("/submit", sub=""))[0] == 401
    assert [(await world.call(path, sub=""))[0] for path in ("/link", "/free")] == [200, 200]
    assert (await world.call("/job/j1", sub="", job_token=SIGNER.job_token("j2")))[0] == 401
    assert (await world.call("/job/j1", sub="", job_token=SIGNER.job_token("j1")))[0] == 200


async def test_nobody_is_an_operator(world: World) -> None:
    """Not even a router."""
    assert (await world.call("/admin"))[0] == 403


async def test_jobs_of_others_have_no_number(world: World) -> None:
    """Those of the API listener's, for example; a refusal raises what it raises there."""
    for name in ("a", "b"):
        assert (await world.jobs.service.submit(a_spec(name))).spec.tag is None
    with pytest.raises(Overloaded):
        await world.jobs.service.submit(a_spec("c"))
    assert world.told == []
