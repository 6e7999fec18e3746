"""Which workers a fleet could do without: those are kept free, so that the autoscaler can release them."""

from collections.abc import Iterable

from router.model import Condition, WorkerView


def spare_workers(views: Iterable[WorkerView], *, rate: float, target: float) -> frozenset[str]:
    """Workers with the worst speed per dollar that are not needed to keep utilisation at ``target`` (0 to 1).

    ``rate`` is the offered work in units per second. Workers without a price come last: they cost nothing.
    """
    ready = [view for view in views if view.condition is Condition.READY and view.perf > 0]
    left = sum(view.perf for view in ready)
    spare: set[str] = set()
    for view in sorted(ready, key=lambda view: (view.price > 0, view.price / view.perf, view.worker), reverse=True):
        if view.price > 0 and rate <= target * (left - view.perf):
            left -= view.perf
            spare.add(view.worker)
    return frozenset(spare)
