"""The worker's Prometheus families, on an injected registry; plain methods that ``lib.app`` connects to events.

The only module that imports the Prometheus client. Labels are closed sets, never ids or URLs.
"""

from collections.abc import Iterable
from itertools import product
from typing import TypeVar, cast

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_JOB_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 45, 90, 180, 300, 600, 1200, 1800)
_STAGE_BUCKETS = (0.005, 0.02, *_JOB_BUCKETS)
_COMMIT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
_LATE_BUCKETS = (600, 180, 60, 20, 5, 1, 0.2)
_ERROR_BUCKETS = (*(-edge for edge in _LATE_BUCKETS), *reversed(_LATE_BUCKETS))
_LAG_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5)
_RATIO_BUCKETS = (0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2, 3, 5, 10)


Family = TypeVar("Family", Counter, Histogram)


class WorkerMetrics:
    """Everything that the worker counts; on a registry of its own unless one is passed in."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry = registry or CollectorRegistry()
        self._children: dict[tuple[object, tuple[str, ...]], object] = {}
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
        self._care = Counter("pyworker_engine_care", "Things done for ComfyUI's health", ["action"], registry=registry)
        self._add_traffic(registry)
        self._add_estimates(registry)
        self._add_webhooks(registry)
        self._add_store(registry)
        self._add_process(registry)

    def job_finished(self, *, dialect: str, outcome: str) -> None:
        """Count a job that became terminal."""
        self._child(self._jobs, dialect, outcome).inc()

    def job_took(self, *, dialect: str, duration_s: float) -> None:
        """Observe how long a job took from its acceptance to its end."""
        self._child(self._durations, dialect).observe(duration_s)

    def estimated(self, *, wait_error_s: float | None, duration_ratio: float | None) -> None:
        """Observe how good a job's predictions were: actual minus expected wait, actual by expected execution."""
        if wait_error_s is not None:
            self._wait_error.observe(wait_error_s)
        if duration_ratio is not None:
            self._duration_ratio.observe(duration_ratio)

    def refused(self, code: str) -> None:
        """Count a request that was answered with an error, by its ``ErrorCode``."""
        self._refused.labels(code).inc()

    def stage_took(self, stage: str, duration_s: float) -> None:
        """Observe how long a job was in one stage."""
        self._child(self._stages, stage).observe(duration_s)

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

    def engine_cared(self, action: str) -> None:
        """Count a ``CareAction``."""
        self._care.labels(action).inc()

    def webhook_attempted(self, *, delivered: bool, dead: bool = False) -> None:
        """Count one attempt to tell a webhook; ``dead``: the message was given up with it."""
        self._webhooks.labels("delivered" if delivered else "dead" if dead else "failed").inc()

    def webhooks(self, *, pending: int, dead: int, oldest_s: float) -> None:
        """Set how many messages wait and are dead, and how old the oldest is that waits (0: none)."""
        self._webhooks_pending.set(pending)
        self._webhooks_dead.set(dead)
        self._webhooks_oldest.set(oldest_s)

    def store_committed(self, duration_s: float) -> None:
        """Observe one transaction of the job store."""
        self._commits.observe(duration_s)

    def store_trouble(self, *, trouble: bool) -> None:
        """Set whether the job store can't write."""
        self._trouble.set(trouble)

    def recovered(self, count: int) -> None:
        """Count jobs of an earlier life that were taken up."""
        self._recovered.inc(count)

    def loop_late(self, duration_s: float) -> None:
        """Observe by how much the event loop came late."""
        self._lag.observe(duration_s)

    def tasks(self, count: int) -> None:
        """Set how many tasks the event loop has."""
        self._tasks.set(count)

    def streams(self, count: int) -> None:
        """Set how many event streams are open."""
        self._streams.set(count)

    def input_brought(self, size_bytes: int, cached: bool) -> None:
        """Count an input file: fetched, or found in the cache."""
        self._inputs.labels("cached" if cached else "fetched").inc()
        if not cached:
            self._input_bytes.inc(size_bytes)

    def stored(self, size_bytes: int) -> None:
        """Count bytes that storage took."""
        self._stored.inc(size_bytes)

    def converted(self, count: int) -> None:
        """Count pictures that were converted."""
        self._converted.inc(count)

    def announce(
        self, *, dialects: Iterable[str], outcomes: Iterable[str], codes: Iterable[str] = (), care: Iterable[str] = ()
    ) -> None:
        """Make every series exist from the start, at zero, so that rates are right from the first job on."""
        for dialect, outcome in product(dialects, outcomes):
            self._jobs.labels(dialect, outcome)
        for code in codes:
            self._refused.labels(code)
        for action in care:
            self._care.labels(action)

    def render(self) -> tuple[bytes, str]:
        """Return the exposition and its content type. Reads ``/proc``: call it in a thread."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def _child(self, family: Family, *labels: str) -> Family:
        """The series with these labels; looking it up in the family costs as much as counting."""
        key = (family, labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = family.labels(*labels)
        return cast(Family, child)

    def _add_traffic(self, registry: CollectorRegistry) -> None:
        self._durations = Histogram(
            "pyworker_job_seconds",
            "From acceptance to the end of a job",
            ["dialect"],
            buckets=_JOB_BUCKETS,
            registry=registry,
        )
        self._refused = Counter(
            "pyworker_refused_requests", "Requests answered with an error", ["code"], registry=registry
        )
        self._streams = Gauge("pyworker_event_streams", "Open event streams", registry=registry)
        self._inputs = Counter("pyworker_inputs", "Input files brought in for jobs", ["source"], registry=registry)
        for source in ("fetched", "cached"):
            self._inputs.labels(source)
        self._input_bytes = Counter("pyworker_input_bytes", "Bytes of fetched inputs", registry=registry)
        self._stored = Counter("pyworker_storage_bytes", "Bytes uploaded to storage", registry=registry)
        self._converted = Counter("pyworker_converted_pictures", "Pictures converted", registry=registry)

    def _add_estimates(self, registry: CollectorRegistry) -> None:
        self._wait_error = Histogram(
            "pyworker_wait_estimate_error_seconds",
            "Wait before the start of a job, actual minus expected",
            buckets=_ERROR_BUCKETS,
            registry=registry,
        )
        self._duration_ratio = Histogram(
            "pyworker_duration_estimate_ratio",
            "Execution of a job, actual by expected",
            buckets=_RATIO_BUCKETS,
            registry=registry,
        )

    def _add_webhooks(self, registry: CollectorRegistry) -> None:
        self._webhooks = Counter("pyworker_webhook_attempts", "Webhook attempts", ["result"], registry=registry)
        for result in ("delivered", "failed", "dead"):
            self._webhooks.labels(result)
        self._webhooks_pending = Gauge("pyworker_webhooks_pending", "Webhook messages that wait", registry=registry)
        self._webhooks_dead = Gauge("pyworker_webhooks_dead", "Webhook messages given up, as kept", registry=registry)
        self._webhooks_oldest = Gauge(
            "pyworker_webhook_oldest_seconds", "Age of the oldest webhook message that waits", registry=registry
        )

    def _add_store(self, registry: CollectorRegistry) -> None:
        self._commits = Histogram(
            "pyworker_store_commit_seconds",
            "One transaction of the job store",
            buckets=_COMMIT_BUCKETS,
            registry=registry,
        )
        self._trouble = Gauge("pyworker_store_trouble", "Whether the job store can't write", registry=registry)
        self._recovered = Counter(
            "pyworker_recovered_jobs", "Jobs of an earlier life that were taken up", registry=registry
        )

    def _add_process(self, registry: CollectorRegistry) -> None:
        process = psutil.Process()
        memory = Gauge("pyworker_process_resident_memory_bytes", "Resident memory", registry=registry)
        memory.set_function(lambda: process.memory_info().rss)
        files = Gauge("pyworker_process_open_fds", "Open file descriptors", registry=registry)
        files.set_function(process.num_fds)
        self._tasks = Gauge("pyworker_asyncio_tasks", "Tasks of the event loop", registry=registry)
        self._lag = Histogram(
            "pyworker_event_loop_lag_seconds",
            "By how much the event loop came late, looked at 20 times a second",
            buckets=_LAG_BUCKETS,
            registry=registry,
        )
        processor = Gauge("pyworker_process_cpu_seconds", "Processor time used, user and system", registry=registry)
        processor.set_function(lambda: sum(process.cpu_times()[:2]))
