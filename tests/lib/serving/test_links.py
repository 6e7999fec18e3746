"""By which base URL a caller reaches us."""

import asyncio

import pytest
from aiohttp.test_utils import make_mocked_request

from lib.serving.links import base_url_of


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
