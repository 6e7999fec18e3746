"""A finished request, an engine that tests turn, a log: what several upstream requirements are shown with."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from lib.jobs.model import Job, JobSpec, JobStatus, Timings

ACCEPTED_AT = datetime(2026, 1, 1, tzinfo=UTC)
JOB = Job(
    job_id="j",
    spec=JobSpec(request_id="abc", dialect="wrapper", workflow=b"{}"),
    sequence=1,
    cost=100.0,
    timings=Timings(accepted_at=ACCEPTED_AT),
)
DONE = JOB.with_(status=JobStatus.COMPLETED)


class Lines(logging.Handler):
    """What was logged, line by line."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def count(self, token: str) -> int:
        """So many lines begin with this word."""
        return sum(line.partition(":")[0] == token for line in self.lines)


@dataclass
class StubEngine:
    """As much of an engine as the worker's verdicts look at; tests turn its health."""

    name: str = "comfyui-1"
    healthy: bool = True
    down_reason: str | None = None
    recycling: bool = False
    system_facts: dict[str, object] = field(default_factory=dict)
    listeners: list[Callable[[bool], None]] = field(default_factory=list)

    def on_health(self, listener: Callable[[bool], None]) -> None:
        self.listeners.append(listener)

    async def wait_ready(self) -> None:
        """Return when it is healthy."""
        turned = asyncio.Event()
        self.listeners.append(lambda healthy: turned.set() if healthy else None)
        if not self.healthy:
            await turned.wait()

    def turn(self, healthy: bool, reason: str | None = None) -> None:
        """Change its health and tell."""
        self.healthy, self.down_reason = healthy, reason
        for listener in tuple(self.listeners):
            listener(healthy)
