"""What the boot benchmark needs from the service, as protocols; ``lib.app`` (or a runner here) plugs in."""

from collections.abc import Mapping
from typing import Any, Protocol

from lib.errors import ErrorCode, ServiceError


class RunTimes(Protocol):
    """How long one run took, in seconds."""

    @property
    def total_s(self) -> float:
        """From submit to the terminal state, as a caller sees it."""
        ...

    @property
    def execute_s(self) -> float:
        """ComfyUI's own execution."""
        ...


class BenchRunner(Protocol):
    """Runs a workflow as one internal job through the whole service."""

    @property
    def engines(self) -> tuple[str, ...]:
        """Names of the engines that answer; each is measured."""
        ...

    async def run(self, workflow: bytes, *, engine: str, timeout_s: float) -> RunTimes:
        """Run one graph (API format, JSON bytes) on ``engine``; placeholders are drawn anew.

        Raises: ServiceError when it did not complete.
        """
        ...

    def warm_again(self, workflow: bytes, *, timeout_s: float) -> None:
        """Have this graph run on an engine each time that it was restarted, before it is given jobs."""
        ...

    async def checkpoints(self) -> tuple[str, ...] | None:
        """Names of the installed checkpoints; None where they can't be asked for."""
        ...

    async def system_stats(self) -> Mapping[str, Any] | None:
        """ComfyUI's ``/system_stats`` of one engine; None where it can't be asked for."""
        ...


class BenchmarkFailed(ServiceError):
    """No run completed, so there is no score; ``details["causes"]`` lists each different reason."""

    code = ErrorCode.EXECUTION_FAILED
