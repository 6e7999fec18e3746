"""The seam inside this package: what the engine needs of a ComfyUI process, launched by us or attached to."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Local folders that we share with that ComfyUI; ``temp`` is ``None`` where only the other two are known."""

    output: Path
    input: Path
    temp: Path | None = None


class Server(Protocol):
    """One ComfyUI server. Its state changes on the event loop only."""

    name: str
    base_url: str

    @property
    def folders(self) -> Folders | None:
        """Shared folders; ``None`` = no file access, use ``/view`` and ``/upload/image``."""
        ...

    @property
    def generation(self) -> int:
        """Grows with each (re)start that we know of."""
        ...

    @property
    def down_reason(self) -> str | None:
        """Why it is not running now (exit code, last line); ``None`` while it is, or may be, up."""
        ...

    def log_tail(self, lines: int = 50) -> tuple[str, ...]:
        """The last log lines, oldest first; empty where we don't own the process."""
        ...

    def on_down(self, callback: Callable[[str], None]) -> None:
        """Have ``callback(reason)`` called, on the loop, as soon as the process is seen to end."""
        ...

    async def restart(self, reason: str) -> None:
        """Return once a restart is under way; idempotent meanwhile.

        Raises: EngineUnreachable where no restart is possible."""
        ...

    async def wait_answering(self) -> None:
        """Return when ``GET /system_stats`` answers 200 (again)."""
        ...
