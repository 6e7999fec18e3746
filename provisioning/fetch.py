"""One download of a large file: resumed, verified, renamed into place when it is whole, its hash pinned.

For files that the operator names. What callers of the service name is fetched by ``lib.storage``.
"""

import hashlib
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import requests
import stamina

from lib.errors import StorageFailed
from lib.settings import SaladSettings, SettingsError
from lib.storage.operator_urls import OperatorUrls
from provisioning.errors import ProvisioningError
from provisioning.pins import Download, Pins

CHUNK_BYTES = 1 << 17  # also what is lost when a connection breaks
CONNECT_TIMEOUT_S = 15.0
READ_TIMEOUT_S = 60.0
ATTEMPTS = 6
WRONG_CONTENT_REMEDY = "If the new file is the right one, correct the manifest, or remove its line from the lock file."
RANDOM_MARK = b'"pyworker.random_weights":"true"'


class Progress(Protocol):
    """Where a download tells how far it is."""

    def start(self, name: str, *, done: int, total: int | None) -> None:
        """Begin, or begin again at ``done`` bytes."""

    def advance(self, name: str, count: int) -> None:
        """Count ``count`` more bytes."""

    def finish(self, name: str) -> None:
        """End, whatever the outcome."""


class _Transient(Exception):
    """Worth another attempt."""


class _WrongContent(ProvisioningError):
    """Whole, but not what was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetcher:
    """Downloads with one set of pins, one token, one progress display; ``stopped`` ends all of them early. ``urls``
    reads with the operator's other keys."""

    pins: Pins
    progress: Progress
    hf_token: str | None = None
    stopped: threading.Event
    retry_wait_s: float = 1.0
    urls: OperatorUrls = field(default_factory=lambda: OperatorUrls(SaladSettings.model_construct()))

    def fetch(self, item: Download) -> int:
        """Have ``item.target`` as wanted; give the bytes that were downloaded, 0 when it was there.

        Raises ProvisioningError: refused, another size or hash than wanted, disk full, or no success after retries.
        """
        expected = self.pins.expected(item)
        if item.target.exists() and self._accept(item, expected):
            return 0
        item.target.parent.mkdir(parents=True, exist_ok=True)
        if expected is None and not _validator_path(partial_path(item.target)).is_file():
            discard_partial(item.target)  # nothing could tell that the rest belongs to another version
        try:
            return self._received_whole(item, expected)
        except (SettingsError, StorageFailed) as error:
            raise ProvisioningError(f"{item.url} can't be read: {error}") from error
        except (_Transient, requests.RequestException) as error:
            raise ProvisioningError(
                f"{item.url} could not be downloaded: {error}",
                remedy="Check the network, then start again: what was received is kept.",
            ) from error
        finally:
            self.progress.finish(item.target.name)

    def _accept(self, item: Download, expected: str | None) -> bool:
        """Tell whether the file that is there will do. Where nothing is known of it, it is adopted as it is."""
        known = self.pins.verified(item.target)
        if known is not None and known == (expected or known):
            return True
        if is_random_checkpoint(item.target):
            return False
        if item.size_bytes is not None and item.target.stat().st_size != item.size_bytes:
            return False
        actual = hash_file(item.target)
        if expected is not None and actual != expected:
            return False
        self.pins.remember(item, actual)
        return True

    def _received_whole(self, item: Download, expected: str | None) -> int:
        resumed = partial_path(item.target).exists()
        received = self._retried(item)
        try:
            self._put_in_place(item, expected)
        except _WrongContent:
            if not resumed:
                raise
            received += self._retried(item)  # the old beginning may be what was wrong
            self._put_in_place(item, expected)
        return received

    def _retried(self, item: Download) -> int:
        received = 0
        for attempt in stamina.retry_context(
            on=(_Transient, requests.ConnectionError, requests.Timeout),
            attempts=ATTEMPTS,
            timeout=None,
            wait_initial=self.retry_wait_s,
            wait_max=30 * self.retry_wait_s,
            wait_jitter=self.retry_wait_s / 2,
        ):
            with attempt:
                received += self._receive(item)
        return received

    def _receive(self, item: Download) -> int:
        partial = partial_path(item.target)
        offset = partial.stat().st_size if partial.exists() else 0
        timeout = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
        with self.urls.get(item.url, headers=self._headers(item, offset), timeout=timeout) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                return self._range_refused(item, response, offset)
            _check_status(item, response)
            if response.status_code != requests.codes.partial_content:
                offset = 0
            length = response.headers.get("Content-Length")
            total = offset + int(length) if length is not None else None
            _check_size(item, total)
            _check_disk(item, None if total is None else total - offset)
            _remember_validator(partial, response)
            self.progress.start(item.target.name, done=offset, total=total)
            return self._store(response, partial, offset=offset, total=total, limit=item.size_bytes)

    def _headers(self, item: Download, offset: int) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity", "User-Agent": "comfyui-pyworker"}
        if self.hf_token and may_see_token(item.url):
            headers["Authorization"] = f"Bearer {self.hf_token}"
        if offset:
            headers["Range"] = f"bytes={offset}-"
            validator = _validator_path(partial_path(item.target))
            if validator.is_file():
                headers["If-Range"] = validator.read_text()
        return headers

    def _range_refused(self, item: Download, response: requests.Response, offset: int) -> int:
        """All was received already, or the file changed: then it is fetched from its beginning."""
        if response.headers.get("Content-Range") == f"bytes */{offset}":
            return 0
        discard_partial(item.target)
        raise _Transient("the file on the server has become shorter")

    def _store(
        self, response: requests.Response, partial: Path, *, offset: int, total: int | None, limit: int | None
    ) -> int:
        received = 0
        with partial.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            try:
                for chunk in response.iter_content(CHUNK_BYTES):
                    if self.stopped.is_set():
                        raise ProvisioningError("The download was stopped.", remedy="Start again to go on.")
                    file.write(chunk)
                    received += len(chunk)
                    self.progress.advance(partial.name.removeprefix(".").removesuffix(".part"), len(chunk))
                    if limit is not None and offset + received > limit:
                        break
            except requests.exceptions.ChunkedEncodingError as error:
                raise _Transient(f"the connection broke after {offset + received} bytes") from error
        if total is not None and offset + received < total:
            raise _Transient(f"the connection ended after {offset + received} of {total} bytes")
        return received

    def _put_in_place(self, item: Download, expected: str | None) -> None:
        partial = partial_path(item.target)
        size = partial.stat().st_size
        actual = hash_file(partial)
        problem = None
        if item.size_bytes is not None and size != item.size_bytes:
            problem = f"{item.url} has {size} bytes, {item.size_bytes} were expected."
        elif expected is not None and actual != expected:
            origin = "the manifest" if item.sha256 else "the first download"
            problem = f"{item.url} has the SHA-256 {actual}, but {expected} was expected ({origin})."
        if problem:
            discard_partial(item.target)
            raise _WrongContent(problem, remedy=WRONG_CONTENT_REMEDY)
        partial.replace(item.target)
        _validator_path(partial).unlink(missing_ok=True)
        self.pins.remember(item, actual)


def may_see_token(url: str) -> bool:
    """The Hugging Face token goes to ``https://huggingface.co`` only; requests drops it when redirected elsewhere."""
    parts = urlsplit(url)
    return parts.scheme == "https" and parts.netloc == "huggingface.co"


def partial_path(target: Path) -> Path:
    """Give the place of what was received so far."""
    return target.with_name(f".{target.name}.part")


def discard_partial(target: Path) -> None:
    """Forget what was received."""
    partial_path(target).unlink(missing_ok=True)
    _validator_path(partial_path(target)).unlink(missing_ok=True)


def hash_file(path: Path) -> str:
    """Give the SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_random_checkpoint(path: Path) -> bool:
    """Tell whether ``path`` is the checkpoint with random weights that we make on hosts without a GPU."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return RANDOM_MARK in file.read(min(length, CHUNK_BYTES)) if path.suffix == ".safetensors" else False


def _validator_path(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.etag")


def _remember_validator(partial: Path, response: requests.Response) -> None:
    validator = response.headers.get("ETag", "")
    path = _validator_path(partial)
    if validator and not validator.startswith("W/"):
        path.write_text(validator)
    else:
        path.unlink(missing_ok=True)


def _check_status(item: Download, response: requests.Response) -> None:
    code = response.status_code
    if code == requests.codes.too_many_requests or code >= 500:
        raise _Transient(f"the server answered {code}")
    if code >= 400:
        hint = " Set HF_TOKEN if the model is gated." if may_see_token(item.url) else ""
        raise ProvisioningError(f"{item.url} answered {code} {response.reason}.{hint}")


def _check_size(item: Download, total: int | None) -> None:
    if item.size_bytes is not None and total is not None and total != item.size_bytes:
        discard_partial(item.target)
        raise ProvisioningError(
            f"{item.url} has {total} bytes, {item.size_bytes} were expected.", remedy="Correct the manifest."
        )


def _check_disk(item: Download, needed: int | None) -> None:
    free = shutil.disk_usage(item.target.parent).free
    if needed is not None and needed > free:
        raise ProvisioningError(
            f"{item.target.parent} has {free >> 20} MiB free, {item.url} needs {needed >> 20} MiB.",
            remedy="Make room, then start again.",
        )
