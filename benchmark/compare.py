"""Rounds of raw, ours, raw': what they prove, and when they prove nothing. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmark import score
from benchmark.load import Leg
from benchmark.score import Interval

DRIFT_LOW, DRIFT_HIGH = 0.9, 1.1
"""Where raw'/raw leaves this band the machine changed under the round, and the round is void."""
POOLED_DRAWS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The three legs, in the order in which they ran; ``cpu_s`` is what our process used for its leg."""

    raw: Leg
    ours: Leg
    again: Leg
    cpu_s: float = 0.0

    @property
    def drift(self) -> float:
        """raw'/raw: how steady the machine was."""
        return self.again.rate / self.raw.rate

    @property
    def void(self) -> bool:
        return not DRIFT_LOW <= self.drift <= DRIFT_HIGH

    @property
    def ratio(self) -> float:
        """Our throughput over raw's."""
        return self.ours.rate / score.mean([self.raw.rate, self.again.rate])

    @property
    def added_p50_ms(self) -> float:
        return self.ours.p50_ms - score.mean([self.raw.p50_ms, self.again.p50_ms])

    @property
    def cpu_ms(self) -> float:
        """Our processor time a job."""
        return 1000 * self.cpu_s / len(self.ours.latencies_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One workflow at one concurrency. Times in ms, rates in jobs a second."""

    name: str
    concurrency: int
    jobs_a_side: int
    raw_rate: float
    ours_rate: float
    ratio: Interval
    drift: float
    raw_p50_ms: float
    ours_p50_ms: float
    added_p50_ms: Interval
    raw_p99_ms: float
    ours_p99_ms: float
    added_p99_ms: Interval
    cpu_ms: float
    rounds: int
    void_rounds: int
    short: bool = field(default=False)
    """Fewer valid rounds than asked for: the machine was too unsteady, or time was up."""


def compare(name: str, rounds: Sequence[Round], *, concurrency: int, wanted: int) -> Comparison | None:
    """Sum the valid rounds up; None when there is none."""
    valid = [one for one in rounds if not one.void]
    if not valid:
        return None
    raw = [latency for one in valid for latency in (*one.raw.latencies_s, *one.again.latencies_s)]
    ours = [latency for one in valid for latency in one.ours.latencies_s]
    return Comparison(
        name=name,
        concurrency=concurrency,
        jobs_a_side=len(ours),
        raw_rate=median(score.mean([one.raw.rate, one.again.rate]) for one in valid),
        ours_rate=median(one.ours.rate for one in valid),
        ratio=score.bootstrap([one.ratio for one in valid], of=median),
        drift=median(one.drift for one in valid),
        raw_p50_ms=1000 * score.percentile(raw, 0.5),
        ours_p50_ms=1000 * score.percentile(ours, 0.5),
        added_p50_ms=score.bootstrap([one.added_p50_ms for one in valid], of=median),
        raw_p99_ms=1000 * score.percentile(raw, 0.99),
        ours_p99_ms=1000 * score.percentile(ours, 0.99),
        added_p99_ms=score.bootstrap(valid, of=_pooled_p99_ms, draws=POOLED_DRAWS),
        cpu_ms=median(one.cpu_ms for one in valid),
        rounds=len(valid),
        void_rounds=len(rounds) - len(valid),
        short=len(valid) < wanted,
    )


def _pooled_p99_ms(rounds: Sequence[Round]) -> float:
    ours = [latency for one in rounds for latency in one.ours.latencies_s]
    raw = [latency for one in rounds for latency in (*one.raw.latencies_s, *one.again.latencies_s)]
    return 1000 * (score.percentile(ours, 0.99) - score.percentile(raw, 0.99))
