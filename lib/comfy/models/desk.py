"""Models on request: which there are, and bringing one by URL under a name of the caller's choice."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from lib.comfy.models.folders import ModelFolders
from lib.comfy.models.inputs import allowed
from lib.comfy.models.library import Library, Wish
from lib.comfy.models.names import SUFFIXES, chosen_name, suffix_of, url_name
from lib.comfy.models.privacy import Options, Privacy
from lib.errors import UnsafeInput
from lib.settings import Who
from lib.storage.sources import Credential

URL, FILENAME = "url", "filename"
"""The request's fields, for error texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BroughtModel:
    """A model that is there. ``duration_s``: how long the call took."""

    filename: str
    size_bytes: int
    duration_s: float


class ModelDesk:
    """``urls`` and ``pickles`` say who may bring models, and formats that can hold code."""

    def __init__(self, *, library: Library, folders: ModelFolders, privacy: Privacy, urls: Who, pickles: Who) -> None:
        self._library = library
        self._privacy = privacy
        self._folders = folders
        self._urls: Who = urls
        self._pickles: Who = pickles

    async def listed(self, *, tenant: str) -> dict[str, list[str]]:
        """Names by type, as every ComfyUI lists them now, without what other tenants brought; types that only the disk
        has are empty.

        Raises: EngineUnreachable."""
        return self._privacy.listed(await self._folders.models(), tenant=tenant)

    def shown(self, options: Options, *, tenant: str | None) -> Options:
        """ComfyUI's choices without what other tenants brought, or, for anybody, any tenant."""
        return self._privacy.options(options, tenant=tenant)

    async def types(self) -> Sequence[str]:
        """Types that a model may be brought as. Raises: EngineUnreachable."""
        return await self._folders.types()

    async def bring(
        self,
        *,
        url: str,
        model_type: str,
        filename: str | None = None,
        credentials: Sequence[Credential] = (),
        owner: str = "",
        dialect: str = "",
    ) -> BroughtModel:
        """Have a model downloaded, once for all who ask at the same time. It is called ``filename``, else as the URL
        calls it; where another file has that name, its content's digest comes behind it.

        Raises: UnsafeInput, InvalidRequest, InputFetchFailed, StorageFailed, EngineUnreachable; ``details["field"]``
        is one of the arguments."""
        name, begun = self._name(url, filename), time.monotonic()
        obtained = await self._library.obtain(self._wish(url, credentials, owner, dialect), model_type, name=name)
        size, duration_s = obtained.held.size_bytes, time.monotonic() - begun
        return BroughtModel(filename=obtained.name, size_bytes=size, duration_s=duration_s)

    def _name(self, url: str, filename: str | None) -> str:
        """The name that is wanted; "" where the URL has none that a model could have."""
        if filename is not None:
            return chosen_name(filename, field=FILENAME)
        name = url_name(url)
        return chosen_name(name, field=URL) if suffix_of(name) in SUFFIXES else ""

    def _wish(self, url: str, credentials: Sequence[Credential], owner: str, dialect: str) -> Wish:
        if not allowed(self._urls, owner=owner, stranger=False):
            text = f"{URL}: models are not downloaded here for this caller (MODEL_URLS={self._urls})"
            raise UnsafeInput(text, details={"field": URL, "reason": "model_url"})
        pickles = allowed(self._pickles, owner=owner, stranger=False)
        return Wish(url=url, field=URL, credentials=credentials, owner=owner, dialect=dialect, pickles=pickles)
