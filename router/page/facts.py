"""What the page shows of workers, endpoints and decisions, as JSON values. Pure.

Moments are epoch seconds, so that a browser can count on by itself; speeds are units per second. What workers say of
themselves is cut to a length: nobody may make the page of others large.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from router.cases import Decided
from router.dispatch import Figures
from router.endpoints import Endpoint
from router.model import Ask, Assignment, Condition, Wait
from router.ports import RelayJob
from router.registry import Worker
from router.reports import text

Facts = dict[str, Any]
Wall = Callable[[float], float]
"""Epoch seconds of a moment of the monotonic clock."""
NAME, TROUBLE, URL = 80, 300, 200
HELD, WARM = 8, 6
"""Requests and models that are shown of one worker; the others are counted."""
WAITING = 8
"""Requests that are shown of one queue, the oldest ones."""
LAST_ATTEMPT = "its attempts are used up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What the scaling wants for an endpoint; ``capacity`` in units per second."""

    capacity: float
    workers: int


def worker_facts(
    worker: Worker, *, gpu: str, held: Sequence[Assignment], factor: float, slow: float | None, wall: Wall
) -> Facts:
    """A worker. ``factor``: how much faster it is than it says. ``slow``: the share of its kind's speed that it
    reaches, where that is too little. ``gpu`` is what the operator says of its group."""
    view, record, report = worker.view, worker.record, worker.record.report
    return {
        "key": worker.key,
        "id": record.id,
        "endpoint": record.endpoint,
        "group": record.group,
        "gpu": (text(report, "gpu_name") or gpu)[:NAME],
        "url": record.url[:URL],
        "version": text(report, "version")[:NAME],
        "ours": worker.is_ours,
        "condition": worker.condition,
        "trouble": worker.trouble[:TROUBLE],
        "score": round(view.perf, 3),
        "factor": round(factor, 3),
        "speed": round(view.perf * factor, 3),
        "slow": slow,
        "slots": view.slots,
        "engines": view.engines,
        "held": [_held(one, wall) for one in held[:HELD]],
        "held_count": len(held),
        "foreign": round(view.foreign_load, 1),
        "free_at": _free_at(worker, held, factor=factor, wall=wall),
        "warm": None if view.warm is None else [one[:NAME] for one in view.warm[-WARM:][::-1]],
        "warm_count": len(view.warm or ()),
        "installed": None if view.models is None else len(view.models),
        "served": worker.served,
        "failed": worker.failed,
        "heard_at": round(record.heard_at, 1),
        "since": round(record.first_at, 1),
        "price": view.price,
    }


def _held(one: Assignment, wall: Wall) -> Facts:
    return {
        "id": one.request_id,
        "size": round(one.size, 1),
        "start": round(wall(one.expected_start_at), 2),
        "finish": round(wall(one.expected_finish_at), 2),
    }


def _free_at(worker: Worker, held: Sequence[Assignment], *, factor: float, wall: Wall) -> float | None:
    """When all that it has should be done; None: it has nothing."""
    view = worker.view
    speed = view.perf * factor
    ours = max((one.expected_finish_at for one in held), default=view.heard_at)
    foreign_s = view.foreign_load / speed if speed > 0 else 0.0
    return round(wall(ours + foreign_s), 2) if held or foreign_s else None


def endpoint_facts(
    endpoint: Endpoint, figures: Figures, *, waiting: Iterable[Ask], desired: Desired | None, wall: Wall
) -> Facts:
    """An endpoint in numbers; ``waiting`` is shown as it comes."""
    return {
        "name": endpoint.name,
        "policy": endpoint.settings.policy,
        "max_workers": endpoint.settings.max_workers,
        "rate": round(figures.rate, 3),
        "capacity": round(figures.capacity, 3),
        "waiting": figures.waiting_count,
        "waiting_work": round(figures.waiting_work, 1),
        "running": figures.given_count,
        "running_work": round(figures.given_work, 1),
        "foreign": round(figures.foreign_load, 1),
        "wait": _wait(figures.wait),
        "conditions": {str(condition): count for condition, count in figures.workers.items() if count},
        "ready": figures.workers[Condition.READY],
        "workers": sum(figures.workers.values()),
        "slow": len(figures.slow),
        "desired": {"capacity": round(desired.capacity, 3), "workers": desired.workers} if desired else None,
        "queue": [_waiting(ask, wall) for ask, _ in zip(waiting, range(WAITING), strict=False)],
    }


def _wait(wait: Wait | None) -> Facts | None:
    if wait is None:
        return None
    return {"likely": round(wait.likely_s, 2), "low": round(wait.low_s, 2), "high": round(wait.high_s, 2)}


def _waiting(ask: Ask, wall: Wall) -> Facts:
    return {
        "id": ask.request_id,
        "tenant": ask.tenant,
        "priority": ask.priority,
        "size": round(ask.size, 1),
        "since": round(wall(ask.arrived_at), 1),
    }


def decision_facts(one: Decided) -> Facts:
    """Who was given what, and why."""
    return {
        "at": round(one.at, 2),
        "id": one.request_id,
        "endpoint": one.endpoint,
        "worker": one.worker,
        "reason": one.reason,
        "tenant": one.tenant,
        "waited": round(one.waited_s, 3),
        "size": round(one.size, 1),
        "finish": round(one.expected_finish_s, 2),
    }


def letter_facts(job: RelayJob) -> Facts:
    """A dead letter, without what was asked for and what was answered."""
    return {
        "id": job.job_id,
        "endpoint": job.endpoint,
        "tenant": job.tenant,
        "attempts": len(job.attempts),
        "at": round(job.finished_at, 1),
        "reason": (job.reason or LAST_ATTEMPT)[:TROUBLE],
    }
