"""By which base URL a caller reaches us."""

import pytest
from aiohttp.test_utils import make_mocked_request

from lib.serving.links import base_url_of


@pytest.mark.parametrize(
    ("configured", "host", "wanted"),
    [
        ("https://worker.example/base/", "x", "https://worker.example/base"),
        (None, "worker.lan:18288", "http://worker.lan:18288"),
        ("", "[::1]:3000", "http://[::1]:3000"),
        (None, "a/b?c", "http://127.0.0.1"),
        (None, 'x"><script>', "http://127.0.0.1"),
    ],
)
def test_the_configured_one_wins(configured: str | None, host: str, wanted: str) -> None:
    """Else as the request named us; what can't be a host never gets into a link."""
    assert base_url_of(make_mocked_request("GET", "/", headers={"Host": host}), configured) == wanted
