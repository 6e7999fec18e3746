"""What delivery needs of an object store, whoever runs it."""

from pathlib import Path
from typing import Protocol


class BlobStore(Protocol):
    """One place that files are published to."""

    async def publish(self, path: Path, *, key: str, mime_type: str, expires_s: int) -> str:
        """Upload ``path`` as ``key`` and return a URL that anyone may GET for ``expires_s`` seconds.

        Raises: StorageFailed; ``details["reason"]`` is the store's own code where it has one.
        """
        ...
