"""What the end of a request teaches, and how far off its decision was; whichever replica heard of it."""

from lib.clock import Clock
from router.cases import Case, Ending, Outcome
from router.learning import Learning
from router.metrics import RouterMetrics
from router.model import Assignment
from router.registry import Registry


class Experience:
    """Of one replica: it learns from the requests that it gave."""

    def __init__(self, *, registry: Registry, learning: Learning, metrics: RouterMetrics, clock: Clock) -> None:
        self._registry = registry
        self._learning = learning
        self._metrics = metrics
        self._clock = clock

    def take(self, case: Case, outcome: Outcome, given: Assignment | None) -> None:
        """``given`` is None where it was counted no more; the outcome names its worker then."""
        worker = self._registry.get(given.worker if given else outcome.worker)
        if worker is None or outcome.ending not in (Ending.SUCCESS, Ending.ERROR):
            return
        worker.served += outcome.ending is Ending.SUCCESS
        worker.failed += outcome.ending is Ending.ERROR
        if outcome.ending is not Ending.SUCCESS or not outcome.run_s:
            return
        if given is not None and case.best_s is not None:
            self._metrics.regretted(max(self._clock.monotonic() - given.at - case.best_s, 0.0))
        self._learning.learn(
            self._learning.lesson(
                case.ask, worker.view, kind=case.kind, prior=case.prior, run_s=outcome.run_s, swap_s=case.swap_s
            )
        )
