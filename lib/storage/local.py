"""Fetched files on the local disk, named by their content, the least recently used removed over a quota.

Everything here blocks and is called in threads; one lock guards the index. A file becomes visible whole or not at all.
"""

import hashlib
import logging
import threading
import uuid
import weakref
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from lib.storage.media import HEAD_BYTES, Media, NotMedia, sniff

log = logging.getLogger(__name__)
_DRAFT = ".part"


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Fetched:
    """A file in the store. While somebody holds this object the file is not removed to make room.

    ``path`` is named ``<sha256><extension>``; link or copy it where it is needed. ``extension`` has its dot.
    """

    path: Path
    mime_type: str
    size_bytes: int
    sha256: str
    extension: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    size_bytes: int
    mime_type: str = ""


class Draft:
    """A file being written; ends by ``ContentStore.adopt`` or ``discard``. Usable from one thread at a time, except
    ``discard``, which may come from another one at any moment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.head = b""
        self.size_bytes = 0
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None
        self._lock = threading.Lock()
        self._over = False

    def write(self, data: bytes) -> None:
        with self._lock:
            if self._over:
                return
            if self._file is None:
                self._file = self.path.open("xb")
            self._file.write(data)
            self._hash.update(data)
            self.size_bytes += len(data)
            self.head += data[: HEAD_BYTES - len(self.head)]

    def finish(self) -> str:
        """Close the file and return its SHA-256 in hex."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            return self._hash.hexdigest()

    def discard(self) -> None:
        """Forget the file, wherever it got to; harmless after ``adopt``."""
        with self._lock:
            self._over = True
            if self._file is not None:
                self._file.close()
            self.path.unlink(missing_ok=True)


class ContentStore:
    """A folder of files named by content, with a quota in bytes (0 keeps only what is in use)."""

    def __init__(self, root: Path, *, quota_bytes: int) -> None:
        self._root = root
        self._quota_bytes = quota_bytes
        self._files: OrderedDict[str, _Entry] = OrderedDict()
        self._held: weakref.WeakValueDictionary[str, Fetched] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()
        self._opened = False

    @property
    def root(self) -> Path:
        return self._root

    def draft(self) -> Draft:
        """Begin a new file."""
        with self._lock:
            self._open()
        return Draft(self._root / f"{uuid.uuid4().hex}{_DRAFT}")

    def adopt(self, draft: Draft, *, name: str = "", declared: str = "") -> Fetched:
        """Turn a complete draft into a file of the store; equal content is kept once. Raises: NotMedia, OSError."""
        try:
            sha256 = draft.finish()
            return self._keep(draft, sha256, sniff(draft.head, name=name, declared=declared))
        finally:
            draft.discard()

    def find(self, name: str) -> Fetched | None:
        """A file that is still there, by the name of its path; it counts as used now. Raises: OSError."""
        with self._lock:
            self._open()
            entry = self._files.get(name)
            path = self._root / name
            if entry is None or not path.is_file() or path.stat().st_size != entry.size_bytes:
                return None
            try:
                return self._use(name, entry if entry.mime_type else self._recognised(name, entry))
            except NotMedia:  # half written before the power went
                return None

    def _keep(self, draft: Draft, sha256: str, media: Media) -> Fetched:
        path = self._root / f"{sha256}{media.extension}"
        entry = _Entry(size_bytes=draft.size_bytes, mime_type=media.mime_type)
        with self._lock:
            if not path.is_file() or path.stat().st_size != draft.size_bytes:
                draft.path.replace(path)
            fetched = self._use(path.name, entry)
            self._make_room()
            return fetched

    def _recognised(self, name: str, entry: _Entry) -> _Entry:
        """A file of an earlier process; it was found to be media when it was kept."""
        with (self._root / name).open("rb") as file:
            return replace(entry, mime_type=sniff(file.read(HEAD_BYTES), name=name).mime_type)

    def _use(self, name: str, entry: _Entry) -> Fetched:
        path = self._root / name
        path.touch()  # the order of use survives a restart
        self._files[name] = entry
        self._files.move_to_end(name)
        fetched = self._held.get(name)
        if fetched is None:
            fetched = self._held[name] = Fetched(
                path=path,
                mime_type=entry.mime_type,
                size_bytes=entry.size_bytes,
                sha256=path.stem,
                extension=path.suffix,
            )
        return fetched

    def _make_room(self) -> None:
        excess = sum(entry.size_bytes for entry in self._files.values()) - self._quota_bytes
        if excess <= 0:
            return
        for name in [name for name in self._files if not (self._root / name).is_file()]:
            excess -= self._files.pop(name).size_bytes  # clean-up took it
        for name in list(self._files):
            if excess <= 0:
                return
            if name not in self._held:
                excess -= self._files.pop(name).size_bytes
                (self._root / name).unlink(missing_ok=True)
                log.debug("cached input removed", extra={"event": "inputs.evicted", "file": name})

    def _open(self) -> None:
        """Read what an earlier process left, least recently used first; its unfinished files go."""
        self._root.mkdir(parents=True, exist_ok=True)
        if self._opened:
            return
        found = [(entry.stat(), entry) for entry in self._root.iterdir() if entry.is_file() and entry.name[0] != "."]
        for status, entry in sorted(found, key=lambda item: item[0].st_mtime):
            if entry.suffix == _DRAFT:
                entry.unlink(missing_ok=True)
            else:
                self._files[entry.name] = _Entry(size_bytes=status.st_size)
        self._opened = True
