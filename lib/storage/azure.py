"""The operator's account at Azure Blob Storage: its endpoint and keys, its URLs, uploads to it.

The package (``requirements-azure.txt``) is loaded at first use, in a thread. A SAS token goes with requests, never
into a URL that is given out or logged.
"""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from yarl import URL

from lib.errors import StorageFailed
from lib.settings import SaladSettings, SettingsError
from lib.storage.blobs import Published
from lib.storage.packages import AZURE, AZURE_IDENTITY, absence
from lib.storage.proxies import Proxies

if TYPE_CHECKING:
    from lib.storage.azure_client import AzureClient

EMULATOR = (
    "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6"
    "IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1"
)
"""What ``UseDevelopmentStorage=true`` stands for; name and key are the published ones of every emulator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureAccount:
    """An account; without key and SAS token it is used as whoever this machine is (``azure-identity``)."""

    name: str
    endpoint: str
    """Of its blobs, without a slash at the end; path-style for emulators (``http://host:port/account``)."""
    key: str | None = field(default=None, repr=False)
    sas_token: str | None = field(default=None, repr=False)

    @classmethod
    def from_settings(cls, settings: SaladSettings) -> Self | None:
        """The account that is configured, ``None`` for none. Raises: SettingsError."""
        if settings.azure_connection_string is not None:
            return cls._connected(settings.azure_connection_string.get_secret_value())
        if settings.azure_account is None:
            return None
        key, sas = settings.azure_key, settings.azure_sas_token
        return cls(
            name=settings.azure_account,
            endpoint=f"https://{settings.azure_account}.blob.core.windows.net",
            key=key.get_secret_value() if key else None,
            sas_token=sas.get_secret_value().lstrip("?") if sas and not key else None,
        )

    @classmethod
    def _connected(cls, text: str) -> Self:
        said = _parts(text)
        if said.get("usedevelopmentstorage", "").lower() == "true":
            said = _parts(EMULATOR) | {name: value for name, value in said.items() if name == "blobendpoint"}
        name = said.get("accountname", "")
        suffix = said.get("endpointsuffix", "core.windows.net")
        default = f"{said.get('defaultendpointsprotocol', 'https')}://{name}.blob.{suffix}" if name else ""
        endpoint = said.get("blobendpoint", default).rstrip("/")
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError("AZURE_STORAGE_CONNECTION_STRING: names neither an account nor a blob endpoint")
        name = name or parts.path.strip("/") or parts.hostname.partition(".")[0]
        sas = said.get("sharedaccesssignature", "").lstrip("?")
        return cls(name=name, endpoint=endpoint, key=said.get("accountkey"), sas_token=sas or None)

    def url(self, container: str, key: str) -> str:
        """The plain URL of a blob."""
        return f"{self.endpoint}/{quote(container, safe='$')}/{quote(key, safe='/~')}"

    def locate(self, url: URL) -> tuple[str, str] | None:
        """The container and key of a URL that is one of this account's blobs and brings no signature of its own."""
        own = URL(self.endpoint)
        if url.origin() != own.origin() or "sig" in parse_qs(url.raw_query_string):
            return None
        prefix = own.raw_path.rstrip("/") + "/"
        container, _, key = url.raw_path.removeprefix(prefix).partition("/")
        if not url.raw_path.startswith(prefix) or not container or not key:
            return None
        return unquote(container), unquote(key)

    def absence(self) -> str | None:
        """What has to be installed for it, if anything."""
        ambient = self.key is None and self.sas_token is None
        return absence(AZURE) or (absence(AZURE_IDENTITY) if ambient else None)


class AzureContainer:
    """A ``BlobStore`` over one container."""

    def __init__(self, stores: "AzureStores", container: str) -> None:
        self._stores = stores
        self._container = container

    async def publish(self, path: Path, *, key: str, mime_type: str, expires_s: int) -> Published:
        return await self._stores.publish(self._container, path, key=key, mime_type=mime_type)


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureBlob:
    """A blob that is to be read with the operator's keys; equal ones are the same blob."""

    stores: "AzureStores" = field(repr=False)
    container: str
    key: str

    def request(self) -> tuple[str, dict[str, str]]:
        """URL and headers to GET it with, both secret; blocks. Raises: StorageFailed."""
        return self.stores.client().readable(self.container, self.key)


class AzureStores:
    """Uploads and reads; owns threads and client. An async context manager."""

    def __init__(self, account: AzureAccount, *, proxies: Proxies | None = None, threads: int = 8) -> None:
        self.account = account
        self._proxy = (proxies or Proxies()).for_(URL(account.endpoint))
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="azure")
        self._client: AzureClient | None = None
        self._lock = threading.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Start nothing more; uploads under way end in their threads, by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def at(self, container: str) -> AzureContainer:
        """The container of that name; connects to nothing yet."""
        return AzureContainer(self, container)

    def blob(self, url: URL) -> AzureBlob | None:
        """The blob of the account that a URL names."""
        found = self.account.locate(url)
        return None if found is None else AzureBlob(stores=self, container=found[0], key=found[1])

    async def publish(self, container: str, path: Path, *, key: str, mime_type: str) -> Published:
        """See ``BlobStore.publish``."""

        def work() -> Published:
            self.client().upload(container, path, key=key, mime_type=mime_type)
            return Published(url=self.account.url(container, key))

        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def client(self) -> "AzureClient":
        """The one client; blocks while its package is loaded. Raises: StorageFailed, it is not installed."""
        with self._lock:
            if self._client is None:
                if (absent := self.account.absence()) is not None:
                    raise StorageFailed(f"Azure: {absent}", details={"reason": "NotInstalled"})
                from lib.storage.azure_client import AzureClient

                self._client = AzureClient(self.account, proxy=str(self._proxy) if self._proxy else None)
            return self._client


def _parts(text: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.strip().split(";") if part.strip())
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
