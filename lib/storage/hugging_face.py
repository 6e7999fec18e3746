"""Hugging Face with the operator's token: its URLs, and commits to repositories.

The package (``requirements-hf.txt``) is loaded at first use, in a thread; reading needs none. The token goes to the
host of ``HF_ENDPOINT`` and to nobody else.
"""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import quote

from yarl import URL

from lib.errors import StorageFailed
from lib.settings import SaladSettings
from lib.storage.blobs import Blob, Published
from lib.storage.packages import HUGGING_FACE, absence

if TYPE_CHECKING:
    from lib.storage.hugging_face_client import HubClient

RepoType = Literal["model", "dataset"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HubAccount:
    """A hub and who we are there."""

    endpoint: str
    token: str | None = field(default=None, repr=False)

    @classmethod
    def from_settings(cls, settings: SaladSettings) -> Self:
        token = settings.hf_token
        return cls(endpoint=settings.hf_endpoint.rstrip("/"), token=token.get_secret_value() if token else None)

    def headers(self, url: URL) -> dict[str, str]:
        """What a URL of the hub is asked with; nothing for any other URL."""
        if self.token is None or url.origin() != URL(self.endpoint).origin():
            return {}
        return {"Authorization": f"Bearer {self.token}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRepo:
    """A repository at one revision (branch)."""

    name: str
    kind: RepoType = "model"
    revision: str = "main"

    def url(self, endpoint: str, key: str) -> str:
        """Where a file of it is downloaded."""
        above = "datasets/" if self.kind == "dataset" else ""
        return f"{endpoint}/{above}{self.name}/resolve/{quote(self.revision, safe='')}/{quote(key)}"


class HubRepository:
    """A ``Repository`` over one."""

    def __init__(self, stores: "HubStores", repo: HubRepo) -> None:
        self._stores = stores
        self._repo = repo

    async def commit(self, blobs: Sequence[Blob]) -> tuple[Published, ...]:
        return await self._stores.commit(self._repo, blobs)


class HubStores:
    """Commits; owns threads and client. An async context manager."""

    def __init__(self, account: HubAccount, *, threads: int = 4) -> None:
        self.account = account
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="hub")
        self._client: HubClient | None = None
        self._lock = threading.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Start nothing more; commits under way end in their threads, by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def at(self, repo: HubRepo) -> HubRepository:
        """The repository; connects to nothing yet."""
        return HubRepository(self, repo)

    async def commit(self, repo: HubRepo, blobs: Sequence[Blob]) -> tuple[Published, ...]:
        """See ``Repository.commit``."""

        def work() -> tuple[Published, ...]:
            self._loaded().commit(repo, blobs)
            return tuple(Published(url=repo.url(self.account.endpoint, blob.key)) for blob in blobs)

        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _loaded(self) -> "HubClient":
        with self._lock:
            if self._client is None:
                if (absent := absence(HUGGING_FACE)) is not None:
                    raise StorageFailed(f"Hugging Face: {absent}", details={"reason": "NotInstalled"})
                from lib.storage.hugging_face_client import HubClient

                self._client = HubClient(self.account)
            return self._client
