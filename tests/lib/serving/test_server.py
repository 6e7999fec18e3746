"""Listeners: ports, TLS, probes."""

import asyncio
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from lib.serving.payloads import json_response
from lib.serving.server import Listener, PortTaken, tls_context

from .conftest import site_with


async def fine(request: web.Request) -> web.Response:
    """A handler that works."""
    return json_response({})


async def test_a_taken_port_is_passed_over_only_when_asked() -> None:
    """With next_free the next free port is bound and told; without, the start fails and says what to set."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with Listener(site_with().app, name="a", host="127.0.0.1", port=port, next_free=True) as listener:
            assert listener.port > port
            assert listener.url == f"http://127.0.0.1:{listener.port}"
        with pytest.raises(PortTaken, match=rf"^the a listener can't have port {port}: .* SOME_PORT"):
            async with Listener(site_with().app, name="a", host="127.0.0.1", port=port, setting="SOME_PORT"):
                pass


async def test_a_listener_is_gone_after_its_context() -> None:
    """The port can be bound again at once."""
    async with Listener(site_with().app, name="a", host="127.0.0.1", port=0) as first:
        port = first.port
    async with Listener(site_with().app, name="a", host="127.0.0.1", port=port) as second:
        assert second.port == port


async def test_an_address_that_is_not_ours_fails() -> None:
    """Other errors than a taken port are not retried; the setting is named."""
    for host in ("192.0.2.1", "no host"):
        with pytest.raises(OSError, match=rf"{host}, port 1024: .*; change SOME_HOST"):
            async with Listener(
                site_with().app, name="a", host=host, port=1024, next_free=True, host_setting="SOME_HOST"
            ):
                pass


async def test_every_address_is_that_of_both_protocols() -> None:
    """Clients of IPv4 and of IPv6 reach the one port of ``::``; nobody else can take either of them meanwhile."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("this host has no IPv6")
    async with Listener(site_with(web.get("/", fine)).app, name="a", host="::", port=0) as listener:
        assert listener.url == f"http://127.0.0.1:{listener.port}"
        async with aiohttp.ClientSession() as client:
            for host in ("127.0.0.1", "[::1]"):
                async with client.get(f"http://{host}:{listener.port}/") as answer:
                    assert answer.status == 200
        with pytest.raises(OSError, match="another program listens there"):
            async with Listener(site_with().app, name="b", host="::", port=listener.port):
                pass
        async with Listener(site_with().app, name="b", host="::", port=listener.port, next_free=True) as other:
            assert other.port > listener.port


async def test_where_there_is_no_ipv6_every_address_is_that_of_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container without IPv6 starts all the same with the usual HOST of comfyui-api."""
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    listener = Listener(site_with(web.get("/", fine)).app, name="a", host="::", port=0)
    async with listener, aiohttp.ClientSession() as client, client.get(f"{listener.url}/") as answer:
        assert answer.status == 200


async def test_tls_is_spoken_with_the_files_given(tmp_path: Path) -> None:
    """A client that trusts the certificate gets through; the URL says https."""
    certificate, key = self_signed(tmp_path)
    tls = tls_context(certificate, key)
    async with Listener(site_with(web.get("/", fine)).app, name="a", host="127.0.0.1", port=0, tls=tls) as listener:
        trust = ssl.create_default_context(cafile=str(certificate))
        async with aiohttp.ClientSession() as client, client.get(f"{listener.url}/", ssl=trust) as answer:
            assert answer.status == 200
            assert listener.url.startswith("https://127.0.0.1:")
    await all_closed()


async def all_closed() -> None:
    """TLS ends in both directions, which takes the loop longer than those who close it."""
    open_files = asyncio.get_running_loop()._selector.get_map()  # type: ignore[attr-defined]
    with suppress(TimeoutError):
        async with asyncio.timeout(5):
            while len(open_files) > 1:  # its own is left
                await asyncio.sleep(0)


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1 and its key."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "instance.crt", folder / "instance.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths
