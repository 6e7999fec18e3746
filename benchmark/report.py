"""The overhead's result as a Markdown table, with each target and whether it was met. Pure."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from benchmark.compare import Comparison
from benchmark.memory import MemoryFigures
from benchmark.overhead import TINY, OverheadReport
from benchmark.score import Interval
from benchmark.targets import Target, at_least, at_most, target_rows


@dataclass(frozen=True, slots=True)
class Overhead:
    """The overhead's report with what we promise."""

    found: OverheadReport

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: the report and its targets."""
        return {**asdict(self.found), "targets": [asdict(target) for target in self.targets()]}

    def targets(self) -> tuple[Target, ...]:
        """Hold the figures against what the service promises."""
        if self.found.dialect is not None:
            return tuple(_dialect_targets(self.found, self.found.dialect))
        return (*_speed_targets(self.found), *_memory_targets(self.found.memory))

    def markdown(self) -> str:
        """The whole report."""
        report = self.found
        head = f"{report.facts.headline()}; {report.seconds_spent:.0f} s"
        names = ("raw", "ours") if report.dialect is None else ("sync", report.dialect)
        parts = [head, "", *_comparison_rows(report.comparisons, *names), "", *target_rows(self.targets())]
        notes = [*report.notes, *(report.memory.notes if report.memory else ())]
        return "\n".join([*parts, *(["", *(f"- {note}" for note in notes)] if notes else [])])


def _speed_targets(report: OverheadReport) -> Iterator[Target]:
    found = {(one.name == TINY, one.concurrency): one for one in report.comparisons}
    single = found.get((True, 1))
    yield at_most("added latency p50, tiny", single.added_p50_ms.value if single else None, 1.5, "ms")
    yield at_most("added latency p99, tiny", single.added_p99_ms.value if single else None, 8.0, "ms")
    for concurrency in (8, 64):  # a single caller's throughput is his latency, promised above
        one = found.get((True, concurrency))
        yield at_least(f"throughput, tiny x{concurrency}", one.ratio.value if one else None, 0.85)
    for concurrency in (1, 8, 64):
        one = found.get((False, concurrency))
        yield at_least(f"throughput, SD x{concurrency}, lower bound", one.ratio.low if one else None, 0.96)


def _dialect_targets(report: OverheadReport, dialect: str) -> Iterator[Target]:
    single = next((one for one in report.comparisons if one.concurrency == 1), None)
    yield at_most(
        f"{dialect}: added latency p50 over /generate/sync, tiny",
        single.added_p50_ms.value if single else None,
        1,
        "ms",
    )


def _memory_targets(memory: MemoryFigures | None) -> Iterator[Target]:
    yield at_most("RSS idle", memory.idle_mb if memory else None, 90, "MB")
    yield at_most("RSS, all libraries used", memory.libraries_mb if memory else None, 130, "MB")
    yield at_most("1,000 waiting requests of 10 KB add", memory.waiting_added_mb if memory else None, 80, "MB")
    yield at_most("500 MB output delivered to S3: growth", memory.large_growth_mb if memory else None, 64, "MB")


def _comparison_rows(comparisons: tuple[Comparison, ...], base: str, own: str) -> Iterator[str]:
    yield f"| workflow | callers | jobs | {base} jobs/s | {own} jobs/s | {own}/{base} (95 %) | {base}'/{base} | {base} p50 / p99 ms | {own} p50 / p99 ms | added p50 ms (95 %) | added p99 ms (95 %) | our CPU ms/job | rounds |"  # noqa: E501 - one table row
    yield "| --- " * 13 + "|"
    for one in comparisons:
        rounds = f"{one.rounds}{' (short)' if one.short else ''}, {one.void_rounds} void"
        cells = (
            one.name,
            one.concurrency,
            one.jobs_a_side,
            f"{one.raw_rate:.2f}",
            f"{one.ours_rate:.2f}",
            _interval(one.ratio, ".3f"),
            f"{one.drift:.2f}",
            f"{one.raw_p50_ms:.2f} / {one.raw_p99_ms:.2f}",
            f"{one.ours_p50_ms:.2f} / {one.ours_p99_ms:.2f}",
            _interval(one.added_p50_ms, "+.2f"),
            _interval(one.added_p99_ms, "+.2f"),
            f"{one.cpu_ms:.2f}",
            rounds,
        )
        yield "| " + " | ".join(str(cell) for cell in cells) + " |"


def _interval(interval: Interval, spec: str) -> str:
    return f"{interval.value:{spec}} ({interval.low:{spec}} .. {interval.high:{spec}})"
