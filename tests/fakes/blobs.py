"""An object store in memory that fails on demand and says what it was given."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from lib.errors import StorageFailed
from lib.storage.blobs import Published


@dataclass(slots=True)
class MemoryBlobs:
    """A ``BlobStore``. Keys that contain one of ``failing`` are refused, ``down`` uploads fail in a way that may pass;
    ``gate`` (when given) holds every upload."""

    failing: tuple[str, ...] = ()
    down: int = 0
    asked: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None
    objects: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    under_way: int = 0
    most_under_way: int = 0

    async def publish(self, path: Path, *, key: str, mime_type: str, expires_s: int) -> Published:
        self.asked.append(key)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await self._publish(path, key=key, mime_type=mime_type, expires_s=expires_s)
        finally:
            self.under_way -= 1

    async def _publish(self, path: Path, *, key: str, mime_type: str, expires_s: int) -> Published:
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            self.down -= 1
            failed = StorageFailed("S3 upload failed: SlowDown: later", details={"reason": "SlowDown"})
            failed.retryable = True
            raise failed
        if any(part in key for part in self.failing):
            raise StorageFailed("S3 upload failed: NoSuchBucket: gone", details={"reason": "NoSuchBucket"})
        self.objects[key] = (await asyncio.to_thread(path.read_bytes), mime_type)
        return Published(url=f"memory:///{key}?expires={expires_s}", expires_s=expires_s)
