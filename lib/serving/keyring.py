"""API keys: read from a file and the environment, held as hashes only, looked up (``lib.serving.keys`` makes them).

Keys are random and long, so a plain SHA-256 hides them: there is nothing to guess. The file is a YAML list:

    - name: "alice"
      tenant: "studio"            # whose jobs it sees; its own name when absent
      scopes: ["jobs"]            # or admin: all jobs, metrics, every dead letter
      sha256: "<64 hex digits>"
      requests_per_minute: 60     # optional, as max_in_flight: own limits
"""

import asyncio
import hashlib
import hmac
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from lib.clock import Clock
from lib.settings import AccessSettings, SettingsError

log = logging.getLogger(__name__)

LEAST_KEY_CHARACTERS = 16
LOOK_AGAIN_S = 1.0
"""A change of the file counts after so long at most."""
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_LISTED = re.compile(rf"(?:(?P<tenant>{_NAME})/)?(?P<name>{_NAME})(?P<admin>\+admin)?:(?P<key>.+)")
_HASH = re.compile(r"sha256:(?P<hex>[0-9a-fA-F]{64})")
Name = Annotated[str, Field(pattern=rf"^{_NAME}$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What is known of a key. ``sha256`` is of the whole key; limits are the key's own, ``None`` = the general ones."""

    name: str
    tenant: str
    sha256: bytes = field(repr=False)
    admin: bool = False
    requests_per_minute: float | None = None
    max_in_flight: int | None = None


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: Name
    tenant: Name | None = None
    scopes: list[Literal["jobs", "admin"]] = Field(default=["jobs"], min_length=1)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]
    requests_per_minute: float | None = Field(None, gt=0, allow_inf_nan=False)
    max_in_flight: int | None = Field(None, ge=1)

    def key(self) -> ApiKey:
        return ApiKey(
            name=self.name,
            tenant=self.tenant or self.name,
            sha256=bytes.fromhex(self.sha256),
            admin="admin" in self.scopes,
            requests_per_minute=self.requests_per_minute,
            max_in_flight=self.max_in_flight,
        )


_ENTRIES = TypeAdapter(list[_Entry])


def digest(key: str) -> bytes:
    """Return what is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def listed_keys(text: str) -> list[ApiKey]:
    """Read ``API_KEYS``: a comma list of ``[tenant/]name[+admin]:key``, the key itself or ``sha256:<hex>``.

    Raises: SettingsError, without the key.
    """
    return [_listed(item.strip(), number) for number, item in enumerate(text.split(","), start=1) if item.strip()]


def _listed(item: str, number: int) -> ApiKey:
    found = _LISTED.fullmatch(item)
    if found is None:
        raise SettingsError(
            f"API_KEYS, entry {number}: expected [tenant/]name[+admin]:key, or name:sha256:<64 hex digits>"
        )
    name, key = found["name"], found["key"]
    hashed = _HASH.fullmatch(key)
    if hashed is None and (key.startswith("sha256:") or len(key) < LEAST_KEY_CHARACTERS):
        raise SettingsError(
            f"API_KEYS, entry {number} ({name}): expected a random key of at least {LEAST_KEY_CHARACTERS} characters, "
            "or sha256: and 64 hex digits; `python -m lib.serving.keys new` makes one"
        )
    return ApiKey(
        name=name,
        tenant=found["tenant"] or name,
        sha256=bytes.fromhex(hashed["hex"]) if hashed else digest(key),
        admin=found["admin"] is not None,
    )


def file_keys(text: str) -> list[ApiKey]:
    """Read the text of a key file. Raises: ValueError, saying what is wrong and where."""
    import yaml  # not needed by who has no key file

    try:
        return [entry.key() for entry in _ENTRIES.validate_python(yaml.safe_load(text))]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ValueError(f"it is not YAML (line {mark.line + 1})" if mark else "it is not YAML") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{place}: {first['msg']}" if place else "expected a list of keys") from None


class KeyRing:
    """The keys of now. A changed file counts from the next look-up on, ``LOOK_AGAIN_S`` after the last look; one that
    can't be read leaves the keys as they were, and is logged."""

    def __init__(self, *, fixed: Sequence[ApiKey], path: Path | None, clock: Clock) -> None:
        """Reads ``path``: call it before the loop serves, or in a thread. Raises: SettingsError."""
        self._fixed = tuple(fixed)
        self._path = path
        self._clock = clock
        self._looked_at = clock.monotonic()
        self._state = _state(path)
        try:
            self._keys = self._read()
        except (OSError, ValueError) as error:
            raise SettingsError(f"API_KEYS_FILE={path}: {reason_of(error)}") from error

    def __len__(self) -> int:
        return len(self._keys)

    async def find(self, key: str) -> ApiKey | None:
        """Return the key's entry. What a look-up's duration tells is about a hash, which leads to no key."""
        if self._path is not None and self._clock.monotonic() - self._looked_at >= LOOK_AGAIN_S:
            self._looked_at = self._clock.monotonic()
            await asyncio.to_thread(self._look)
        hashed = digest(key)
        found = self._keys.get(hashed)
        return found if found is not None and hmac.compare_digest(found.sha256, hashed) else None

    def _look(self) -> None:
        state = _state(self._path)
        if state == self._state:
            return
        self._state = state
        try:
            self._keys = self._read()
        except (OSError, ValueError) as error:
            facts = {"event": "keys.broken", "path": str(self._path), "reason": reason_of(error)}
            log.error("the new key file can't be used, the keys stay as they were", extra=facts)
        else:
            log.info("keys read again", extra={"event": "keys.read", "count": len(self._keys)})

    def _read(self) -> dict[bytes, ApiKey]:
        listed = [] if self._path is None else file_keys(self._path.read_text(encoding="utf-8"))
        return indexed((*self._fixed, *listed))


def key_ring(settings: AccessSettings, *, clock: Clock) -> KeyRing:
    """Make the ring that the settings describe; reads a file. Raises: SettingsError."""
    text = settings.api_keys.get_secret_value() if settings.api_keys is not None else ""
    return KeyRing(fixed=listed_keys(text), path=settings.api_keys_file, clock=clock)


def indexed(keys: Iterable[ApiKey]) -> dict[bytes, ApiKey]:
    """Return the keys by their hash. Raises: ValueError when two have one name, or are the same key."""
    found: dict[bytes, ApiKey] = {}
    names: set[str] = set()
    for key in keys:
        if key.name in names:
            raise ValueError(f"two keys have the name {key.name}")
        if key.sha256 in found:
            raise ValueError(f"{found[key.sha256].name} and {key.name} are the same key")
        names.add(key.name)
        found[key.sha256] = key
    return found


def _state(path: Path | None) -> tuple[int, int, int] | None:
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def reason_of(error: OSError | ValueError) -> str:
    """Say why a key file can't be used."""
    return error.strerror or "unreadable" if isinstance(error, OSError) else str(error)
