"""How full the queues are, in the wrapper's words. Counted anew a few times a second at most: thousands of streams
show it with every event."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from lib.clock import Clock
from lib.dialects.wrapper.render import iso
from lib.jobs.registry import QueueCounts
from lib.jobs.service import JobService

FRESH_S = 0.25


class QueueSizes:
    """Call it for upstream's three keys."""

    def __init__(self, jobs: JobService, *, clock: Clock) -> None:
        self._jobs = jobs
        self._clock = clock
        self._counted_at: float | None = None
        self._sizes: Mapping[str, int] = {}

    def __call__(self) -> Mapping[str, int]:
        """Return the sizes, as they were a moment ago."""
        now = self._clock.monotonic()
        if self._counted_at is None or now - self._counted_at >= FRESH_S:
            self._sizes, self._counted_at = _sizes(self._jobs.queue_counts()), now
        return self._sizes

    def queue_info(self) -> dict[str, Any]:
        """Return what ``/queue-info`` shows, as it is now."""
        counts, wait_s, usual_s = self._jobs.queue_counts(), self._jobs.predicted_wait_s(), self._jobs.usual_s()
        sizes = _sizes(counts)
        return {
            **sizes,
            "running_count": counts.running,
            "waiting_count": sum(sizes.values()),
            "expected_wait_s": None if wait_s is None else round(wait_s, 3),
            "expected_start_at": None if wait_s is None else iso(self._clock.now() + timedelta(seconds=wait_s)),
            "expected_s": None if usual_s is None else round(usual_s, 3),
        }


def _sizes(counts: QueueCounts) -> dict[str, int]:
    """As upstream: only what waits, not what is being worked on."""
    return {
        "preprocess_queue_size": counts.prepare_waiting,
        "generation_queue_size": counts.execute_waiting,
        "postprocess_queue_size": counts.deliver_waiting,
    }
