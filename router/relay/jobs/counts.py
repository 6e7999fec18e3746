"""RunPod's eleven counters of an endpoint, and what ``/health`` tells of relayed jobs."""

from collections import Counter
from typing import Any

from router.dispatch import Dispatcher
from router.model import Condition
from router.ports import JobState, JobStore, RelayJob
from router.relay.jobs.forms import End


class Counts:
    """Ends are those of this router's life; what waits and runs is counted by the store, for all routers."""

    def __init__(self, jobs: JobStore, *, dispatcher: Dispatcher) -> None:
        self._jobs = jobs
        self._dispatcher = dispatcher
        self._ended: Counter[tuple[str, str]] = Counter()
        self._retried: Counter[str] = Counter()

    def ended(self, job: RelayJob) -> None:
        """A job is over."""
        end = {JobState.CANCELLED: End.CANCELLED, JobState.DEAD: End.FAILED}.get(job.state)
        self._ended[job.endpoint, end or End(job.reason)] += 1

    def retried(self, endpoint: str) -> None:
        """A job was begun anew."""
        self._retried[endpoint] += 1

    def totals(self) -> dict[str, int]:
        """Ends by outcome, of all endpoints."""
        found: Counter[str] = Counter()
        for (_, end), count in self._ended.items():
            found[end] += count
        return {str(end): found[end] for end in End}

    async def health(self, endpoint: str) -> dict[str, Any]:
        """``jobs`` and ``workers`` as RunPod shows them, integers all."""
        queued, running = await self.live(endpoint)
        return {
            "jobs": {
                "completed": self._ended[endpoint, End.COMPLETED],
                "failed": self._ended[endpoint, End.FAILED],
                "inProgress": running,
                "inQueue": queued,
                "retried": self._retried[endpoint],
            },
            "workers": self._workers(endpoint),
        }

    async def live(self, endpoint: str) -> tuple[int, int]:
        """How many wait for a worker, and how many have one, by the store and by what workers hold."""
        tenants = [one.name for one in self._dispatcher.endpoints.find(endpoint).settings.tenants]
        queued = leased = 0
        for tenant in {"", *tenants}:
            counts = await self._jobs.counts(tenant=f"{endpoint}/{tenant}")
            queued, leased = queued + counts[JobState.WAITING], leased + counts[JobState.LEASED]
        running = min(leased, self._dispatcher.figures(endpoint).given_count)
        return queued + leased - running, running

    def _workers(self, endpoint: str) -> dict[str, int]:
        counts = dict.fromkeys(("idle", "initializing", "ready", "running", "throttled", "unhealthy"), 0)
        for worker in self._dispatcher.workers(endpoint):
            match worker.condition:
                case Condition.READY if self._dispatcher.held(worker.key):
                    counts["running"] += 1
                case Condition.READY:
                    counts["idle"] += 1
                    counts["ready"] += 1
                case Condition.STARTING:
                    counts["initializing"] += 1
                case Condition.DRAINING | Condition.STOPPED:
                    continue
                case _:
                    counts["unhealthy"] += 1
        return counts
