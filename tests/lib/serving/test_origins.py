"""Web pages of others stay out."""

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from lib.errors import Forbidden
from lib.serving.origins import OriginPolicy
from lib.serving.payloads import json_response

from .conftest import Serve, site_with


def allowed(policy: OriginPolicy, method: str = "GET", **headers: str) -> bool:
    """Whether a request with these headers passes."""
    request = make_mocked_request(
        method, "/", headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    try:
        policy.check(request)
    except Forbidden:
        return False
    return True


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:18288", True),
        ("localhost:18288", True),
        ("LOCALHOST", True),
        ("localhost.", True),
        ("[::1]:18288", True),
        ("127.8.8.8", True),
        ("worker.localhost", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("192.168.1.5:18288", False),
        ("[::1", False),
        ("evil.example@127.0.0.1", False),
        ("127.0.0.1/x", False),
        ("127.0.0.1#", False),
        ('127.0.0.1:80"><x', False),
        ("", False),
    ],
)
def test_only_names_of_this_machine_are_answered(host: str, expected: bool) -> None:
    """A foreign name that points at 127.0.0.1 is not ours."""
    assert allowed(OriginPolicy(), Host=host) is expected


def test_hosts_can_be_added() -> None:
    """A container's name, any address, or everything."""
    assert allowed(OriginPolicy(hosts=["worker"]), Host="worker:18288")
    assert not allowed(OriginPolicy(any_address=True), Host="evil.example")
    assert allowed(OriginPolicy(any_address=True), Host="192.168.1.5:18288")
    assert allowed(OriginPolicy(hosts=["*"]), Host="evil.example")
    assert not allowed(OriginPolicy(hosts=["*"]), Host="evil.example/x")


def test_where_keys_are_asked_of_everybody_any_name_will_do() -> None:
    """A browser adds no key by itself, whatever name led it here; a page of another origin stays out all the same."""
    policy = OriginPolicy(any_name=True)
    assert allowed(policy, Host="lamp-post-1a2b.salad.cloud")
    assert allowed(policy, "POST", Host="lamp.salad.cloud", Origin="https://lamp.salad.cloud")
    assert not allowed(policy, "POST", Host="lamp.salad.cloud", Origin="https://evil.example")
    assert not allowed(policy, Host="evil.example/x") and not allowed(policy, Host="")


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://127.0.0.1:18288", True),
        ("http://127.0.0.1:3000", False),
        ("http://localhost:18288", False),
        ("https://evil.example", False),
        ("null", False),
        ("file://127.0.0.1:18288", False),
        ("", False),
    ],
)
def test_an_origin_must_be_ours(origin: str, expected: bool) -> None:
    """Only our own pages, on the address that was called."""
    assert allowed(OriginPolicy(), Host="127.0.0.1:18288", Origin=origin) is expected


def test_pictures_and_scripts_of_other_sites_are_refused_but_links_work() -> None:
    """A browser sends no Origin for them, but says so otherwise; following a link to the docs is fine."""
    host = {"Host": "localhost:1"}
    assert not allowed(OriginPolicy(), **host, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")
    assert allowed(OriginPolicy(), **host, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")
    assert not allowed(OriginPolicy(), "POST", **host, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")
    assert allowed(OriginPolicy(), **host, Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors")


def test_programs_send_neither() -> None:
    """No Host at all is no browser."""
    assert allowed(OriginPolicy())


async def test_the_policy_guards_every_route(serve: Serve) -> None:
    """Also paths that don't exist; the answer is JSON."""

    async def fine(request: web.Request) -> web.Response:
        return json_response({})

    served = await serve(site_with(web.get("/", fine), policy=OriginPolicy()))
    assert (await served.client.get("/")).status == 200
    for path in ("/", "/nothing"):
        refused = await served.client.get(path, headers={"Origin": "https://evil.example"})
        assert (refused.status, (await refused.json())["error"]) == (403, "forbidden")
