"""What the boot benchmark found; the shape of ``<workspace>/benchmark.json`` and of ``/health``'s ``benchmark``."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmark import score
from benchmark.facts import HostFacts
from benchmark.ports import RunTimes


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineScore:
    """One engine's runs, in seconds; ``load_s`` is what the first run took longer than a typical one."""

    engine: str
    median_s: float
    mad_s: float
    spread: float
    execute_median_s: float
    samples_s: tuple[float, ...]
    warmup_s: float | None = None
    load_s: float | None = None

    @property
    def perf(self) -> float:
        return score.perf([self.median_s])


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """``perf`` is in workload units per second, the sum over the engines of 100 / median seconds."""

    perf: float
    spread: float
    engines: tuple[EngineScore, ...]
    workflow_source: str
    workflow_title: str
    workflow_hash: str
    cached: bool
    from_warmup: bool
    """The budget was gone after the warm-up: its time, loading included, is the score (a low one)."""
    seconds_spent: float
    measured_at: str
    """ISO 8601, UTC."""
    facts: HostFacts
    key: dict[str, object]
    warnings: tuple[str, ...] = ()

    @property
    def trustworthy(self) -> bool:
        """Whether a later start may take this score over: it is one, of all engines, and of warm ones."""
        complete = bool(self.engines) and len(self.engines) == self.key.get("engines")
        return math.isfinite(self.perf) and self.perf > 0 and complete and not self.from_warmup

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without the cache key."""
        values = asdict(self)
        del values["key"]
        return values


def engine_score(engine: str, runs: Sequence[RunTimes], *, warmup: RunTimes | None) -> EngineScore:
    """Summarise one engine's measured runs (at least one)."""
    samples = tuple(run.total_s for run in runs)
    typical = median(samples)
    return EngineScore(
        engine=engine,
        median_s=typical,
        mad_s=score.mad(samples),
        spread=score.spread(samples),
        execute_median_s=median(run.execute_s for run in runs),
        samples_s=samples,
        warmup_s=warmup.total_s if warmup else None,
        load_s=max(0.0, warmup.total_s - typical) if warmup else None,
    )
