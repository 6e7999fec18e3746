"""The router's Prometheus families, on a registry of its own; plain methods. Labels are closed sets, never ids.

Gauges of the fleet are set from ``Figures`` when somebody scrapes.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from router.cases import Ending
from router.model import Policy, Reason
from router.refusals import Refusal

if TYPE_CHECKING:
    from router.dispatch import Figures

_WAITS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 45, 90, 180, 300, 600, 1200, 1800)
_ERRORS = (-180, -60, -20, -5, -1, -0.2, 0.2, 1, 5, 20, 60, 180)


class RouterMetrics:
    """All that the router counts."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry or CollectorRegistry()
        self._decisions = Counter(
            "pyrouter_decisions", "Requests given to workers", ["policy", "reason"], registry=registry
        )
        self._refusals = Counter("pyrouter_refusals", "Workers that did not do it", ["reason"], registry=registry)
        self._endings = Counter("pyrouter_requests", "Requests that ended", ["outcome"], registry=registry)
        self._conflicts = Counter(
            "pyrouter_reservation_conflicts", "Workers that another router had filled", registry=registry
        )
        self._waits = Histogram("pyrouter_wait_seconds", "From arrival to a worker", buckets=_WAITS, registry=registry)
        self._wait_errors = Histogram(
            "pyrouter_wait_estimate_error_seconds", "Real less foretold wait", buckets=_ERRORS, registry=registry
        )
        self._regrets = Histogram(
            "pyrouter_regret_seconds",
            "Finished later than the best that was expected",
            buckets=_WAITS,
            registry=registry,
        )
        self._reports = Counter("pyrouter_worker_reports", "Reports of workers", registry=registry)
        self._store_up = Gauge("pyrouter_store_up", "Whether the store answers", registry=registry)
        self._store_up.set(1)
        self._add_fleet(registry)
        self._relayed = Counter(
            "pyrouter_relay_requests", "Requests done for callers", ["dialect", "outcome"], registry=registry
        )
        self._rerouted = Counter(
            "pyrouter_relay_retries", "Requests that went to another worker", ["reason"], registry=registry
        )
        self._relaying = Gauge("pyrouter_relay_calls", "Calls of workers that go on", registry=registry)

    def decided(self, policy: Policy, reason: Reason) -> None:
        """Count an assignment."""
        self._decisions.labels(policy, reason).inc()

    def refused(self, reason: Refusal) -> None:
        """Count a worker's refusal."""
        self._refusals.labels(reason).inc()

    def ended(self, ending: Ending) -> None:
        """Count the end of an assignment."""
        self._endings.labels(ending).inc()

    def conflicted(self) -> None:
        """Count a reservation that was not granted."""
        self._conflicts.inc()

    def waited(self, wait_s: float, *, foretold_s: float | None) -> None:
        """Observe how long a request waited, and by how much that was foretold wrongly."""
        self._waits.observe(max(wait_s, 0.0))
        if foretold_s is not None:
            self._wait_errors.observe(wait_s - foretold_s)

    def regretted(self, seconds: float) -> None:
        """Observe by how much a request finished later than the best worker was expected to."""
        self._regrets.observe(seconds)

    def reported(self) -> None:
        """Count a worker's report."""
        self._reports.inc()

    def relayed(self, dialect: str, outcome: str) -> None:
        """Count a relayed request that ended."""
        self._relayed.labels(dialect, outcome).inc()

    def rerouted(self, reason: Refusal) -> None:
        """Count a relayed request that its worker did not do."""
        self._rerouted.labels(reason).inc()

    def relaying(self, count: Callable[[], int]) -> None:
        """Show how many calls go on, as this tells."""
        self._relaying.set_function(count)

    def store(self, trouble: str | None) -> None:
        """Set whether the store answers."""
        self._store_up.set(trouble is None)

    def fleet(self, figures: "Figures") -> None:
        """Set an endpoint's gauges."""
        endpoint = figures.endpoint
        for condition, count in figures.workers.items():
            self._workers.labels(endpoint, condition).set(count)
        self._slow.labels(endpoint).set(len(figures.slow))
        self._capacity.labels(endpoint).set(figures.capacity)
        self._rate.labels(endpoint).set(figures.rate)
        self._waiting.labels(endpoint).set(figures.waiting_count)
        self._waiting_work.labels(endpoint).set(figures.waiting_work)
        self._given.labels(endpoint).set(figures.given_count)
        self._load.labels(endpoint).set(figures.given_work + figures.foreign_load)
        self._wait.labels(endpoint).set(figures.wait.likely_s if figures.wait else float("inf"))

    def desired(self, endpoint: str, *, capacity: float, workers: int) -> None:
        """Set what the scaling wants for an endpoint."""
        self._desired.labels(endpoint).set(capacity)
        self._desired_workers.labels(endpoint).set(workers)

    def forget(self, endpoint: str) -> None:
        """The endpoint is gone."""
        for gauge in self._by_endpoint:
            gauge.remove_by_labels({"endpoint": endpoint})

    def render(self) -> tuple[bytes, str]:
        """The exposition and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def _add_fleet(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, about: str, *labels: str) -> Gauge:
            return Gauge(f"pyrouter_{name}", about, ["endpoint", *labels], registry=registry)

        self._workers = gauge("workers", "Workers by condition", "condition")
        self._slow = gauge("slow_workers", "Workers far below the median speed of their kind")
        self._capacity = gauge("capacity", "Units per second of ready workers")
        self._rate = gauge("offered_load", "Units per second that come in")
        self._waiting = gauge("waiting_requests", "Requests without a worker")
        self._waiting_work = gauge("waiting_work", "Their units")
        self._given = gauge("given_requests", "Requests at workers")
        self._load = gauge("load", "Units at workers, not finished")
        self._wait = gauge("expected_wait_seconds", "Wait of a usual new request")
        self._desired = gauge("desired_capacity", "Units per second that are wanted")
        self._desired_workers = gauge("desired_workers", "Workers that are wanted")
        self._by_endpoint = (
            *(self._workers, self._capacity, self._rate, self._waiting, self._waiting_work, self._given, self._load),
            *(self._wait, self._desired, self._desired_workers, self._slow),
        )
