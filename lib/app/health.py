"""The health document: one JSON object that holds every dialect's keys, and the probes' verdicts."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import psutil

from lib.app.condition import Condition
from lib.comfy.engine import ComfyEngine
from lib.comfy.ports import Server
from lib.dialects.salad import probes as salad
from lib.jobs.model import JobStatus, Stage
from lib.jobs.service import JobService
from lib.jobs.speed import SpeedGauge
from lib.serving.probes import ProbeReply

STARTING = "starting"
"""The ``status`` of a worker that comes up and has no trouble."""


class Health:
    """Answers ``/health`` and ``/ready``.

    ``/health`` is 200 with a ``status``; with the API wrapper as the primary dialect it is 503 when no engine is
    healthy, as monitors of the wrapper expect, and with Salad's both speak its words: 500 until jobs were admitted
    once. ``/ready`` says no while ``max_queue_depth`` jobs wait or run; 0 = any number may. Nothing in them reveals
    paths, arguments or callers.
    """

    def __init__(
        self,
        *,
        condition: Condition,
        service: JobService,
        engines: Sequence[ComfyEngine],
        servers: Sequence[Server],
        speed: SpeedGauge,
        version: str,
        store: str,
        primary: Literal["native", "wrapper", "runpod", "salad"],
        max_queue_depth: int = 0,
    ) -> None:
        self._condition = condition
        self._service = service
        self._engines = engines
        self._servers = servers
        self._speed = speed
        self._version = version
        self._store = store
        self._primary = primary
        self._max_queue_depth = max_queue_depth
        self._process = psutil.Process()
        self._benchmark: Mapping[str, Any] | None = None
        self._parts: list[Callable[[], Mapping[str, Any]]] = []

    def add(self, part: Callable[[], Mapping[str, Any]]) -> None:
        """Have the document hold a dialect's own keys as well."""
        self._parts.append(part)

    def benchmarked(self, result: Mapping[str, Any]) -> None:
        """Show this benchmark from now on."""
        self._benchmark = result

    def health(self) -> ProbeReply:
        """All that is known, for people and for the monitors of each dialect."""
        healthy = [engine for engine in self._engines if engine.healthy]
        well = self._condition.reason is None
        body = {
            "status": self.status(),
            "ready": well,
            "reason": self._condition.reason or "",
            "version": self._version,
            "uptime_s": round(self._condition.uptime_s, 3),
            "loadtime_s": round(self._condition.loadtime_s, 3),
            "perf": self._speed.max_perf,
            "benchmark": self._benchmark,
            "cache_type": self._store,
            "queues": self._queues(),
            "backends_healthy": f"{len(healthy)}/{len(self._engines)}",
            "gpu": _fault(next((e.down_reason for e in self._engines if not e.healthy), None) if not healthy else None),
            "backends": [_backend(engine, server) for engine, server in zip(self._engines, self._servers, strict=True)],
            "host": self._host(),
        }
        for part in self._parts:
            body.update(part())
        if self._primary == "salad":
            told = salad.health(version=self._version, was_ready=self._condition.was_ready)
            del body["ready"]
            return replace(told, body={**told.body, **body, "status": told.body["status"]})
        return ProbeReply(ok=self._primary != "wrapper" or bool(healthy), body=body)

    def ready(self) -> ProbeReply:
        """Whether jobs are admitted now."""
        reason = self._condition.reason
        full = salad.is_full(self._service, self._max_queue_depth)
        if reason is None and full:
            reason = f"the queue is full (MAX_QUEUE_DEPTH={self._max_queue_depth})"
        starting = self._condition.starting
        if self._primary == "salad":
            told = salad.ready(version=self._version, admits=self._condition.reason is None, full=full)
            return replace(told, body={**told.body, **({"reason": reason} if reason else {})}, starting=starting)
        body = {"ready": reason is None, "reason": reason or "", "status": self.status(), "version": self._version}
        return ProbeReply(ok=reason is None, body=body, retry_after_s=5, starting=starting)

    def status(self) -> str:
        """``healthy``, ``starting`` or ``unhealthy``."""
        if self._condition.reason is None:
            return "healthy"
        return "unhealthy" if self._condition.error else STARTING

    def _queues(self) -> dict[str, int]:
        stages = {Stage.PREPARE: 0, Stage.EXECUTE: 0, Stage.COLLECT: 0, Stage.DELIVER: 0}
        running = 0
        for job in self._service.live_jobs:
            stages[job.stage] += 1
            running += job.status is JobStatus.RUNNING and job.stage is Stage.EXECUTE
        return {
            "preprocess": stages[Stage.PREPARE],
            "generation": stages[Stage.EXECUTE] - running,
            "postprocess": stages[Stage.COLLECT] + stages[Stage.DELIVER],
            "running": running,
        }

    def _host(self) -> dict[str, Any]:
        memory = psutil.virtual_memory()
        return {
            "python": platform.python_version(),
            "cpu_count": psutil.cpu_count(),
            "memory_total_bytes": memory.total,
            "memory_available_bytes": memory.available,
            "worker_rss_bytes": self._process.memory_info().rss,
        }


def _backend(engine: ComfyEngine, server: Server) -> dict[str, Any]:
    reason = engine.down_reason
    return {
        "name": engine.name,
        "base": server.base_url,
        "http_ok": engine.healthy,
        "websocket_ok": engine.healthy,
        "system_stats": dict(engine.system_facts),
        "gpu": _fault(reason),
        "healthy": engine.healthy,
        **({"error": reason} if reason else {}),
    }


def _fault(reason: str | None) -> dict[str, Any]:
    """The wrapper's ``gpu`` object; nothing is beyond recovery here, since engines are restarted."""
    return {"unrecoverable": False, "reason": reason or ""}
