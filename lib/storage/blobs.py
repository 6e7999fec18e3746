"""What delivery needs of an object store, whoever runs it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Where a file can be read. ``expires_s``: for how long from now, ``None`` = no end is set."""

    url: str = field(repr=False)
    expires_s: int | None = None


class BlobStore(Protocol):
    """One place that files are published to."""

    async def publish(self, path: Path, *, key: str, mime_type: str, expires_s: int) -> Published:
        """Upload ``path`` as ``key``; anyone may GET the URL, for ``expires_s`` seconds where it is a signed one.

        Raises: StorageFailed; ``details["reason"]`` is the store's own code where it has one, ``retryable`` says that
        another attempt may succeed.
        """
        ...
