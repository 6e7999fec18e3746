"""Reading with rights, from the decision to the file: what hosts are told, what others get of it, what stays fresh."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lib.errors import InputFetchFailed
from lib.jobs.model import Credential
from lib.lifecycle import Tasks
from lib.settings import DeliverySettings, SaladSettings, StorageSettings
from lib.storage.downloads import Downloads
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from lib.storage.hugging_face import HubAccount
from lib.storage.local import ContentStore, Fetched
from lib.storage.operator_header import OperatorHeader
from lib.storage.operator_keys import SALAD, OperatorKeys
from lib.storage.sources import Sources
from tests.fakes.http_hosts import Names, png
from tests.fakes.keyed_host import KeyedHost

OWN = {"http_header_name": "Authorization", "http_header_value": "own hush", "http_header_hosts": ("127.0.0.1",)}


class Reading:
    """Sources and downloads together, as preparing a job of Salad's has them."""

    def __init__(self, sources: Sources, downloads: Downloads) -> None:
        self._sources = sources
        self._downloads = downloads

    async def __call__(self, url: str, *credentials: Credential) -> Fetched:
        source = self._sources.find(url, field="f", credentials=credentials, dialect=SALAD)
        return await self._downloads.fetch(source, field="f")

    async def refused(self, url: str, *credentials: Credential) -> object:
        with pytest.raises(InputFetchFailed) as caught:
            await self(url, *credentials)
        assert "hush" not in caught.value.message + repr(caught.value.details)
        return caught.value.details.get("status") or caught.value.details["reason"]


@asynccontextmanager
async def reading(folder: Path, **settings: object) -> AsyncIterator[Reading]:
    guard = AddressGuard(allow=["127.0.0.1", "other.example"], lookup=Names(other_example=[["127.0.0.1"]]))
    salad = SaladSettings.model_validate(settings)
    keys = OperatorKeys(settings=salad, header=OperatorHeader.from_settings(salad), hub=HubAccount.from_settings(salad))
    store = ContentStore(folder / "cache", quota_bytes=1 << 30)
    async with GuardedHttp(guard) as http, Tasks() as tasks:
        downloads = Downloads(store=store, http=http, settings=StorageSettings(), tasks=tasks, retry_wait_s=0.0)
        yield Reading(Sources(settings=DeliverySettings(), guard=guard, keys=keys), downloads)


def token(value: str) -> Credential:
    values = {"query_param": "token", "query_value": value}
    return Credential(kind="query", pattern="http://127.0.0.1:*/**", values=values, salad_pattern=True)


def bearer(value: str) -> Credential:
    values = {"Authorization": value}
    return Credential(kind="http", pattern="http://127.0.0.1:*/**", values=values, salad_pattern=True)


async def test_a_query_credential_is_told_to_the_host_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Beside the URL's own parameters; no redirect has it, no log, and nothing on our disk."""
    caplog.set_level(logging.DEBUG)
    async with KeyedHost(png()) as other, KeyedHost(png(), keys={"hush"}) as host, reading(tmp_path) as read:
        await read(host.url("/a.png?x=1"), token("hush"))
        host.elsewhere = other.url("/b.png")
        assert (await read(host.url("/moved"), token("hush"))).path.read_bytes() == png()
        assert await read.refused(host.url("/a.png"), token("hush2")) == 401
        assert [query for _, query, _ in host.asked] == [
            {"x": "1", "token": "hush"},
            {"token": "hush"},
            {"token": "hush2"},
        ]
        assert [query for _, query, _ in other.asked] == [{}]
    assert "hush" not in caplog.text
    assert not any(b"hush" in path.read_bytes() for path in (tmp_path / "cache").iterdir())


@pytest.mark.parametrize("kind", [token, bearer])
async def test_a_cached_file_is_for_those_whose_credential_works(
    tmp_path: Path, kind: Callable[[str], Credential]
) -> None:
    """Also when it is known here by its content, and when it worked before and was taken back since."""
    async with KeyedHost(png(), keys={"hush", "second"}, etag='"1"') as host, reading(tmp_path) as read:
        first = await read(host.url(), kind("hush"))
        assert (await read(host.url(), kind("hush"))).path == first.path
        assert (await read(host.url(), kind("second"))).path == first.path
        assert await read.refused(host.url(), kind("wrong")) == 401
        assert await read.refused(host.url()) == 401
        host.keys.remove("hush")
        assert await read.refused(host.url(), kind("hush")) == 401
        assert (await read(host.url(), kind("second"))).path == first.path


async def test_the_operators_header_opens_no_cache_for_others(tmp_path: Path) -> None:
    """The request's own credential stands alone, and what the header opened is not told to it."""
    async with KeyedHost(png(), keys={"own hush"}, etag='"1"') as host, reading(tmp_path, **OWN) as read:
        assert (await read(host.url())).path.read_bytes() == png()
        assert await read.refused(host.url(), bearer("mine hush")) == 401
        assert await read.refused(host.url(host="other.example")) == 401
    assert [headers.get("Authorization") for _, _, headers in host.asked] == ["own hush", "mine hush", None]


async def test_the_operators_header_does_not_follow_redirects(tmp_path: Path) -> None:
    """Even to a host on its list: a redirect is the first host's word."""
    async with KeyedHost(png()) as other, KeyedHost(png(), keys={"own hush"}, elsewhere=other.url()) as host:
        async with reading(tmp_path, **OWN) as read:
            await read(host.url("/moved"))
        assert "Authorization" not in other.asked[0][2]


async def test_a_login_in_the_url(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Goes as a header; a wrong one opens nothing that is cached."""
    caplog.set_level(logging.DEBUG)
    async with KeyedHost(png(), keys={"Basic YW5uOmh1c2g="}) as host, reading(tmp_path) as read:
        url = host.url(host="{}:{}@127.0.0.1")
        assert (await read(url.format("ann", "hush"))).path.read_bytes() == png()
        assert await read.refused(url.format("ann", "hushed")) == 401
        assert await read.refused(host.url()) == 401
    assert "hush" not in caplog.text


@pytest.mark.parametrize("told", [{"etag": '"1"'}, {"modified": "Sat, 21 Nov 2026 10:00:00 GMT"}, {}])
async def test_what_changed_behind_a_url_is_fetched_anew(tmp_path: Path, told: dict[str, str]) -> None:
    """By its validators; a host that gives none is read each time."""
    async with KeyedHost(png(shade=1), **told) as host, reading(tmp_path) as read:  # type: ignore[arg-type]
        await read(host.url())
        assert (await read(host.url())).path.read_bytes() == png(shade=1)
        host.content = png(shade=2)
        if host.etag:
            host.etag = '"2"'
        if host.modified:
            host.modified = "Sat, 21 Nov 2026 11:00:00 GMT"
        assert (await read(host.url())).path.read_bytes() == png(shade=2)


async def test_half_a_file_is_none(tmp_path: Path) -> None:
    """A transfer that breaks off is begun again, and what came of it is neither kept nor served; a host that always
    breaks off is a failure, after which a good one is read."""
    whole = png(64, 64)
    async with KeyedHost(whole, etag='"1"', cuts=1) as host, reading(tmp_path) as read:
        assert (await read(host.url())).path.read_bytes() == whole
        host.cuts, host.etag = 3, '"2"'
        assert await read.refused(host.url("/other.png")) == "unreachable"
        kept = [path for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".")]
        assert [path.read_bytes() for path in kept] == [whole]
        assert (await read(host.url("/other.png"))).path.read_bytes() == whole


async def test_a_file_that_was_damaged_here_is_fetched_anew(tmp_path: Path) -> None:
    """Its length tells, whatever the host says of its own."""
    async with KeyedHost(png(), etag='"1"') as host, reading(tmp_path) as read:
        fetched = await read(host.url())
        fetched.path.write_bytes(png()[:-3])
        assert (await read(host.url())).path.read_bytes() == png()
