"""The overhead's result as a Markdown table, with each target and whether it was met. Pure."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from benchmark.compare import Comparison
from benchmark.memory import MemoryFigures
from benchmark.overhead import TINY, OverheadReport
from benchmark.score import Interval

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
"""Between these a page keeps the tables of the last run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One promise; ``met`` is None where nothing was measured."""

    what: str
    promise: str
    found: str
    met: bool | None


def to_json(report: OverheadReport) -> dict[str, Any]:
    """Plain JSON values: the report and its targets."""
    return {**asdict(report), "targets": [asdict(target) for target in targets(report)]}


def targets(report: OverheadReport) -> tuple[Target, ...]:
    """Hold the figures against what the service promises."""
    return (*_speed_targets(report), *_memory_targets(report.memory))


def markdown(report: OverheadReport) -> str:
    """The whole report."""
    facts = report.facts
    head = f"{facts.describe()}, torch {facts.torch}, ComfyUI {facts.comfyui}; {report.seconds_spent:.0f} s"
    parts = [head, "", *_comparison_rows(report.comparisons), "", *_target_rows(targets(report))]
    notes = [*report.notes, *(report.memory.notes if report.memory else ())]
    return "\n".join([*parts, *(["", *(f"- {note}" for note in notes)] if notes else [])])


def with_tables(page: str, tables: str) -> str:
    """The page with new tables between its markers. Raises ValueError when it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks its markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{tables}\n{END}{after}"


def _speed_targets(report: OverheadReport) -> Iterator[Target]:
    found = {(one.name == TINY, one.concurrency): one for one in report.comparisons}
    single = found.get((True, 1))
    yield _at_most("added latency p50, tiny", single.added_p50_ms.value if single else None, 1.5, "ms")
    yield _at_most("added latency p99, tiny", single.added_p99_ms.value if single else None, 8.0, "ms")
    for concurrency in (8, 64):  # a single caller's throughput is his latency, promised above
        one = found.get((True, concurrency))
        yield _at_least(f"throughput, tiny x{concurrency}", one.ratio.value if one else None, 0.85)
    for concurrency in (1, 8, 64):
        one = found.get((False, concurrency))
        yield _at_least(f"throughput, SD x{concurrency}, lower bound", one.ratio.low if one else None, 0.96)


def _memory_targets(memory: MemoryFigures | None) -> Iterator[Target]:
    yield _at_most("RSS idle", memory.idle_mb if memory else None, 90, "MB")
    yield _at_most("RSS, all libraries used", memory.libraries_mb if memory else None, 130, "MB")
    yield _at_most("1,000 waiting requests of 10 KB add", memory.waiting_added_mb if memory else None, 80, "MB")
    yield _at_most("500 MB output delivered to S3: growth", memory.large_growth_mb if memory else None, 64, "MB")


def _at_most(what: str, value: float | None, limit: float, unit: str) -> Target:
    found = "not measured" if value is None else f"{value:.2f} {unit}" if unit == "ms" else f"{value:.0f} {unit}"
    return Target(what=what, promise=f"<= {limit:g} {unit}", found=found, met=None if value is None else value <= limit)


def _at_least(what: str, value: float | None, limit: float) -> Target:
    found = "not measured" if value is None else f"{value:.3f} x raw"
    return Target(what=what, promise=f">= {limit:g} x raw", found=found, met=None if value is None else value >= limit)


def _comparison_rows(comparisons: tuple[Comparison, ...]) -> Iterator[str]:
    yield "| workflow | callers | jobs | raw jobs/s | ours jobs/s | ours/raw (95 %) | raw'/raw | raw p50 / p99 ms | ours p50 / p99 ms | added p50 ms (95 %) | added p99 ms (95 %) | our CPU ms/job | rounds |"  # noqa: E501 - one table row
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


def _target_rows(found: tuple[Target, ...]) -> Iterator[str]:
    yield "| target | promised | found | |"
    yield "| --- | --- | --- | --- |"
    for target in found:
        verdict = {True: "met", False: "**MISSED**", None: "**not measured**"}[target.met]
        yield f"| {target.what} | {target.promise} | {target.found} | {verdict} |"


def _interval(interval: Interval, spec: str) -> str:
    return f"{interval.value:{spec}} ({interval.low:{spec}} .. {interval.high:{spec}})"
