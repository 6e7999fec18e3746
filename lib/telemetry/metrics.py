"""The worker's Prometheus families, on an injected registry; plain methods that ``lib.app`` connects to events.

The only module that imports the Prometheus client. Labels are closed sets, never ids or URLs.
"""

from collections.abc import Iterable

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_STAGE_BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280)


class WorkerMetrics:
    """Everything that the worker counts; on a registry of its own unless one is passed in."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry = registry or CollectorRegistry()
        self._jobs = Counter("pyworker_jobs", "Finished jobs", ["dialect", "outcome"], registry=registry)
        self._stages = Histogram(
            "pyworker_stage_seconds", "Time in one stage", ["stage"], buckets=_STAGE_BUCKETS, registry=registry
        )
        self._queue_time = Gauge(
            "pyworker_queue_time_seconds", "Predicted wait of a new job before it starts", registry=registry
        )
        self._queue_jobs = Gauge("pyworker_queue_jobs", "Jobs accepted and not finished", registry=registry)
        self._load = Gauge("pyworker_load", "Workload not yet finished, in workload units", registry=registry)
        self._perf = Gauge("pyworker_perf", "Measured workload units per second", registry=registry)
        self._engine_up = Gauge("pyworker_engine_up", "Whether an engine is healthy", ["engine"], registry=registry)
        self._restarts = Counter("pyworker_engine_restarts", "Restarts of ComfyUI by us", registry=registry)
        self._restart_count = 0
        self._webhooks = Counter("pyworker_webhook_attempts", "Webhook attempts", ["result"], registry=registry)
        for result in ("delivered", "failed"):
            self._webhooks.labels(result)
        self._stored = Counter("pyworker_storage_bytes", "Bytes uploaded to storage", registry=registry)
        self._add_process(registry)

    def job_finished(self, *, dialect: str, outcome: str) -> None:
        """Count a job that became terminal."""
        self._jobs.labels(dialect, outcome).inc()

    def stage_took(self, stage: str, duration_s: float) -> None:
        """Observe how long a job was in one stage."""
        self._stages.labels(stage).observe(duration_s)

    def queue(self, *, jobs: int, load: float, wait_s: float | None) -> None:
        """Set what waits: jobs, workload units, and the predicted wait where there is one."""
        self._queue_jobs.set(jobs)
        self._load.set(load)
        self._queue_time.set(wait_s if wait_s is not None else float("nan"))

    def perf(self, value: float) -> None:
        """Set the score of the boot benchmark."""
        self._perf.set(value)

    def engine(self, name: str, *, up: bool) -> None:
        """Set one engine's health."""
        self._engine_up.labels(name).set(up)

    def engine_restarts(self, count: int) -> None:
        """Bring the count of ComfyUI's restarts up to ``count``, of all engines since the start."""
        self._restarts.inc(max(count - self._restart_count, 0))
        self._restart_count = max(count, self._restart_count)

    def webhook_attempted(self, *, delivered: bool) -> None:
        """Count one attempt to tell a webhook."""
        self._webhooks.labels("delivered" if delivered else "failed").inc()

    def stored(self, size_bytes: int) -> None:
        """Count bytes that storage took."""
        self._stored.inc(size_bytes)

    def announce(self, *, dialects: Iterable[str], outcomes: Iterable[str]) -> None:
        """Make every job series exist from the start, at zero, so that rates are right from the first job on."""
        for outcome in outcomes:
            for dialect in dialects:
                self._jobs.labels(dialect, outcome)

    def render(self) -> tuple[bytes, str]:
        """Return the exposition and its content type. Reads ``/proc``: call it in a thread."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def _add_process(self, registry: CollectorRegistry) -> None:
        process = psutil.Process()
        memory = Gauge("pyworker_process_resident_memory_bytes", "Resident memory", registry=registry)
        memory.set_function(lambda: process.memory_info().rss)
        files = Gauge("pyworker_process_open_fds", "Open file descriptors", registry=registry)
        files.set_function(process.num_fds)
        processor = Gauge("pyworker_process_cpu_seconds", "Processor time used, user and system", registry=registry)
        processor.set_function(lambda: sum(process.cpu_times()[:2]))
