"""What delivery needs of a storage, whoever runs it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Where a file can be read. ``expires_s``: for how long from now, ``None`` = no end is set."""

    url: str = field(repr=False)
    expires_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A local file and what it is to be called there."""

    path: Path
    key: str
    mime_type: str


class BlobStore(Protocol):
    """One place that files are published to."""

    async def publish(self, path: Path, *, key: str, mime_type: str, expires_s: int) -> Published:
        """Upload ``path`` as ``key``; anyone may GET the URL, for ``expires_s`` seconds where it is a signed one.

        Raises: StorageFailed; ``details["reason"]`` is the store's own code where it has one, ``retryable`` says that
        another attempt may succeed.
        """
        ...


@runtime_checkable
class Repository(Protocol):
    """A place that takes files in commits: all of a job's in one, since their number is what such places limit."""

    async def commit(self, blobs: Sequence[Blob]) -> tuple[Published, ...]:
        """Upload all of them, or none. Raises: StorageFailed, as ``BlobStore``."""
        ...
