"""Hugging Face by its own client, against a small hub: commits, refusals, the token, reading."""

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from lib.errors import InputFetchFailed, StorageFailed
from lib.lifecycle import Tasks
from lib.settings import DeliverySettings, SaladSettings, StorageSettings
from lib.storage.blobs import Blob
from lib.storage.downloads import Downloads
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from lib.storage.hugging_face import HubAccount, HubRepo, HubStores
from lib.storage.local import ContentStore
from lib.storage.operator_header import OperatorHeader
from lib.storage.operator_keys import SALAD, OperatorKeys
from lib.storage.sources import Sources
from tests.fakes.http_hosts import Names, png
from tests.fakes.hub import TOKEN, FakeHub

REPO = HubRepo(name="u/r", kind="dataset", revision="main")
pytestmark = [
    pytest.mark.usefixtures("no_xet"),
    pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning"),  # the client's own, of httpx
]
Files = Callable[..., list[Blob]]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    def make(*keys: str) -> list[Blob]:
        blobs = []
        for number, key in enumerate(keys):
            path = tmp_path / f"{number}"
            path.write_bytes(key.encode() * 10)
            blobs.append(Blob(path=path, key=key, mime_type="image/png"))
        return blobs

    return make


@asynccontextmanager
async def hub(token: str | None = TOKEN, **moods: object) -> AsyncIterator[tuple[FakeHub, HubStores]]:
    async with FakeHub(**moods) as server:  # type: ignore[arg-type]
        server.repo("u/r", kind="dataset")
        async with HubStores(HubAccount(endpoint=server.endpoint, token=token)) as stores:
            yield server, stores


async def test_all_files_come_in_one_commit(files: Files) -> None:
    """Plain and large ones, whatever their names; the URLs are where they are downloaded."""
    async with hub() as (server, stores):
        blobs = files("x y/z/a b.png", "x y/z/ä#?%20.bin")
        published = await stores.at(REPO).commit(blobs)
        assert server.repo("u/r", kind="dataset") == {blob.key: blob.path.read_bytes() for blob in blobs}
        assert server.commits == [sorted(blob.key for blob in blobs)]
        assert [one.url for one in published] == [
            f"{server.endpoint}/datasets/u/r/resolve/main/x%20y/z/a%20b.png",
            f"{server.endpoint}/datasets/u/r/resolve/main/x%20y/z/%C3%A4%23%3F%2520.bin",
        ]


async def test_the_same_files_again(files: Files) -> None:
    """A job that is run again arrives as well."""
    async with hub() as (_, stores):
        for _ in range(2):
            assert len(await stores.at(REPO).commit(files("a.png"))) == 1


def test_urls() -> None:
    """Models lie at the root; a revision is one segment."""
    assert HubRepo(name="u/r", revision="refs/pr/1").url("https://hf.test", "a.png") == (
        "https://hf.test/u/r/resolve/refs%2Fpr%2F1/a.png"
    )
    account = HubAccount.from_settings(SaladSettings.model_validate({"hf_token": "hush", "hf_endpoint": "hf.test/"}))
    assert account.endpoint == "http://hf.test"
    assert "hush" not in repr(account)


async def failed(stores: HubStores, blobs: list[Blob], repo: HubRepo = REPO) -> StorageFailed:
    with pytest.raises(StorageFailed) as caught:
        await stores.at(repo).commit(blobs)
    assert TOKEN not in caught.value.message and "127.0.0.1" not in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("status", "retryable"), [(403, False), (409, True), (412, True), (429, True), (500, True), (400, False)]
)
async def test_refusals(files: Files, status: int, retryable: bool) -> None:
    """The hub's status; somebody else's commit in between, and its own troubles, are worth another attempt."""
    async with hub(failures=[status] * 20) as (_, stores):
        error = await failed(stores, files("a.png"))
    assert (error.details["reason"], error.retryable) == (f"Status{status}", retryable)


async def test_who_we_are_and_where(files: Files) -> None:
    """A token that is not known, no token, a repository that is not there."""
    for token in ("wrong", None):
        async with hub(token=token) as (server, stores):
            assert (await failed(stores, files("a.png"))).details["reason"] == "Status401"
            assert all(token is None or asked[3] == f"Bearer {token}" for asked in server.asked)
    async with hub() as (_, stores):
        error = await failed(stores, files("a.png"), HubRepo(name="u/none"))
        assert (error.details["reason"], error.retryable) == ("Status404", False)


async def test_what_the_repository_ignores_did_not_arrive(files: Files) -> None:
    """The client passes over it without a word."""
    async with hub(ignored=(".png",)) as (_, stores):
        assert (await failed(stores, files("a.png"))).details["reason"] == "Ignored"


async def test_what_never_reached_the_hub(files: Files) -> None:
    """A connection that breaks off, and a file that is gone."""
    async with hub(cutting=True) as (_, stores):
        error = await failed(stores, files("a.png"))
        assert (error.details["reason"], error.retryable) == ("ConnectionFailed", True)
        (blob,) = files("a.png")
        blob.path.unlink()
        assert (await failed(stores, [blob])).details["reason"] == "LocalFile"


async def test_a_package_that_is_missing_is_named(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the file that brings it."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    async with HubStores(HubAccount(endpoint="http://hf.test", token=TOKEN)) as stores:
        error = await failed(stores, files("a.png"))
    assert error.details["reason"] == "NotInstalled" and "requirements-hf.txt" in error.message


Opened = AbstractAsyncContextManager[tuple[Downloads, Sources]]


@pytest.fixture
def reading(tmp_path: Path) -> Callable[[FakeHub, str | None], Opened]:
    @asynccontextmanager
    async def open_(server: FakeHub, token: str | None) -> AsyncIterator[tuple[Downloads, Sources]]:
        guard = AddressGuard(allow=["127.0.0.1"], lookup=Names(cdn_example=[["127.0.0.1"]]))
        settings = SaladSettings.model_validate({"hf_token": token, "hf_endpoint": server.endpoint})
        keys = OperatorKeys(settings=settings, header=OperatorHeader(), hub=HubAccount.from_settings(settings))
        store = ContentStore(tmp_path / "cache", quota_bytes=1 << 30)
        async with GuardedHttp(guard) as http, Tasks() as tasks:
            downloads = Downloads(store=store, http=http, settings=StorageSettings(), tasks=tasks, retry_wait_s=0.0)
            yield downloads, Sources(settings=DeliverySettings(), guard=guard, keys=keys)

    return open_


@pytest.mark.parametrize("kind", ["model", "dataset"])
async def test_the_token_goes_to_the_hub_alone(reading: Callable[[FakeHub, str | None], Opened], kind: str) -> None:
    """Not along a redirect to the host that has the large files; a space in the path stays one."""
    async with FakeHub() as server:
        server.repo("u/r", kind=kind)["a b/c.png"] = png()
        above = "datasets/" if kind == "dataset" else ""
        async with reading(server, TOKEN) as (downloads, sources):
            url = f"{server.endpoint}/{above}u/r/resolve/main/a%20b/c.png"
            fetched = await downloads.fetch(sources.find(url, field="f", dialect=SALAD), field="f")
            assert fetched.path.read_bytes() == png()
            with pytest.raises(InputFetchFailed):
                await downloads.fetch(sources.find(url, field="f"), field="f")
        assert [(host, key) for host, _, _, key in server.asked] == [
            ("127.0.0.1", f"Bearer {TOKEN}"),
            ("cdn.example", ""),
            ("127.0.0.1", ""),
        ]


async def test_a_private_file_is_read_by_those_whose_token_opens_it(
    reading: Callable[[FakeHub, str | None], Opened],
) -> None:
    """What one was served is no cache for another, nor for a job without a token."""
    async with FakeHub() as server:
        server.repo("u/r")["c.png"] = png()
        url = f"{server.endpoint}/u/r/resolve/main/c.png"
        async with reading(server, TOKEN) as (downloads, sources):
            await downloads.fetch(sources.find(url, field="f", dialect=SALAD), field="f")
        for token in ("another", None):
            async with reading(server, token) as (downloads, sources):
                with pytest.raises(InputFetchFailed) as caught:
                    await downloads.fetch(sources.find(url, field="f", dialect=SALAD), field="f")
                assert caught.value.details["status"] == 401
