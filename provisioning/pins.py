"""What is wanted of a download, and the lock file that keeps it the same from one start to the next."""

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from provisioning.steps import write_text_atomically


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """What is wanted, and where."""

    url: str
    target: Path
    size_bytes: int | None = None
    sha256: str | None = None


class Pins:
    """The lock file: per URL the hash of its first download, per file what was last verified, per node pack the
    version that was installed first. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        content = json.loads(path.read_text()) if path.is_file() else {}
        self._urls: dict[str, str] = content.get("urls", {})
        self._files: dict[str, dict[str, object]] = content.get("files", {})
        self._packs: dict[str, str] = content.get("packs", {})

    def expected(self, item: Download) -> str | None:
        """Give the hash that the file must have: the manifest's, else the pinned one."""
        return item.sha256 or self._urls.get(item.url)

    def verified(self, target: Path) -> str | None:
        """Give the hash of a file that was verified and has not changed since."""
        entry = self._files.get(str(target))
        return cast(str, entry["sha256"]) if entry and entry["stamp"] == _stamp(target) else None

    def remember(self, item: Download, sha256: str) -> None:
        """Pin the URL's hash and remember that the file was verified."""
        with self._lock:
            self._urls.setdefault(item.url, sha256)
            self._files[str(item.target)] = {"sha256": sha256, "stamp": _stamp(item.target)}
            self._write()

    def pack(self, key: str) -> str | None:
        """Give the version that a node pack is pinned to."""
        return self._packs.get(key)

    def pin_pack(self, key: str, version: str) -> None:
        """Pin a node pack to the version that was installed."""
        with self._lock:
            if self._packs.setdefault(key, version) == version:
                self._write()

    def _write(self) -> None:
        content: dict[str, object] = {"urls": self._urls, "files": self._files}
        if self._packs:
            content["packs"] = self._packs
        write_text_atomically(self._path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
