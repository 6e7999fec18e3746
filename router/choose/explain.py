"""Say in words and numbers why a request went where it went. Built when somebody asks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from router.choose.pool import Pool
from router.choose.search import Score
from router.model import Ask, Candidate, Exclusion, Explanation, Placement, Policy, Reason

TEXTS = {
    Reason.EARLIEST_FINISH: "{worker} is expected to finish it first.",
    Reason.FASTEST_IDLE: "{worker} is the best worker that is free; at this load it pays to use it, although a busy "
    "one might finish it earlier.",
    Reason.RANDOM_BY_SPEED: "{worker} was drawn at random, in proportion to speed.",
    Reason.BETTER_OF_TWO: "{worker} finishes first of two that were drawn in proportion to speed.",
    Reason.BETTER_WORKER_SOON: "It waits for {awaited}, which will finish it earlier than any worker that is free.",
    Reason.MODEL_WARM_SOON: "It waits for {awaited}, which has its model resident; free workers would load it first.",
    Reason.ALL_BUSY: "All workers that can do it are busy.",
    Reason.NONE_ELIGIBLE: "No worker can do it: see what is excluded and why.",
    Reason.NO_WORKER: "The endpoint has no worker.",
    Reason.LATER: "Others go before it.",
    Reason.TENANT_LIMIT: "Its tenant has as many requests running as it may.",
    Reason.TOO_MANY_WAITING: "So many requests waited already that it was not let in: it has to come again.",
    Reason.BETWEEN_POLLS: "Its caller was told to come again; there is a worker for it when it does.",
}
SHOWN = 16
"""Candidates kept of a past decision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is kept of a decision until somebody asks; figures are those of the moment."""

    placement: Placement
    at: float
    load: float
    theta: float
    workers: int
    looked: Sequence[Score]


def _candidate(score: Score) -> Candidate:
    return Candidate(
        worker=score.seat.view.worker,
        idle=score.wait <= 0,
        wait_s=score.wait,
        transfer_s=score.transfer,
        swap_s=score.swap,
        run_s=score.run,
        cost_s=score.cost,
        total_s=score.total,
        loss_s=score.loss,
    )


def exclusions(pool: Pool, ask: Ask) -> dict[Exclusion, int]:
    """How many workers can't have this ask, and why."""
    reasons = (seat.exclusion(ask) or (Exclusion.RESTING if seat.resting else None) for seat in pool.seats.values())
    return dict(Counter(reason for reason in reasons if reason is not None))


def explanation(decision: Decision, policy: Policy, excluded: Mapping[Exclusion, int]) -> Explanation:
    """The decision for people and programs."""
    placement = decision.placement
    worker = placement.assignment.worker if placement.assignment else None
    return Explanation(
        request_id=placement.ask.request_id,
        policy=policy,
        reason=placement.reason,
        at=decision.at,
        text=_text(placement),
        worker=worker,
        load=decision.load,
        theta=decision.theta,
        workers=decision.workers,
        candidates=tuple(map(_candidate, decision.looked)),
        excluded=excluded,
    )


def _text(placement: Placement) -> str:
    worker = placement.assignment.worker if placement.assignment else None
    return TEXTS[placement.reason].format(worker=worker, awaited=placement.awaited)
