"""By which base URL a caller reaches us."""

import asyncio

import pytest
from aiohttp.test_utils import make_mocked_request

from lib.serving.links import BASE_URL, base_url_of


@pytest.mark.parametrize(
    ("configured", "host", "wanted"),
    [
        ("https://worker.example/base/", "x", "https://worker.example/base"),
        (None, "worker.lan:18288", "http://worker.lan:18288"),
        ("", "[::1]:3000", "http://[::1]:3000"),
        (None, "", "http://127.0.0.1:80"),
        (None, "a/b?c", "http://127.0.0.1:80"),
        (None, "a@b", "http://127.0.0.1:80"),
        (None, "a:1:2", "http://127.0.0.1:80"),
        (None, 'x"><script>', "http://127.0.0.1:80"),
    ],
)
def test_the_configured_one_wins(configured: str | None, host: str, wanted: str) -> None:
    """Else as the request named us; what can't be a host never gets into a link: it is the address called then."""
    wire = asyncio.Transport({"sockname": ("127.0.0.1", 80)})
    request = make_mocked_request("GET", "/", headers={"Host": host}, transport=wire)
    assert base_url_of(request, configured) == wanted


def test_a_callers_own_base_goes_before_it() -> None:
    """He comes through a router, which is where his links lead."""
    request = make_mocked_request("GET", "/", headers={"Host": "x"})
    request[BASE_URL] = "https://router.example/w/ep/1/"
    assert base_url_of(request, "https://worker.example") == "https://router.example/w/ep/1"
