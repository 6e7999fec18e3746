"""One model from its source into one file: streamed, hashed, bounded, looked at early, resumed where it broke off.

The file is a draft until all of it is there and right; giving it its name is ``library``'s business.
"""

import asyncio
import hashlib
import re
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

import stamina
from aiohttp import ClientResponse

from lib.comfy.models.names import HEAD_BYTES, PICKLES, mistake, sniffed, suffix_of, url_name
from lib.errors import InputFetchFailed, StorageFailed, UnsafeInput
from lib.storage.problems import Transient
from lib.storage.reading import Reader
from lib.storage.sources import Source

ATTEMPTS = 6
BLOCK_BYTES = 4 << 20
RESERVE_BYTES = 512 << 20
"""So much of the disk stays free."""
_VALIDATORS = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")

OnProgress = Callable[[int, int | None], None]
"""Told how many bytes are there, and of how many."""


async def _no_room_needed(needed_bytes: int) -> None:
    """Where there is no quota."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be fetched, and under which conditions. ``sha256``: what it has to be, "" = anything; ``validators``:
    what it was when we fetched it last; ``make_room``: told how many bytes will come."""

    source: Source
    draft: Path
    limit_bytes: int
    sha256: str = ""
    pickles: bool = True
    validators: Mapping[str, str] = field(default_factory=dict)
    resumes: str = ""
    on_progress: OnProgress = lambda done, total: None
    on_begin: Callable[[str], None] = lambda validator: None
    make_room: Callable[[int], Awaitable[None]] = _no_room_needed
    attempts: int = ATTEMPTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A whole file, in its draft. ``name`` is what its source calls it."""

    sha256: str
    size_bytes: int
    suffix: str
    name: str
    validators: Mapping[str, str]


class _Draft:
    """The file while it grows. Its calls block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size_bytes = 0
        self.head = b""
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None

    def begin(self) -> None:
        """Empty, from the start."""
        self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("wb")
        self.size_bytes, self.head, self._hash = 0, b"", hashlib.sha256()

    def resume(self) -> int:
        """Take up what is there; return how much."""
        if self._file is None and self.path.is_file():
            self._file = self.path.open("r+b")
            while block := self._file.read(BLOCK_BYTES):
                self._count(block)
        return self.size_bytes

    def write(self, block: bytes) -> None:
        if self._file is not None:
            self._file.write(block)
            self._count(block)

    def _count(self, block: bytes) -> None:
        self._hash.update(block)
        self.size_bytes += len(block)
        self.head += block[: HEAD_BYTES - len(self.head)]

    def close(self) -> str:
        """Return the SHA-256 of all that was written."""
        if self._file is not None:
            self._file.close()
            self._file = None
        return self._hash.hexdigest()


class Transfer:
    """Carries out one order, once."""

    def __init__(self, reader: Reader, order: Order, *, retry_wait_s: float = 1.0) -> None:
        self._reader = reader
        self._order = order
        self._draft = _Draft(order.draft)
        self._retry_wait_s = retry_wait_s
        self._resumes = order.resumes
        self._suffix = ""

    async def run(self) -> Arrived | None:
        """Return the file, or ``None`` where the source still gives what it gave last.

        A draft stays where it may be resumed. Raises: InputFetchFailed, UnsafeInput, StorageFailed, Transient (no
        attempt is left), OSError, aiohttp.ClientError."""
        try:
            async for attempt in stamina.retry_context(
                on=Transient,
                attempts=self._order.attempts,
                timeout=None,
                wait_initial=self._retry_wait_s,
                wait_jitter=self._retry_wait_s,
                wait_max=30.0,
            ):
                with attempt:
                    return await self._attempt()
            raise AssertionError("stamina ends by returning or raising")
        finally:
            asyncio.get_running_loop().run_in_executor(None, self._draft.close)

    async def _attempt(self) -> Arrived | None:
        order = self._order
        have = await asyncio.to_thread(self._draft.resume) if self._resumes else 0
        asked = {"Accept-Encoding": "identity"}
        if have:
            asked |= {"Range": f"bytes={have}-", "If-Range": self._resumes}
        else:
            asked |= order.validators
        async with self._reader.opened(
            order.source, headers=asked, passing=(HTTPStatus.NOT_MODIFIED, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
        ) as response:
            if response.status == HTTPStatus.NOT_MODIFIED or (not have and _same(response, order.validators)):
                return None
            if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not self._continues(response, have):
                await asyncio.to_thread(self._draft.begin)
                self._resumes = ""
                raise Transient("did not resume the transfer")
            name = await self._begin(response)
            await self._receive(response)
            return await self._finish(response, name)

    def _continues(self, response: ClientResponse, have: int) -> bool:
        """Whether the answer is the file, or the rest that was asked for."""
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            return True
        found = _RANGE.match(response.headers.get("Content-Range", ""))
        return found is not None and int(found[1]) == have and have > 0

    async def _begin(self, response: ClientResponse) -> str:
        """Look at what the headers tell before anything is written; return what the source calls the file."""
        order = self._order
        disposition = response.content_disposition
        names = (url_name(order.source.url), (disposition and disposition.filename) or "", response.url.name)
        self._suffix = suffix_of(*names, mime_type=response.content_type)
        self._check_kind()
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            await asyncio.to_thread(self._draft.begin)
        have, total = self._draft.size_bytes, self._total(response)
        if (total or 0) > order.limit_bytes:
            raise self._too_large()
        await order.make_room(total or 0)
        await asyncio.to_thread(_check_room, order.draft.parent, (total or have) - have)
        validator = response.headers.get("ETag", response.headers.get("Last-Modified", ""))
        self._resumes = "" if validator.startswith("W/") else validator
        await asyncio.to_thread(order.on_begin, self._resumes)
        told = [name for name in names if suffix_of(name)]
        return (told or [name for name in names if name] or ["model"])[0]

    async def _receive(self, response: ClientResponse) -> None:
        order, total, buffer = self._order, self._total(response), bytearray()
        try:
            async for chunk in response.content.iter_any():
                buffer += chunk
                if len(buffer) >= (BLOCK_BYTES if self._draft.size_bytes else HEAD_BYTES):
                    block = bytes(buffer)
                    buffer.clear()
                    await self._keep(block, total)
        finally:  # also of a transfer that breaks off: it is resumed behind all that came
            if buffer:
                await self._keep(bytes(buffer), total)
        if total is not None and self._draft.size_bytes < total:
            raise Transient("broke the transfer off")
        order.on_progress(self._draft.size_bytes, total)

    async def _keep(self, block: bytes, total: int | None) -> None:
        first = not self._draft.size_bytes
        if self._draft.size_bytes + len(block) > self._order.limit_bytes:
            raise self._too_large()
        await asyncio.to_thread(self._draft.write, block)
        if first:
            self._check_content(total)
        self._order.on_progress(self._draft.size_bytes, total)

    async def _finish(self, response: ClientResponse, name: str) -> Arrived:
        order, size = self._order, self._draft.size_bytes
        self._check_content(size)
        sha256 = await asyncio.to_thread(self._draft.close)
        if order.sha256 and sha256 != order.sha256:
            await asyncio.to_thread(order.draft.unlink, missing_ok=True)
            details = {"reason": "wrong_sha256", "host": self._host, "sha256": sha256, "expected": order.sha256}
            raise InputFetchFailed(f"its SHA-256 is {sha256}, expected {order.sha256}", details=details)
        validators = {asked: response.headers[told] for told, asked in _VALIDATORS.items() if told in response.headers}
        return Arrived(sha256=sha256, size_bytes=size, suffix=self._suffix, name=name, validators=validators)

    # -- what is refused ---------------------------------------------------------------------------------------------

    def _check_content(self, size: int | None) -> None:
        head = self._draft.head
        self._suffix = self._suffix or sniffed(head)
        what = mistake(head, self._suffix, size) if self._suffix or not head else "no kind of model that is known"
        if what is not None:
            expected = f"a model ({self._suffix})" if self._suffix else "a model"
            details = {"reason": "not_a_model", "host": self._host}
            raise InputFetchFailed(f"host {self._host!r} gave {what}, expected {expected}", details=details)
        self._check_kind()

    def _check_kind(self) -> None:
        if self._suffix in PICKLES and not self._order.pickles:
            raise pickle_refused(self._suffix)

    def _too_large(self) -> InputFetchFailed:
        limit = self._order.limit_bytes
        details = {"reason": "too_large", "limit_bytes": limit, "host": self._host}
        return InputFetchFailed(f"the model is larger than MODEL_MAX_BYTES ({limit} bytes)", details=details)

    def _total(self, response: ClientResponse) -> int | None:
        """The whole file's size, where the source tells it."""
        if response.status == HTTPStatus.PARTIAL_CONTENT:
            found = _RANGE.match(response.headers.get("Content-Range", ""))
            return int(found[2]) if found is not None and found[2] != "*" else None
        return None if "Content-Encoding" in response.headers else response.content_length

    @property
    def _host(self) -> str:
        return self._reader.host(self._order.source)


def pickle_refused(suffix: str) -> UnsafeInput:
    """The error for a format that this caller may not bring."""
    return UnsafeInput(
        f"{suffix} files can hold code and are not downloaded for this caller (MODEL_PICKLES); "
        "use .safetensors or .gguf",
        details={"reason": "pickle"},
    )


def _same(response: ClientResponse, validators: Mapping[str, str]) -> bool:
    """Whether a source that does not answer conditions shows by its tag that nothing changed."""
    tag = response.headers.get("ETag")
    return tag is not None and tag == validators.get("If-None-Match")


def _check_room(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free - RESERVE_BYTES
    if needed_bytes > free:
        raise StorageFailed(
            f"there is no room for the model: it takes {needed_bytes} bytes, {max(free, 0)} are free here",
            details={"reason": "disk_full", "needed_bytes": needed_bytes},
        )
