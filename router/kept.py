"""Small files that the router makes and keeps: secrets, and what was made over the API. Mode 0600, written whole."""

import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib.settings import SettingsError


def new_secret() -> str:
    """A key as Vast's look: 64 hex digits."""
    return secrets.token_hex(32)


def write_private(path: Path, data: bytes) -> None:
    """Replace a file in one step, readable by its owner only. Blocks. Raises: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fresh.touch(mode=0o600)
        fresh.write_bytes(data)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


class Kept:
    """A JSON object in a file. All methods block."""

    def __init__(self, path: Path) -> None:
        """Read the file, if it is there. Raises: SettingsError."""
        self._path = path
        try:
            self._values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"{path} can't be read: {error}. Mend it, or remove it to have new keys made."
            ) from error

    def get(self, name: str) -> Any:
        """What is kept under a name; None: nothing."""
        return self._values.get(name)

    def items(self) -> list[tuple[str, Any]]:
        """All that is kept."""
        return [(name, value) for name, value in self._values.items() if value is not None]

    def made_once(self, name: str, make: Callable[[], str] = new_secret) -> str:
        """What is kept under a name, made and written if it is not there. Raises: SettingsError."""
        if name not in self._values:
            self.put(name, make())
        return str(self._values[name])

    def put(self, name: str, value: Any) -> None:
        """Keep a JSON value; None forgets. Raises: SettingsError."""
        self._values[name] = value
        if value is None:
            del self._values[name]
        try:
            write_private(self._path, json.dumps(self._values, indent=2).encode() + b"\n")
        except OSError as error:
            raise SettingsError(f"{self._path} can't be written: {error.strerror}; set ROUTER_STATE_DIR.") from error
