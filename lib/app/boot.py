"""The boot benchmark's way into the service, and what the assembly expects of a benchmark."""

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson

from lib.clock import Clock
from lib.comfy.engine import ComfyEngine
from lib.errors import ErrorCode, JobTimeout, ServiceError
from lib.jobs.model import DeliverySpec, Job, JobSpec, JobStatus, OnDisconnect
from lib.jobs.service import JobService
from lib.workflow.cost import measure


class BootScore(Protocol):
    """What a benchmark found. ``perf`` is in workload units per second, summed over the engines."""

    @property
    def perf(self) -> float: ...

    def to_json(self) -> dict[str, Any]: ...


class WarmUpFailed(ServiceError):
    """The warm-up that the operator named did not complete; no job is taken before one does."""

    code = ErrorCode.EXECUTION_FAILED


class BootBenchmark(Protocol):
    """Warms the engines up and scores them; raises ServiceError when no run completes, WarmUpFailed where that was the
    operator's own warm-up."""

    def __call__(
        self, runner: "ServiceRunner", *, workspace: Path, announce: Callable[[str], None]
    ) -> Awaitable[BootScore]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTimes:
    """Seconds: ``total_s`` from submit to the end, ``execute_s`` ComfyUI's own."""

    total_s: float
    execute_s: float


Warm = Callable[[str], Awaitable[None]]
"""Runs the operator's warm-up on an engine, by its name. Raises: ServiceError."""


class ServiceRunner:
    """Runs a benchmark workflow as an internal job: past admission, uncounted, its files removed."""

    def __init__(self, service: JobService, engines: Sequence[ComfyEngine], *, clock: Clock) -> None:
        self._service = service
        self._engines = tuple(engines)
        self._clock = clock
        self.again: Warm | None = None
        """Warms an engine up that was restarted, where the operator named how."""

    @property
    def engines(self) -> tuple[str, ...]:
        return tuple(engine.name for engine in self._engines if engine.healthy)

    async def run(self, workflow: bytes, *, engine: str, timeout_s: float) -> RunTimes:
        """Run one graph on ``engine``; ``timeout_s`` bounds it all, also the wait for an engine that went down.

        Raises: ServiceError when it did not complete."""
        spec = JobSpec(
            request_id=f"benchmark-{uuid.uuid4()}",
            dialect="boot",
            workflow=workflow,
            estimate=measure(orjson.loads(workflow)),
            delivery=DeliverySpec(),
            on_disconnect=OnDisconnect.CANCEL,
            timeout_s=timeout_s,
            keep_response=False,
            internal=True,
            engine=engine,
        )
        begun = self._clock.monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                job = await self._service.wait((await self._service.submit(spec)).job_id)
        except TimeoutError:  # the job has nobody left who waits, and is cancelled
            raise JobTimeout(f"The run did not end within {timeout_s:g} s.") from None
        total_s = self._clock.monotonic() - begun
        _remove_outputs(job)
        if job.status is not JobStatus.COMPLETED:
            raise job.error or ServiceError("The benchmark run did not complete.")
        return RunTimes(total_s=total_s, execute_s=job.timings.execute_s or total_s)

    def warm_again(self, workflow: bytes, *, timeout_s: float) -> None:
        """See ``again``."""

        async def warm(engine: str) -> None:
            await self.run(workflow, engine=engine, timeout_s=timeout_s)

        self.again = warm

    async def checkpoints(self) -> tuple[str, ...] | None:
        """Names of the installed checkpoints, as ComfyUI's own loader lists them."""
        for engine in self._engines:
            if engine.healthy:
                return engine.catalog.options("CheckpointLoaderSimple", "ckpt_name")
        return None

    async def system_stats(self) -> Mapping[str, Any] | None:
        """Facts about the host of the first engine that answers, in the shape of ComfyUI's ``/system_stats``."""
        for engine in self._engines:
            if engine.healthy:
                facts = engine.system_facts
                device = {"name": facts.get("device_name"), "type": facts.get("device_type")}
                return {"system": dict(facts), "devices": [device]}
        return None


def _remove_outputs(job: Job) -> None:
    folders = set()
    for output in job.outputs:
        if output.local_path:
            path = Path(output.local_path)
            path.unlink(missing_ok=True)
            folders.add(path.parent)
    for folder in folders:
        if folder.name.startswith("benchmark-"):
            with contextlib.suppress(OSError):
                folder.rmdir()
