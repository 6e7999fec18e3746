"""The key file of a store: what is at rest is encrypted with it, and further keys come of it; worker and router."""

import logging
import os
import secrets
import stat
from functools import cached_property
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from lib.errors import StorageFailed

log = logging.getLogger(__name__)

KEY_BYTES = 32
PREFIX_BYTES = 8
COUNTER_BYTES = 4
NONCE_BYTES = PREFIX_BYTES + COUNTER_BYTES
OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Unreadable(Exception):
    """The bytes were sealed with another key, for another place, or are damaged."""


class Vault:
    """Seals bytes with AES-256-GCM, bound to the place where they lie, and derives keys by purpose.

    A nonce is a random number, drawn once a vault, and a count: no call asks the system for randomness, and none
    comes twice. To be used by one thread at a time where it seals.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._prefix = b""
        self._count = 1 << (8 * COUNTER_BYTES)

    @classmethod
    def random(cls) -> "Vault":
        """A vault that nobody opens again: for state that lives in memory only."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def open(cls, path: Path) -> "Vault":
        """Read the key file, or make it. Blocks. Raises StorageFailed with what to do."""
        try:
            if not path.exists():
                _create(path)
            _tighten(path)
            text = path.read_text(encoding="ascii", errors="replace").strip()
        except OSError as error:
            raise StorageFailed(f"{path}, the key of the job store, can't be used: {error.strerror}.") from error
        try:
            key = bytes.fromhex(text)
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise StorageFailed(
                f"{path} is not a key of ours ({2 * KEY_BYTES} hexadecimal digits): put the right one back, or move it "
                "away; without it, earlier jobs can't be read and are set aside."
            )
        return cls(key)

    def derive(self, purpose: str) -> bytes:
        """Return a key of 32 bytes for this purpose; the same one each time, and none tells about another."""
        return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=purpose.encode()).derive(self._key)

    def seal(self, data: bytes, place: str) -> bytes:
        """Encrypt for ``place`` (row and column)."""
        nonce = self._nonce()
        return nonce + self._cipher.encrypt(nonce, data, place.encode())

    def unseal(self, sealed: bytes, place: str) -> bytes:
        """Raises Unreadable."""
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], place.encode())
        except (InvalidTag, ValueError) as error:
            raise Unreadable(f"{place} can't be decrypted") from error

    @cached_property
    def _cipher(self) -> AESGCM:
        return AESGCM(self.derive("rows"))

    def _nonce(self) -> bytes:
        if self._count >= 1 << (8 * COUNTER_BYTES):
            self._prefix, self._count = secrets.token_bytes(PREFIX_BYTES), 0
        self._count += 1
        return self._prefix + (self._count - 1).to_bytes(COUNTER_BYTES, "big")


def _create(path: Path) -> None:
    """Write a new key under another name first, so that a torn key never stands in its place."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_bytes(KEY_BYTES).hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _tighten(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if not mode & OTHERS:
        return
    try:
        path.chmod(mode & ~OTHERS)
    except OSError as error:
        raise StorageFailed(
            f"{path} can be read by others (mode {mode:o}) and this user may not change that: chmod 600 it."
        ) from error
    log.warning(
        "the key of the job store could be read by others; its mode is 0600 now",
        extra={"event": "store.key_tightened", "path": str(path), "mode": f"{mode:o}"},
    )
