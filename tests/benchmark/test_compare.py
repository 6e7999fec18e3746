"""Rounds of raw, ours, raw': what counts and what is thrown away."""

import asyncio
from pathlib import Path

import pytest

from benchmark.compare import Round, compare
from benchmark.facts import HostFacts
from benchmark.load import Leg, drive
from benchmark.memory import MemoryFigures
from benchmark.overhead import CASES, TINY, OverheadReport
from benchmark.report import Overhead
from benchmark.targets import new_page, with_tables


def leg(job_s: float, jobs: int = 100) -> Leg:
    return Leg(latencies_s=(job_s,) * jobs, elapsed_s=job_s * jobs)


def rounds(*triples: tuple[float, float, float]) -> list[Round]:
    return [Round(raw=leg(raw), ours=leg(ours), again=leg(again), cpu_s=0.1) for raw, ours, again in triples]


def test_ratios_and_added_latency_are_against_the_mean_of_both_raw_legs() -> None:
    """4 ms between 2 ms and 2 ms: half as fast, 2 ms more; 0.1 s of processor for 100 jobs is 1 ms each."""
    found = compare("x", rounds((0.002, 0.004, 0.002)), concurrency=1, wanted=1)
    assert found is not None
    assert found.ratio.value == pytest.approx(0.5)
    assert found.added_p50_ms.value == pytest.approx(2.0)
    assert found.added_p99_ms.value == pytest.approx(2.0)
    assert found.cpu_ms == pytest.approx(1.0)


@pytest.mark.parametrize(("again", "void"), [(0.0020, False), (0.0021, False), (0.0023, True), (0.0017, True)])
def test_a_round_on_a_machine_that_changed_is_void(again: float, void: bool) -> None:
    """raw'/raw outside 0.9 .. 1.1 proves nothing, in either direction."""
    assert rounds((0.002, 0.002, again))[0].void is void


def test_void_rounds_are_counted_and_left_out() -> None:
    """The outlier changes no figure, but the reader sees that it was there."""
    found = compare("x", rounds((0.002, 0.002, 0.002), (0.002, 0.9, 0.004)), concurrency=1, wanted=2)
    assert found is not None
    assert (found.rounds, found.void_rounds, found.short) == (1, 1, True)
    assert found.ratio.value == pytest.approx(1.0)
    assert compare("x", rounds((0.002, 0.9, 0.004)), concurrency=1, wanted=1) is None


async def test_the_load_generator_keeps_so_many_in_flight_and_sends_each_job_once() -> None:
    """Never more than ``concurrency`` at once; all numbers, each once."""
    sent: list[int] = []
    flying = most = 0

    async def send(number: int) -> None:
        nonlocal flying, most
        sent.append(number)
        flying += 1
        most = max(most, flying)
        await asyncio.sleep(0)
        flying -= 1

    found = await drive(send, jobs=50, concurrency=8)
    assert sorted(sent) == list(range(50))
    assert (most, len(found.latencies_s)) == (8, 50)


async def test_counting_fewer_drops_the_rest() -> None:
    """After ``count`` answers the waiting callers are cancelled, and only those answers are in the figures."""
    release = asyncio.Semaphore(5)
    cancelled = 0

    async def send(number: int) -> None:
        nonlocal cancelled
        try:
            await release.acquire()
        except asyncio.CancelledError:
            cancelled += 1
            raise

    found = await drive(send, jobs=20, concurrency=20, count=5)
    assert (len(found.latencies_s), cancelled) == (5, 15)


async def test_a_failing_job_fails_the_measurement() -> None:
    """A refused job must never count as a fast one."""

    async def send(number: int) -> None:
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        await drive(send, jobs=3, concurrency=1)


def report(*, ours_s: float = 0.002, growth_mb: float | None = 10.0) -> OverheadReport:
    found = [
        compare(case.name, rounds((0.002, ours_s, 0.002)), concurrency=case.concurrency, wanted=1) for case in CASES
    ]
    memory = MemoryFigures(
        idle_mb=80.0, libraries_mb=120.0, waiting_added_mb=30.0, large_output_mb=537.0, large_growth_mb=growth_mb
    )
    comparisons = tuple(one for one in found if one is not None)
    return OverheadReport(facts=HostFacts(), comparisons=comparisons, memory=memory, notes=("a note",), seconds_spent=1)


def test_every_promise_is_held_against_a_figure() -> None:
    """Eleven targets; all met when we cost nothing."""
    found = Overhead(report()).targets()
    assert len(found) == 11
    assert all(target.met for target in found)


def test_a_missed_target_is_said_loudly() -> None:
    """Slower by half, and a growth over the limit: named as missed in the table, and in the JSON."""
    slow = report(ours_s=0.02, growth_mb=65.0)
    missed = {target.what for target in Overhead(slow).targets() if target.met is False}
    assert {"added latency p50, tiny", "throughput, tiny x64", "throughput, SD x1, lower bound"} < missed
    assert any("500 MB" in what for what in missed)
    assert Overhead(slow).markdown().count("**MISSED**") == len(missed)
    assert sum(target["met"] is False for target in Overhead(slow).to_json()["targets"]) == len(missed)


def test_what_was_not_measured_is_not_called_met() -> None:
    """An absent figure is neither met nor missed."""
    text = Overhead(report(growth_mb=None)).markdown()
    assert "| not measured | **not measured** |" in text
    assert "- a note" in text


def test_the_cases_cover_both_workflows_at_each_concurrency() -> None:
    """1, 8 and 64 callers on each; at least 60 picture jobs a side in six rounds."""
    assert {(case.name == TINY, case.concurrency) for case in CASES} == {
        (t, c) for t in (True, False) for c in (1, 8, 64)
    }
    assert all(6 * (case.count or case.jobs) >= 60 for case in CASES)


def test_the_docs_page_takes_the_tables_of_a_run() -> None:
    """Everything between the markers is replaced, the prose stays; a page without markers is refused."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "benchmarks" / "overhead.md").read_text()
    changed = with_tables(page, "| new |")
    assert "| new |" in changed
    assert changed.splitlines()[0] == page.splitlines()[0]
    assert with_tables(changed, "| new |") == changed
    with pytest.raises(ValueError, match="markers"):
        with_tables("# nothing", "| new |")


def test_a_page_that_is_not_there_begins_with_its_command() -> None:
    """A run of ten minutes is not lost because nobody wrote a page for it."""
    page = with_tables(new_page("overhead --dialect salad"), "| new |")
    assert "`python -m benchmark overhead --dialect salad`" in page
    assert "| new |" in page
