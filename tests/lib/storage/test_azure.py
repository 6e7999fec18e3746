"""Azure Blob Storage, on Azurite: every way to be somebody there, what fails, and what is told of it."""

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas
from yarl import URL

from lib.errors import InputFetchFailed, StorageFailed
from lib.lifecycle import Tasks
from lib.settings import SaladSettings, SettingsError, StorageSettings
from lib.storage.azure import AzureAccount, AzureStores
from lib.storage.blobs import Published
from lib.storage.downloads import Downloads
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from lib.storage.local import ContentStore
from lib.storage.sources import Source
from tests.fakes.http_hosts import png
from tests.peers.azure.azurite import CONTAINER, KEY, NAME, AzureServer

ODD = "a b/ä#?%25+&.png"


def sas(*, write: bool = True, ends_in: timedelta = timedelta(hours=1)) -> str:
    return generate_account_sas(
        NAME,
        KEY,
        resource_types=ResourceTypes(object=True, container=True),
        permission=AccountSasPermissions(read=True, write=write, create=write),
        expiry=datetime.now(UTC) + ends_in,
    )


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    return path


@pytest.fixture
async def downloads(tmp_path: Path) -> AsyncIterator[Downloads]:
    """With a guard that lets nothing private through: the operator's account needs no leave."""
    store = ContentStore(tmp_path / "cache", quota_bytes=1 << 30)
    async with GuardedHttp(AddressGuard()) as http, Tasks() as tasks:
        yield Downloads(store=store, http=http, settings=StorageSettings(), tasks=tasks, retry_wait_s=0.0)


def account(server: AzureServer, how: str = "connection string", token: str = "") -> AzureAccount:
    if how == "connection string":
        found = AzureAccount.from_settings(
            SaladSettings.model_validate({"azure_connection_string": server.connection_string})
        )
    else:
        text = f"BlobEndpoint={server.endpoint};SharedAccessSignature=?{token or sas()}"
        found = AzureAccount.from_settings(SaladSettings.model_validate({"azure_connection_string": text}))
    assert found is not None
    return found


async def publish(account: AzureAccount, path: Path, key: str = "k.png", container: str = CONTAINER) -> Published:
    async with AzureStores(account) as stores:
        return await stores.at(container).publish(path, key=key, mime_type="image/png", expires_s=60)


@pytest.mark.parametrize("how", ["connection string", "sas"])
async def test_a_file_goes_up_and_comes_back(
    azurite_server: AzureServer, picture: Path, downloads: Downloads, how: str
) -> None:
    """By the URL that was given out, which has no signature in it; content and type are right, whatever the name."""
    found = account(azurite_server, how)
    key = f"{how}/{ODD}"
    published = await publish(found, picture, key)
    assert published.url.startswith(f"{azurite_server.endpoint}/{CONTAINER}/") and published.expires_s is None
    assert "?" not in published.url and "sig=" not in published.url

    def stored() -> tuple[bytes, str | None]:
        with azurite_server.client() as client:
            blob = client.get_blob_client(CONTAINER, key)
            return blob.download_blob().readall(), blob.get_blob_properties().content_settings.content_type

    assert await asyncio.to_thread(stored) == (png(), "image/png")
    async with AzureStores(found) as stores:
        blob = stores.blob(URL(published.url, encoded=True))
        assert blob is not None and blob.key == key
        fetched = await downloads.fetch(Source(url=published.url, blob=blob), field="f")
    assert fetched.path.read_bytes() == png()


async def test_what_is_there_is_replaced(azurite_server: AzureServer, picture: Path, downloads: Downloads) -> None:
    """As with any storage; and a reader sees the new content, though the URL is the same."""
    found = account(azurite_server)
    async with AzureStores(found) as stores:
        for shade in (1, 2):
            picture.write_bytes(png(shade=shade))
            published = await publish(found, picture, "again.png")
            source = Source(url=published.url, blob=stores.blob(URL(published.url, encoded=True)))
            assert (await downloads.fetch(source, field="f")).path.read_bytes() == png(shade=shade)


async def test_a_large_file_goes_up_in_blocks(azurite_server: AzureServer, tmp_path: Path) -> None:
    """Streamed, several at a time."""
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(range(256)) * (20 << 12))
    await publish(account(azurite_server), path, "large.bin")

    def stored() -> tuple[int, int]:
        with azurite_server.client() as client:
            blob = client.get_blob_client(CONTAINER, "large.bin")
            return blob.get_blob_properties().size, len(blob.get_block_list()[0])

    size, blocks = await asyncio.to_thread(stored)
    assert size == path.stat().st_size and blocks == 5


async def failed(account: AzureAccount, path: Path, container: str = CONTAINER) -> StorageFailed:
    with pytest.raises(StorageFailed) as caught:
        await publish(account, path, container=container)
    return caught.value


async def test_refusals_are_named_by_azures_code(azurite_server: AzureServer, picture: Path) -> None:
    """Which another attempt would not change; nothing of keys and signatures is told."""
    wrong = azurite_server.connection_string.replace(KEY, "c2VjcmV0")
    stranger = AzureAccount.from_settings(SaladSettings.model_validate({"azure_connection_string": wrong}))
    assert stranger is not None
    expected = {
        "ContainerNotFound": await failed(account(azurite_server), picture, "nowhere"),
        "AuthorizationFailure": await failed(stranger, picture),
        "AuthorizationPermissionMismatch": await failed(account(azurite_server, "sas", sas(write=False)), picture),
    }
    for reason, error in expected.items():
        assert (error.details["reason"], error.retryable) == (reason, False)
        assert "sig" not in error.message and "127.0.0.1" not in error.message
    late = await failed(account(azurite_server, "sas", sas(ends_in=timedelta(hours=-1))), picture)
    assert late.details["reason"] == "AuthorizationFailure"
    gone = await failed(account(azurite_server), picture.with_name("gone"))
    assert gone.details["reason"] == "LocalFile"


async def test_a_server_that_is_away_may_be_back(picture: Path, unused_tcp_port: int) -> None:
    """So the file is offered again."""
    away = account(AzureServer(port=unused_tcp_port))
    error = await failed(away, picture)
    assert (error.details["reason"], error.retryable) == ("ConnectionFailed", True)


async def test_a_blob_that_is_not_there(azurite_server: AzureServer, downloads: Downloads) -> None:
    """Told by the host's status, with no signature; and a signature that is over reads nothing."""
    for token, status in ((None, 404), (sas(ends_in=timedelta(hours=-1)), 403)):
        found = account(azurite_server, "sas", token) if token else account(azurite_server)
        async with AzureStores(found) as stores:
            url = found.url(CONTAINER, "none.png")
            with pytest.raises(InputFetchFailed) as caught:
                await downloads.fetch(Source(url=url, blob=stores.blob(URL(url, encoded=True))), field="f")
        assert caught.value.details["status"] == status
        assert "sig" not in caught.value.message


@pytest.mark.parametrize(
    ("settings", "endpoint", "signed"),
    [
        ({"azure_account": "mine", "azure_key": "a2V5"}, "https://mine.blob.core.windows.net", "key"),
        ({"azure_account": "mine", "azure_sas_token": "?sv=1&sig=x"}, "https://mine.blob.core.windows.net", "sas"),
        ({"azure_account": "mine"}, "https://mine.blob.core.windows.net", ""),
        (
            {"azure_connection_string": "AccountName=a;AccountKey=k==;EndpointSuffix=core.chinacloudapi.cn"},
            "https://a.blob.core.chinacloudapi.cn",
            "key",
        ),
        ({"azure_connection_string": "UseDevelopmentStorage=true"}, f"http://127.0.0.1:10000/{NAME}", "key"),
        (
            {"azure_connection_string": "BlobEndpoint=https://x.test/acc/;AccountKey=k", "azure_account": "mine"},
            "https://x.test/acc",
            "key",
        ),
    ],
)
def test_accounts(settings: dict[str, str], endpoint: str, signed: str) -> None:
    """Connection string before the parts, key before SAS token before whoever this machine is."""
    found = AzureAccount.from_settings(SaladSettings.model_validate(settings))
    assert found is not None and found.endpoint == endpoint
    assert ("key" if found.key else "sas" if found.sas_token else "") == signed
    assert "sig" not in repr(found) and "k==" not in repr(found)


def test_no_account() -> None:
    """None is configured; one that is no account is said at start."""
    assert AzureAccount.from_settings(SaladSettings()) is None
    with pytest.raises(SettingsError, match="AZURE_STORAGE_CONNECTION_STRING"):
        AzureAccount.from_settings(SaladSettings.model_validate({"azure_connection_string": "AccountKey=k"}))


@pytest.mark.parametrize(
    ("package", "settings"),
    [
        ("azure.storage.blob", {"azure_account": "mine", "azure_key": "a2V5"}),
        ("azure.identity", {"azure_account": "mine"}),
    ],
)
async def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, picture: Path, package: str, settings: dict[str, str]
) -> None:
    """With the file that brings it; where there is a key, no credential of the machine is needed."""
    found = AzureAccount.from_settings(SaladSettings.model_validate(settings))
    assert found is not None and found.absence() is None
    hide(monkeypatch, package)
    assert "requirements-azure.txt" in (found.absence() or "")
    error = await failed(found, picture)
    assert package in error.message and "requirements-azure.txt" in error.message
    keyed = AzureAccount(name="a", endpoint="https://a.test", key="k")
    assert (keyed.absence() is None) == (package == "azure.identity")


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make a package one that is not installed."""

    class Nowhere:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:
            if name == package:
                raise ModuleNotFoundError(name)

    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Nowhere, *sys.meta_path])
