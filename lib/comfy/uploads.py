"""Files that callers send before, or with, the request that uses them; each tenant can name only its own.

They lie with the fetched inputs, a folder a tenant, named by content, and go as those go: over the quota, or when the
disk runs full, the least recently used first.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from hashlib import blake2b
from pathlib import Path

from lib.errors import BodyTooLarge, InputFetchFailed
from lib.settings import StorageSettings
from lib.storage.keeping import TooLarge, keep
from lib.storage.local import ContentStore, Fetched
from lib.storage.media import NotMedia
from lib.storage.problems import accepted, for_field, problem

SCHEME = "upload://"
FOLDER = "uploads"
_NAME = re.compile(r"[0-9a-f]{64}\.[a-z0-9]{1,12}")


def is_upload(value: str) -> bool:
    return value.startswith(SCHEME)


class UploadStore:
    """``root`` is the folder of fetched inputs (``ContentStore.root``)."""

    def __init__(self, root: Path, *, settings: StorageSettings) -> None:
        self._root = root / FOLDER
        self._settings = settings
        self._stores: dict[str, ContentStore] = {}

    async def save(self, chunks: AsyncIterator[bytes], filename: str, owner: str) -> str:
        """Store a file and return the reference that stands for it in a loader's field, ``upload://<id>``.

        Raises: BodyTooLarge (over ``INPUT_MAX_BYTES``), InputFetchFailed (not media), StorageFailed (our disk), and
        what ``chunks`` raises.
        """
        limit = self._settings.input_max_bytes
        try:
            fetched = await keep(self._of(owner), chunks, limit_bytes=limit, name=filename)
        except TooLarge as error:
            message = f"The file is larger than INPUT_MAX_BYTES ({limit} bytes)"
            raise BodyTooLarge(message, details={"limit_bytes": limit}) from error
        except (NotMedia, OSError) as error:
            raise problem(error) from error
        return SCHEME + fetched.path.name

    async def find(self, reference: str, *, owner: str, field: str, accept: tuple[str, ...] = ()) -> Fetched:
        """The file that ``reference`` stands for.

        Raises: InputFetchFailed (gone, another tenant's, or not what the field takes), StorageFailed.
        """
        name = reference.strip().removeprefix(SCHEME)
        try:
            found = await asyncio.to_thread(self._of(owner).find, name) if _NAME.fullmatch(name) else None
        except OSError as error:
            raise for_field(problem(error), field) from error
        if found is None:
            raise InputFetchFailed(
                f"{field}: there is no such uploaded file, or no longer; upload it again and use the new reference",
                details={"field": field, "reason": "no_upload"},
            )
        return accepted(found, accept, field=field)

    def _of(self, owner: str) -> ContentStore:
        folder = blake2b(owner.encode(), digest_size=16).hexdigest()
        if folder not in self._stores:
            quota = max(self._settings.input_cache_bytes, self._settings.input_max_bytes)
            self._stores[folder] = ContentStore(self._root / folder, quota_bytes=quota)
        return self._stores[folder]
