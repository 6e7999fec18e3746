"""Where workers come from, as a protocol: processes of this machine, rented machines, an operator's script."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from lib.errors import ServiceError


class ProviderFailed(ServiceError):
    """The provider did not do it; the message says why, without secrets."""

    retryable = True


class InstanceState(StrEnum):
    """What a provider says of a worker's machine or process; whether the worker is ready it says itself, in reports."""

    RUNNING = "running"
    STOPPED = "stopped"
    """It keeps its disk, and can be resumed."""
    LEAVING = "leaving"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One worker as its provider knows it. ``id`` is the ``CONTAINER_ID`` that it reports with, ``started_at`` epoch
    seconds, ``price`` dollars per hour (None: the group's), ``detail`` words for people."""

    id: int
    state: InstanceState
    started_at: float = 0.0
    price: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What a worker has to know to become one of the group: its environment (``REPORT_ADDR``, ``MASTER_TOKEN``, and
    what the operator gave)."""

    endpoint: str
    group: str
    environment: Mapping[str, str] = field(repr=False)


class Provider(Protocol):
    """Starts and stops the workers of one group. Every method raises ProviderFailed.

    ``keeps_stopped``: stopped workers can be resumed. ``fresh_s``: what ``list`` said is true for so long.
    """

    keeps_stopped: bool
    fresh_s: float

    async def start(self, count: int, launch: Launch) -> Sequence[Instance]:
        """Start new ones; fewer than asked for where there are no more."""
        ...

    async def resume(self, instance: int, launch: Launch) -> None:
        """Start a stopped one again."""
        ...

    async def restart(self, instance: int, launch: Launch) -> None:
        """Let it finish what it does, end it and start it again, so that it updates itself."""
        ...

    async def stop(self, instance: int) -> None:
        """Let it finish what it does and stop it; it can be resumed. Only where ``keeps_stopped``."""
        ...

    async def remove(self, instance: int) -> None:
        """Let it finish what it does and end it for good. One that is not there any more is no error."""
        ...

    async def list(self) -> Sequence[Instance]:
        """All of the group."""
        ...

    async def close(self) -> None:
        """The router stops."""
        ...
