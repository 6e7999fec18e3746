"""The guarded client's own habits: names stay in TLS, no proxy, no cookies."""

import ssl
from pathlib import Path

import pytest
from aiohttp import ClientConnectorCertificateError, web

from lib.errors import UnsafeInput
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from tests.fakes.http_hosts import Names, WebHost, png
from tests.fakes.put_store import S3Stub
from tests.s3_fixture import make_certificate

GUARD = AddressGuard(allow=["127.0.0.1"], lookup=Names(files_example=[["127.0.0.1"]]))


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would connect in our place, past the guard."""
    async with WebHost() as proxy, WebHost(files={"/a.png": (png(), "image/png")}) as host:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url(""))
        monkeypatch.setenv("NO_PROXY", "")
        async with GuardedHttp(GUARD) as http, http.stream(host.url("/a.png", host="files.example")) as response:
            assert await response.read() == png()
        assert not proxy.seen


async def test_the_first_hop_is_checked_too() -> None:
    """A numeric loopback address is refused by the client itself; aiohttp would connect without a look-up."""
    async with WebHost() as host, GuardedHttp(AddressGuard()) as http:
        with pytest.raises(UnsafeInput):
            async with http.stream(host.url("/a.png")):
                pass
        with pytest.raises(UnsafeInput):
            await http.post(host.url("/hook"), body=b"", headers={}, timeout_s=5)
        with pytest.raises(UnsafeInput):
            await http.put(host.url("/hook"), path=Path(__file__), headers={}, timeout_s=5)
        assert not host.seen


async def test_tls_asks_for_the_name_although_the_address_is_pinned(tmp_path: Path) -> None:
    """The server sees the host's name (SNI), and its certificate is checked."""
    make_certificate(tmp_path / "crt", tmp_path / "key", name="files.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    asked: list[str | None] = []
    context.sni_callback = lambda connection, name, context: asked.append(name)
    runner = web.AppRunner(web.Application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        url = f"https://files.example:{runner.addresses[0][1]}/"
        async with GuardedHttp(GUARD) as http:
            with pytest.raises(ClientConnectorCertificateError):
                async with http.stream(url):
                    pass
    finally:
        await runner.cleanup()
    assert asked == ["files.example"]


async def test_a_post_tells_its_status_and_follows_nothing() -> None:
    """A redirect is an answer like any other; headers and body arrive."""
    async with WebHost(statuses=[201]) as host, GuardedHttp(GUARD) as http:
        assert await http.post(host.url("/hook"), body=b"x", headers={"A": "b"}, timeout_s=5) == 201
        assert await http.post(host.url("/to?/hook"), body=b"x", headers={}, timeout_s=5) == 302
    assert [(seen.path, seen.body) for seen in host.seen] == [("/hook", b"x"), ("/to", b"x")]
    assert host.seen[0].headers["A"] == "b"


async def test_a_put_streams_a_file_and_follows_nothing(tmp_path: Path) -> None:
    """Length and content arrive, the answer's beginning comes back; a redirect is an answer like any other."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    async with S3Stub([403, 302], body=b"why") as stub, GuardedHttp(GUARD) as http:
        assert await http.put(f"{stub.url}/k", path=path, headers={"A": "b"}, timeout_s=5) == (403, b"why")
        assert await http.put(f"{stub.url}/k", path=path, headers={}, timeout_s=5) == (302, b"why")
        with pytest.raises(FileNotFoundError):
            await http.put(f"{stub.url}/k", path=tmp_path / "gone", headers={}, timeout_s=5)
        assert await http.put(f"{stub.url}/k", path=path, headers={"Content-Type": "a/b"}, timeout_s=5) == (200, b"")
    assert stub.stored == {"/k": (b"content", "a/b")}
    assert stub.asked == 3
    assert (stub.headers[0]["A"], stub.headers[0]["Content-Length"]) == ("b", "7")
