"""Callers reach public hosts only, whatever the spelling."""

import ipaddress

import pytest

from lib.errors import UnsafeInput
from lib.settings import SettingsError
from lib.storage.guard import AddressGuard, is_public, parse_allowed, system_lookup

PRIVATE = [
    *("0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.8.8.8", "169.254.169.254"),
    *("172.31.0.1", "192.168.1.1", "192.0.0.192", "192.0.2.1", "198.18.0.1", "203.0.113.9", "224.0.0.1"),
    *("239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16", "::", "::1", "::127.0.0.1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1"),
    *("2002:7f00:1::", "2002:a00:1::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2001:0:1::"),
    *("2001:db8::1", "100::1", "5f00::1"),
]
PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8"),
    *("2002:808:808::", "64:ff9b::808:808"),
]


@pytest.mark.parametrize("text", PRIVATE)
def test_special_addresses_are_not_public(text: str) -> None:
    """Private, reserved, multicast and metadata addresses, and IPv6 forms that carry them, are refused."""
    assert not is_public(ipaddress.ip_address(text))
    host = f"[{text}]" if ":" in text else text
    with pytest.raises(UnsafeInput) as caught:
        AddressGuard().check_url(f"http://{host}/x")
    assert caught.value.details["reason"] == "private_address"


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_pass(text: str) -> None:
    """Ordinary addresses pass, in every form."""
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.com/x", "scheme"),
        ("file:///etc/passwd", "invalid_url"),
        ("gopher://example.com/", "scheme"),
        ("//example.com/x", "scheme"),
        ("http:///x", "invalid_url"),
        ("http://user:pw@example.com/", "userinfo"),
        ("http://user@example.com/", "userinfo"),
        ("http://a@b@example.com/", "userinfo"),
        ("http://example.com\\@10.0.0.1/", "invalid_url"),
        ("http://example.com\r\nHost: x/", "invalid_url"),
        ("http://example.com:99999/", "invalid_url"),
        ("http://[::1", "invalid_url"),
        (f"http://{'a' * 64}.com/", "invalid_url"),
        pytest.param("http://example.com/" + "x" * 70_000, "invalid_url", id="long"),
        (f"http://{'a.' * 127}com/", "invalid_url"),
        ("http://2130706433/", "invalid_host"),
        ("http://127.1/", "invalid_host"),
        ("http://0x7f000001/", "invalid_host"),
        ("http://0177.0.0.1/", "invalid_host"),
        ("http://127.0.0.0x1/", "invalid_host"),
        ("http://127.0.0.1./", "private_address"),
        ("http://127。0。0。1/", "private_address"),
        ("http://[fe80::1%25eth0]/", "private_address"),
        ("http://8.8.8.8:22/", "port"),
        ("http://8.8.8.8:445/", "port"),
    ],
)
def test_odd_urls_are_refused(url: str, reason: str) -> None:
    """Other schemes, credentials, odd spellings of addresses and service ports are refused, each by its name."""
    with pytest.raises(UnsafeInput) as caught:
        AddressGuard().check_url(url)
    assert caught.value.details["reason"] == reason


def test_an_encoded_url_stays_as_it_is() -> None:
    """Escapes in a signed query are not rewritten; spaces and letters outside ASCII are encoded."""
    guard = AddressGuard()
    assert str(guard.check_url("https://h.example/a%20b?s=x%2Fy%2B%3D&t=a+b")) == (
        "https://h.example/a%20b?s=x%2Fy%2B%3D&t=a+b"
    )
    assert str(guard.check_url(" https://h.example/a b/ä.png ")) == "https://h.example/a%20b/%C3%A4.png"


def test_every_address_of_a_name_is_vetted() -> None:
    """One private address among public ones refuses the name."""
    guard = AddressGuard(lookup=lambda host, port: ["8.8.8.8", "10.0.0.1"])
    with pytest.raises(UnsafeInput) as caught:
        guard.resolve("mixed.example", 443)
    assert caught.value.details == {"reason": "private_address", "host": "mixed.example"}
    assert AddressGuard(lookup=lambda host, port: ["8.8.8.8", "::ffff:1.1.1.1"]).resolve("ok.example", 443)


def test_service_ports_are_refused_by_name_too() -> None:
    """A public host on a port under 1024 other than 80 and 443 is refused."""
    guard = AddressGuard(lookup=lambda host, port: ["8.8.8.8"])
    with pytest.raises(UnsafeInput):
        guard.resolve("mail.example", 25)
    assert guard.resolve("web.example", 8443) == ["8.8.8.8"]


def test_the_allow_list_lifts_the_rule_for_what_it_names() -> None:
    """Hosts, hosts with a port, addresses and networks may be listed; nothing else is opened by it."""
    guard = AddressGuard(
        allow=["minio.lan:9000", "nas.lan", "10.1.0.0/16", "[fd00::5]:81", "192.168.0.9:8080"],
        lookup=lambda host, port: ["192.168.0.7"],
    )
    assert guard.resolve("MINIO.lan.", 9000) == ["192.168.0.7"]
    assert guard.resolve("nas.lan", 22) == ["192.168.0.7"]
    for url in ("http://10.1.2.3/", "http://[::ffff:10.1.2.3]/", "http://[fd00::5]:81/", "http://192.168.0.9:8080/"):
        assert guard.check_url(url)
    with pytest.raises(UnsafeInput):
        guard.resolve("minio.lan", 9001)
    with pytest.raises(UnsafeInput):
        guard.resolve("other.lan", 9000)
    for url in ("http://10.2.0.1/", "http://[fd00::5]/", "http://192.168.0.9/"):
        with pytest.raises(UnsafeInput):
            guard.check_url(url)


@pytest.mark.parametrize("entry", ["http://x/", "10.0.0.0/99", "a b", ""])
def test_a_bad_allow_list_stops_the_start(entry: str) -> None:
    """What can't be read is named, with its variable."""
    with pytest.raises(SettingsError, match="FETCH_ALLOW_HOSTS"):
        parse_allowed(entry)


def test_the_list_is_called_by_its_name() -> None:
    """The router's is another one than the worker's: in what stops the start, and in what a caller is told."""
    with pytest.raises(SettingsError, match="OTHER_HOSTS='a b'"):
        AddressGuard(allow=["a b"], setting="OTHER_HOSTS")
    for url in ("http://10.0.0.1/", "http://8.8.8.8:22/"):
        with pytest.raises(UnsafeInput, match="may list it in OTHER_HOSTS"):
            AddressGuard(setting="OTHER_HOSTS").check_url(url)


def test_own_urls_are_exact() -> None:
    """Only the very URL is ours, not its neighbours."""
    guard = AddressGuard(own_urls=["http://localhost:3001/session/end"])
    assert guard.is_own("http://localhost:3001/session/end")
    for url in ("http://localhost:3001/session/end?x=1", "http://localhost:3001/", "http://localhost:3002/session/end"):
        assert not guard.is_own(url)


def test_the_system_finds_localhost() -> None:
    """The real look-up gives numeric addresses."""
    assert "127.0.0.1" in system_lookup("localhost", 80)


def test_a_name_that_can_not_be_asked_for_is_one_that_is_not_there() -> None:
    """Python's resolver has an error of its own for labels that are too long or empty."""
    for host in ("a" * 64 + ".example", "a..example"):
        with pytest.raises(OSError, match="no such host name"):
            system_lookup(host, 443)
