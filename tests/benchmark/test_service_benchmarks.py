"""The pure parts of load, gap, large, soak and streams; ``test_service_in_small`` runs them."""

import random
from pathlib import Path

import filetype
import orjson
import pytest

from benchmark import plots
from benchmark.facts import HostFacts
from benchmark.gap import GapReport, Gaps, gaps_ms
from benchmark.large import LargeCase, LargeReport
from benchmark.neighbours import small_png
from benchmark.soak import SoakReport
from benchmark.streams import StreamsReport
from benchmark.targets import with_tables
from benchmark.traffic import LoadReport, Measured, Side, Traffic, mixed

FACTS = HostFacts(cpu="a CPU", cpu_count=2, device="cpu", torch="2", comfyui="0.3")
PAGES = Path(__file__).resolve().parents[2] / "docs" / "benchmarks"


def gap_report(ours: float) -> GapReport:
    sides = (("raw, pre-queued", 2.0), ("ours", ours), ("raw again", 4.0))
    legs = tuple(Gaps(side=side, gaps_ms=(value, value, value)) for side, value in sides)
    return GapReport(facts=FACTS, legs=legs, jobs=3)


def soak_report(**changes: object) -> SoakReport:
    values = {"begin_mb": 80.0, "end_mb": 81.0, "tasks": (9, 9), "open_files": (20, 20), "stray_files": ()}
    samples = ((0.0, 80.0), (1.0, 81.0))
    return SoakReport(facts=FACTS, jobs=10, rate=400.0, samples=samples, **{**values, **changes})  # type: ignore[arg-type]


def streams_report(ages_ms: tuple[float, ...]) -> StreamsReport:
    return StreamsReport(
        facts=FACTS,
        streams=10,
        slow=1,
        events_per_second=100.0,
        cores=0.5,
        idle_cores=0.1,
        jobs=5,
        closed=0,
        ages_ms=ages_ms,
    )


def load_report() -> LoadReport:
    legs = tuple(Side(side=side, latencies_s=(0.1, 0.2), elapsed_s=1.0) for side in ("raw", "ours", "raw again"))
    return LoadReport(facts=FACTS, measured=(Measured(traffic=Traffic(name="closed", jobs=2, callers=1), legs=legs),))


def test_a_gap_is_from_one_end_to_the_next_begin() -> None:
    """Whatever the order of the lines."""
    lines = ["b 2.000 3.000", "a 0.000 1.500", "c 3.002 4.0"]
    assert gaps_ms(lines) == (pytest.approx(500), pytest.approx(2))


@pytest.mark.parametrize(("ours", "met"), [(6.0, True), (6.1, False)])
def test_gaps_are_held_against_the_mean_of_both_raw_legs(ours: float, met: bool) -> None:
    """Twice 3 ms is just allowed."""
    assert [target.met for target in gap_report(ours).targets()] == [met, met]


def test_soak_promises_that_nothing_stays() -> None:
    """Each kind of leftover is a promise broken on its own."""
    assert all(target.met for target in soak_report().targets())
    spoiled = ({"end_mb": 90.0}, {"tasks": (9, 10)}, {"open_files": (20, 21)}, {"stray_files": ("x.png",)})
    for changes in spoiled:
        assert [target.met for target in soak_report(**changes).targets()].count(False) == 1


def test_streams_without_events_prove_nothing() -> None:
    """No age was measured, so the promise is neither met nor missed."""
    assert [target.met for target in streams_report(()).targets()] == [True, None]
    assert [target.met for target in streams_report((10.0, 60.0)).targets()] == [True, False]


def test_large_files_promise_memory_and_no_stall() -> None:
    """Two promises a file."""
    case = LargeCase(what="output", size_mb=1000, growth_mb=65, stalls=1, seconds=9)
    assert [target.met for target in LargeReport(facts=FACTS, cases=(case,)).targets()] == [False, False]


def test_the_mix_is_the_same_on_both_sides() -> None:
    """Which job is which follows from its number; contents differ between legs, so that no cache answers."""
    first, second = mixed(50, leg=1), mixed(50, leg=2)
    assert [len(graph) for graph in first] == [len(graph) for graph in second]
    assert 0 < sum(len(graph) > 3 for graph in first) < 25
    texts = {orjson.dumps(graph) for graph in (*first, *second)}
    assert len(texts) == 100


def test_small_pictures_are_pictures_and_all_different() -> None:
    """A PNG that decodes, of its own for each number."""
    pyvips = pytest.importorskip("pyvips")
    numbers = random.Random(1).sample(range(1 << 20), 20)
    assert len({small_png(number) for number in numbers}) == 20
    picture = pyvips.Image.new_from_buffer(small_png(0x112233), "")
    assert (picture.width, picture.height, picture(0, 0)) == (128, 128, [0x11, 0x22, 0x33])
    assert filetype.guess(small_png(1)).mime == "image/png"


def test_every_report_is_drawn(tmp_path: Path) -> None:
    """Each plot is a PNG."""
    plots.plot_load(load_report(), tmp_path / "load.png")
    plots.plot_gap(gap_report(3.0), tmp_path / "gap.png")
    plots.plot_soak(soak_report(), tmp_path / "soak.png")
    plots.plot_streams(streams_report((1.0, 2.0)), tmp_path / "streams.png")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("name", ["overhead", "load", "gap", "large", "soak", "streams"])
def test_every_command_has_a_page_for_its_tables(name: str) -> None:
    """``--page`` finds its markers, and the page prints the command that makes it."""
    page = (PAGES / f"{name}.md").read_text()
    assert f"python -m benchmark {name}" in page
    assert "| new |" in with_tables(page, "| new |")
