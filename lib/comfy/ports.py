"""The seam inside this package: what the engine needs of a ComfyUI process, launched by us or attached to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import aiohttp

from lib.comfy.liveness import Stats


class CareAction(StrEnum):
    """What was done for a ComfyUI's health; a closed set, for logs and metrics."""

    FREED = "freed"
    """It was asked to unload its models and drop its caches."""
    RECYCLED = "recycled"
    """Restarted between jobs: memory, or so many jobs."""
    RESTARTED_EXECUTOR = "restarted_executor"
    """Its only worker thread was dead."""
    RESTARTED_GPU = "restarted_gpu"
    """It could not use its GPU any more."""
    RESTARTED_STUCK = "restarted_stuck"
    """A node ignored its interrupt, or nothing was answered."""
    RESTARTED_DIED = "restarted_died"
    """It had ended by itself."""


DownListener = Callable[[str, CareAction | None], None]
"""``(reason, action)``: what the server does about its end by itself, ``None`` where somebody asked for the end."""


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
    def pid(self) -> int | None:
        """The process, where it is ours and runs."""
        ...

    @property
    def restartable(self) -> bool:
        """Whether ``restart`` can be of any use."""
        ...

    @property
    def down_reason(self) -> str | None:
        """Why it is not running now (exit code, last line); ``None`` while it is, or may be, up."""
        ...

    def log_tail(self, lines: int = 50) -> tuple[str, ...]:
        """The last log lines, oldest first; empty where we don't own the process."""
        ...

    def on_down(self, callback: DownListener) -> None:
        """Have ``callback`` called, on the loop, as soon as the process is seen to end."""
        ...

    async def restart(self, reason: str, *, planned: bool = False) -> bool:
        """Return once a restart is under way; false = one was already, and this call changed nothing.

        ``planned``: nothing is wrong with it, so the end counts as no failure and is followed by a start at once.

        Raises: EngineUnreachable where no restart is possible."""
        ...

    async def wait_answering(self) -> None:
        """Return when ``GET /system_stats`` answers 200 (again)."""
        ...


class Start(Protocol):
    """How one ComfyUI of ours is started, everything but the port, and how it is known again."""

    @property
    def name(self) -> str: ...
    @property
    def cwd(self) -> Path: ...
    @property
    def host(self) -> str:
        """Where we reach it."""
        ...

    @property
    def log(self) -> Path: ...
    @property
    def record(self) -> Path: ...
    @property
    def folders(self) -> Folders | None:
        """Its folders, where they are ours to choose; else ``shared`` finds them."""
        ...

    @property
    def fixed_port(self) -> bool:
        """Whether it has to be the port that it was planned with."""
        ...

    def command(self, port: int) -> tuple[str, ...]: ...

    def environment(self, port: int) -> Mapping[str, str]:
        """What is added to ours."""
        ...

    def base_url(self, port: int) -> str: ...

    def make_folders(self) -> None:
        """Blocks."""
        ...

    def is_ours(self, stats: Stats, *, pid: int, port: int) -> bool:
        """Whether the server that answers is what was started as ``pid``. Blocks."""
        ...

    async def shared(self, stats: Stats, *, port: int, http: aiohttp.ClientSession) -> Folders | None:
        """The folders that we share with the server that answers."""
        ...
