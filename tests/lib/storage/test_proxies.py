"""Proxies: who goes through one, who never does, and what the guard still sees."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import ClientHttpProxyError
from yarl import URL

from lib.errors import StorageFailed, UnsafeInput
from lib.settings import SaladSettings, StorageSettings
from lib.storage.azure import AzureAccount, AzureStores
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from lib.storage.proxies import Proxies
from lib.storage.s3 import S3Place, S3Stores
from tests.fakes.http_hosts import Names, WebHost, png
from tests.fakes.put_store import S3Stub
from tests.peers.azure.azurite import CONTAINER, AzureServer
from tests.s3_fixture import S3Server


def proxies(**settings: object) -> Proxies:
    return Proxies.from_settings(StorageSettings.model_validate(settings))


@pytest.mark.parametrize(
    ("url", "direct", "goes"),
    [
        ("http://a.example/x", (), True),
        ("https://a.example/x", (), True),
        ("http://a.example/x", ("*",), False),
        ("http://a.example/x", ("example",), False),
        ("http://a.example/x", (".example",), False),
        ("http://a.example/x", ("*.example",), False),
        ("http://aexample/x", ("example",), True),
        ("http://a.example:81/x", ("a.example:80",), True),
        ("http://a.example:81/x", ("a.example:81",), False),
        ("http://A.Example./x", ("a.example",), False),
        ("http://10.1.2.3/x", ("10.0.0.0/8",), False),
        ("http://10.1.2.3/x", ("10.1.2.3",), False),
        ("http://11.1.2.3/x", ("10.0.0.0/8", "3"), True),
        ("http://[2001:4860::1]/x", ("2001:4860::/32",), False),
        ("http://[2001:4860::1]:8080/x", ("[2001:4860::1]:8080",), False),
        ("http://localhost:8188/", (), False),
        ("http://a.localhost/", (), False),
        ("http://127.0.0.1:8188/", (), False),
        ("http://[::1]/", (), False),
        ("http://169.254.169.254/latest", (), False),
        ("http://[fe80::1]/", (), False),
        ("http://168.63.129.16/", (), False),
    ],
)
def test_who_goes_through(url: str, direct: tuple[str, ...], goes: bool) -> None:
    """All but NO_PROXY, this machine and metadata services."""
    found = proxies(http_proxy="http://px:3128", no_proxy=direct).for_(URL(url))
    assert found == (URL("http://px:3128") if goes else None)


def test_which_proxy() -> None:
    """Each scheme has its own; HTTP_PROXY alone is for both, HTTPS_PROXY alone for https. No password is shown."""
    both = proxies(http_proxy="http://u:hush@a:1", https_proxy="http://b:2")
    assert (both.for_(URL("http://x.com")), both.for_(URL("https://x.com"))) == (
        URL("http://u:hush@a:1"),
        URL("http://b:2"),
    )
    secure = proxies(https_proxy="http://b:2")
    assert (secure.for_(URL("http://x.com")), secure.for_(URL("https://x.com"))) == (None, URL("http://b:2"))
    assert Proxies().for_(URL("http://x.com")) is None
    assert "hush" not in repr(both)


@asynccontextmanager
async def through(proxy: WebHost, guard: AddressGuard) -> AsyncIterator[GuardedHttp]:
    async with GuardedHttp(guard, proxies=proxies(http_proxy=f"http://u:p@127.0.0.1:{proxy.port}")) as http:
        yield http


async def test_everything_outside_goes_through(tmp_path: Path) -> None:
    """Fetches, uploads and webhooks, also to names that only the proxy can look up; the proxy itself is the operator's
    and needs no leave."""
    path = tmp_path / "a"
    path.write_bytes(b"content")
    async with WebHost(files={"/a.png": (png(), "image/png")}) as proxy:
        guard = AddressGuard(lookup=Names(files_example=[["93.184.216.34"]]))
        async with through(proxy, guard) as http:
            async with http.stream("http://files.example/a.png") as response:
                assert await response.read() == png()
            async with http.stream("http://unknown.example/to?http://files.example/a.png") as response:
                assert await response.read() == png()
            await http.put("http://unknown.example/k", path=path, headers={}, timeout_s=5)
            await http.post("http://unknown.example/hook", body=b"x", headers={}, timeout_s=5)
            async with http.stream("http://operators.lan/a.png", trusted=True) as response:
                assert await response.read() == png()
        asked = [(seen.method, seen.headers["Host"]) for seen in proxy.seen]
    assert asked == [
        ("GET", "files.example"),
        ("GET", "unknown.example"),
        ("GET", "files.example"),
        ("PUT", "unknown.example"),
        ("POST", "unknown.example"),
        ("GET", "operators.lan"),
    ]
    assert all(seen.headers["Proxy-Authorization"].startswith("Basic ") for seen in proxy.seen)


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/x",
        "http://[fd00::1]/x",
        "http://inner.example/x",
        "http://redis/x",
        "http://metadata.google.internal/x",
        "http://unknown.example:25/x",
        "http://files.example/to?http://10.0.0.1/x",
        "http://files.example/to?http://redis/x",
    ],
)
async def test_what_is_private_is_not_asked_for(url: str) -> None:
    """By its address, by what our own name server says of it, or by its name; the first hop and later ones."""
    names = Names(files_example=[["93.184.216.34"]], inner_example=[["10.0.0.1"]])
    async with WebHost() as proxy:
        async with through(proxy, AddressGuard(lookup=names)) as http:
            with pytest.raises(UnsafeInput):
                async with http.stream(url):
                    pass
        assert [seen.headers["Host"] for seen in proxy.seen] == (["files.example"] if "/to?" in url else [])


async def test_what_the_operator_vouches_for_may_be_private() -> None:
    """The list lifts the rule, as without a proxy."""
    names = Names(inner_example=[["10.0.0.1"]])
    async with WebHost(files={"/a.png": (png(), "image/png")}) as proxy:
        async with through(proxy, AddressGuard(allow=["inner.example", "redis"], lookup=names)) as http:
            for host in ("inner.example", "redis"):
                async with http.stream(f"http://{host}/a.png") as response:
                    assert await response.read() == png()
        assert len(proxy.seen) == 2


async def test_this_machine_is_reached_directly() -> None:
    """Our own session URL, and what the operator allows here, never meet the proxy."""
    async with WebHost() as proxy, WebHost(files={"/a.png": (png(), "image/png")}) as host:
        guard = AddressGuard(allow=["127.0.0.1"], own_urls=[f"http://localhost:{host.port}/hook"])
        async with through(proxy, guard) as http:
            async with http.stream(host.url("/a.png")) as response:
                assert await response.read() == png()
            await http.post(f"http://localhost:{host.port}/hook", body=b"", headers={}, timeout_s=5)
        assert not proxy.seen
        assert len(host.seen) == 2


async def test_https_goes_through_a_tunnel() -> None:
    """The proxy is told the host and sees nothing of the request."""
    told: list[bytes] = []

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(tunnel, "127.0.0.1", 0)
    async with server:
        proxy = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with GuardedHttp(AddressGuard(lookup=Names()), proxies=proxies(http_proxy=proxy)) as http:
            with pytest.raises(ClientHttpProxyError):
                async with http.stream("https://files.example/x", private={"Authorization": "hush"}):
                    pass
    assert told[0].startswith(b"CONNECT files.example:443 ")
    assert b"hush" not in told[0]


@pytest.mark.parametrize("trusted", [True, False])
async def test_s3_goes_the_same_way(tmp_path: Path, trusted: bool) -> None:
    """The operator's place and a caller's; of a caller's the guard sees what it can."""
    path = tmp_path / "a"
    path.write_bytes(b"content")
    place = S3Place(
        bucket_name="bkt",
        access_key_id="k",
        secret_access_key="s",
        endpoint_url="http://s3.example",
        attempts=1,
        trusted=trusted,
    )
    async with S3Stub() as proxy:
        found = proxies(http_proxy=proxy.url, no_proxy=("direct.example",))
        names = Names(s3_example=[["93.184.216.34"]], inner_example=[["10.0.0.1"]], direct_example=[["10.0.0.1"]])
        async with S3Stores(guard=AddressGuard(lookup=names), proxies=found) as stores:
            await stores.at(place).publish(path, key="k", mime_type="a/b", expires_s=60)
            if not trusted:
                for inner in ("http://inner.example", "http://direct.example"):
                    with pytest.raises(StorageFailed) as caught:
                        await stores.at(replace(place, endpoint_url=inner)).publish(
                            path, key="k", mime_type="a/b", expires_s=60
                        )
                    assert caught.value.details["reason"] == "UnsafeEndpoint"
        assert proxy.asked == 1
        assert proxy.headers[0]["Host"] == "s3.example"


async def test_a_proxy_of_the_environment_is_for_nobody_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nanio_server: S3Server, azurite_server: AzureServer
) -> None:
    """The storages' own clients would send loopback through it; ours are told by the settings alone."""
    path = tmp_path / "a"
    path.write_bytes(b"content")
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    place = S3Place(
        bucket_name="outputs",
        access_key_id=nanio_server.access_key_id,
        secret_access_key=nanio_server.secret_access_key,
        endpoint_url=nanio_server.endpoint_url,
        trusted=True,
    )
    account = AzureAccount.from_settings(
        SaladSettings.model_validate({"azure_connection_string": azurite_server.connection_string})
    )
    assert account is not None
    found = proxies(http_proxy="http://127.0.0.1:9")
    async with S3Stores(guard=AddressGuard(), proxies=found) as s3, AzureStores(account, proxies=found) as azure:
        await s3.at(place).publish(path, key="proxied", mime_type="a/b", expires_s=60)
        await azure.at(CONTAINER).publish(path, key="proxied", mime_type="a/b", expires_s=60)
