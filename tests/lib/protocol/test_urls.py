"""Which URLs mean the same worker."""

import pytest

from lib.protocol.urls import OwnUrls, normalise_url, public_url


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("HTTPS://Worker.Example:443/", "https://worker.example"),
        ("http://worker.example.:80", "http://worker.example/"),
        ("http://[2001:DB8:0::1]:3000", "http://[2001:db8::1]:3000/"),
        ("http://h/e/x/", "http://h:80/e/x"),
    ],
)
def test_spelling_does_not_matter(url: str, same: str) -> None:
    """Letter case, default port, trailing slash and dot make no difference."""
    assert normalise_url(url) == normalise_url(same)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://h:3000", "https://h:3000"),
        ("http://h:3000", "http://h:3001"),
        ("http://h", "http://h2"),
        ("http://h/a", "http://h/b"),
    ],
)
def test_scheme_port_host_and_path_matter(one: str, other: str) -> None:
    """Anything else is another worker."""
    assert other not in OwnUrls([one])
    assert one in OwnUrls([one])


@pytest.mark.parametrize(
    "url",
    ["", "h:3000", "ftp://h", "http://u:p@h", "http://h?x=1", "http://h#x", "http://h:99999", "http://[::1", "http://"],
)
def test_what_is_no_base_url_is_nobodys(url: str) -> None:
    """Never an exception on a caller's value, never a match."""
    assert url not in OwnUrls(["http://h"])
    with pytest.raises(ValueError):
        normalise_url(url)


def test_our_own_url_is_built_from_address_and_mapped_port() -> None:
    """IPv6 gets brackets; without an address there is no URL."""
    assert public_url("203.0.113.9", port=40001, use_ssl=True) == "https://203.0.113.9:40001"
    assert public_url("2001:db8::1", port=3000, use_ssl=False) == "http://[2001:db8::1]:3000"
    assert public_url(None, port=3000, use_ssl=False) == ""
