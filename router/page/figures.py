"""What the page takes from the router's own metrics (``router.metrics``): totals, and what the scaling wants.

So it shows the numbers that the operator's dashboards have, and the parts that count need not know of it.
"""

from collections.abc import Iterator

from router.metrics import RouterMetrics
from router.page.facts import Desired

CAPACITY, WORKERS = "pyrouter_desired_capacity", "pyrouter_desired_workers"
OUTCOMES, REFUSALS = "pyrouter_requests_total", "pyrouter_refusals_total"


class Counted:
    """Looks at a few families, not at all of them."""

    def __init__(self, metrics: RouterMetrics) -> None:
        self._registry = metrics.registry

    def desired(self, endpoint: str) -> Desired | None:
        """What the scaling wants; None where nothing scales this endpoint."""
        found = {
            name: value
            for name, labels, value in self._samples(CAPACITY, WORKERS)
            if labels.get("endpoint") == endpoint
        }
        return Desired(capacity=found.get(CAPACITY, 0.0), workers=int(found[WORKERS])) if WORKERS in found else None

    def totals(self) -> dict[str, dict[str, int]]:
        """Requests by how they ended, and refusals of workers by reason."""
        told: dict[str, dict[str, int]] = {"outcomes": {}, "refusals": {}}
        for name, labels, value in self._samples(OUTCOMES, REFUSALS):
            if name == OUTCOMES:
                told["outcomes"][labels["outcome"]] = int(value)
            elif name == REFUSALS:
                told["refusals"][labels["reason"]] = int(value)
        return told

    def _samples(self, *names: str) -> Iterator[tuple[str, dict[str, str], float]]:
        for family in self._registry.restricted_registry(names).collect():
            for sample in family.samples:
                yield sample.name, sample.labels, sample.value
