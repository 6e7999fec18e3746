"""One endpoint's decisions: its waiting asks in fair order, its workers, who was given what. No I/O; time is given."""

import random
from collections import OrderedDict
from collections.abc import Sequence

from router.choose.chooser import Chooser
from router.choose.tuning import Tuning
from router.endpoints import Endpoint
from router.estimate import OfferedLoad, Speeds
from router.fairness import FairQueue, Refused
from router.model import Ask, Assignment, Condition, Explanation, Placement, Reason, Wait, WorkerView

FORECAST_S = 1.0
LONGEST_RETRY_S = 60.0
REMEMBERED = 1000
"""Requests that were told to come again: they can be explained meanwhile."""
USUAL_PACE = 0.01
"""Seconds for a unit of a worker that does the benchmark in one; where none is known."""


class Desk:
    """Where the asks of an endpoint wait for a worker. What was given counts until ``settle``."""

    def __init__(self, endpoint: Endpoint, *, speeds: Speeds, load: OfferedLoad, chance: random.Random) -> None:
        settings = endpoint.settings
        self.endpoint = endpoint
        self.chooser = Chooser(
            settings.policy,
            chance=chance,
            speeds=speeds,
            load=load,
            tuning=Tuning(s_per_dollar=settings.kappa, swap_s=settings.swap_time, max_queue_s=settings.max_queue_time),
        )
        self.queue = FairQueue(limits={tenant.name: tenant.limits for tenant in settings.tenants})
        self._asks: dict[str, Ask] = {}
        self._away: OrderedDict[str, tuple[Ask, Reason | None]] = OrderedDict()
        self._ready: set[str] = set()
        self._forecast: Wait | None = None
        self._forecast_at = -FORECAST_S

    @property
    def waiting(self) -> Sequence[Ask]:
        """All asks that wait, as they came."""
        return tuple(self._asks.values())

    def offer(self, ask: Ask) -> Refused | None:
        """Let an ask wait."""
        refused = self.queue.push(ask, pace=self._pace())
        if refused is None:
            self._asks[ask.request_id] = ask
            self._away.pop(ask.request_id, None)
        return refused

    def admit(self, ask: Ask) -> bool:
        """Let an ask wait unless too many do."""
        full = len(self.queue) >= self.endpoint.settings.max_waiting
        if not full and self.offer(ask) is None:
            return True
        self.send_away(ask, because=Reason.TOO_MANY_WAITING)
        return False

    def send_away(self, ask: Ask, *, because: Reason | None = None) -> None:
        """Its caller is told to come again."""
        self._away[ask.request_id] = ask, because
        if len(self._away) > REMEMBERED:
            self._away.popitem(last=False)

    def withdraw(self, request_id: str) -> Ask | None:
        """Its caller waits no more."""
        self.queue.drop(request_id)
        return self._asks.pop(request_id, None)

    def plan(self, now: float) -> list[Placement]:
        """Give what can be given now; answer the placements of those asks that were looked at."""
        if not self._asks:
            return []
        placements = self.chooser.plan(self.queue.order(now), now)
        for placement in placements:
            if placement.assignment is not None:
                self.queue.take(placement.ask.request_id)
                del self._asks[placement.ask.request_id]
        return placements

    def settle(self, request_id: str, now: float) -> Assignment | None:
        """What was given is over, or was not granted."""
        self.queue.settled(request_id)
        return self.chooser.settle(request_id, now)

    def put(self, view: WorkerView, now: float) -> None:
        """A worker is new or has changed."""
        self.chooser.put(view, now)
        if view.condition is Condition.READY and view.perf > 0:
            self._ready.add(view.worker)
        else:
            self._ready.discard(view.worker)

    def next_change(self, now: float) -> float | None:
        """When to plan again though nothing happens; None: not as long as nobody waits."""
        return self.chooser.next_change(self.endpoint.name, now) if self._asks else None

    def explain(self, request_id: str, now: float) -> Explanation | None:
        """Why a request is where it is: one of the last decisions, or what keeps it waiting."""
        if (ask := self._asks.get(request_id)) is not None:
            capped = Reason.TENANT_LIMIT if self.queue.is_capped(ask.tenant) else None
            return self.chooser.explain(ask, now, because=capped)
        if request_id in self._away:
            ask, because = self._away[request_id]
            return self.chooser.explain(ask, now, because=because, free=Reason.BETWEEN_POLLS)
        return self.chooser.explained(request_id)

    def asked(self, request_id: str) -> Ask | None:
        """A request that waits here, was told to come again, or was given lately."""
        away, _ = self._away.get(request_id, (None, None))
        return self._asks.get(request_id) or away or self.chooser.asked(request_id)

    def forecast(self, ask: Ask, now: float) -> Wait | None:
        """When an ask like this would start that comes now; at most ``FORECAST_S`` old, as it takes a look at every
        worker."""
        if now - self._forecast_at >= FORECAST_S:
            self._forecast_at = now
            self._forecast = self.chooser.wait(ask, ahead=self.queue.work, now=now)
        return self._forecast

    def drop(self, worker: str) -> tuple[Assignment, ...]:
        """A worker is gone; what it held is over."""
        self._ready.discard(worker)
        held = self.chooser.drop(worker)
        for assignment in held:
            self.queue.settled(assignment.request_id)
        return held

    def _pace(self) -> float:
        """Seconds that a usual worker needs for a unit."""
        capacity = self.chooser.capacity(self.endpoint.name)
        return len(self._ready) / capacity if capacity > 0 else USUAL_PACE


def come_again_s(wait: Wait | None) -> float:
    """When it makes sense to come again with a request that found no worker."""
    return LONGEST_RETRY_S if wait is None else min(max(wait.likely_s, 1.0), LONGEST_RETRY_S)
