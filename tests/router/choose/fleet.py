"""Workers, asks and choosers for tests of the policies."""

import random
from typing import Any

from router.choose.chooser import Chooser
from router.choose.tuning import Tuning
from router.estimate import OfferedLoad, Speeds
from router.model import Ask, Placement, Policy, WorkerView

ENDPOINT = "fleet"


def worker(name: str, perf: float = 100.0, **more: Any) -> WorkerView:
    """A ready worker."""
    return WorkerView(worker=name, endpoint=ENDPOINT, perf=perf, **more)


def ask(name: str = "ask", size: float = 100.0, **more: Any) -> Ask:
    """A request of so many units."""
    return Ask(
        request_id=name, endpoint=ENDPOINT, arrived_at=more.pop("arrived_at", 0.0), cost=100.0, size=size, **more
    )


def chooser(
    *views: WorkerView, policy: Policy = Policy.HYBRID, seed: int = 1, load: float = 0.0, **tuning: Any
) -> Chooser:
    """A chooser that knows these workers at time 0; ``load`` is the offered load that it believes in."""
    offered = OfferedLoad()
    made = Chooser(policy, chance=random.Random(seed), speeds=Speeds(), load=offered, tuning=Tuning(**tuning))
    for view in views:
        made.put(view, 0.0)
    if load:
        for number in range(1000):
            offered.arrived(ENDPOINT, size=load * sum(view.perf for view in views), now=number - 999.0)
    return made


def placed(found: list[Placement]) -> dict[str, str]:
    """Worker by request."""
    return {one.ask.request_id: one.assignment.worker for one in found if one.assignment is not None}
