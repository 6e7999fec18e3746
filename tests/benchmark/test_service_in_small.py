"""``make bench`` in small: each measurement once, on a real ComfyUI, with figures that make sense."""

import json

import pytest

from benchmark.gap import measure_gap
from benchmark.large import measure_large
from benchmark.soak import measure_soak
from benchmark.streams import measure_streams
from benchmark.traffic import Traffic, measure_load

pytestmark = pytest.mark.comfyui


def quiet(line: str) -> None:
    """Progress lines are for people."""


async def test_load() -> None:
    """Closed and open loop, all three legs, every job answered with its file."""
    traffic = (Traffic(name="closed", jobs=6, callers=2), Traffic(name="open", jobs=6, rate=20.0))
    report = await measure_load(quiet, traffic=traffic)
    assert [len(leg.latencies_s) for one in report.measured for leg in one.legs] == [6] * 6
    assert report.markdown().count("| ours |") == 2


async def test_gap() -> None:
    """Each leg has a gap less than jobs, without those that warm up; every output was delivered."""
    report = await measure_gap(quiet, jobs=5, warm=1)
    assert [len(leg.gaps_ms) for leg in report.legs] == [3, 3, 3]
    assert all(gap > 0 for leg in report.legs for gap in leg.gaps_ms)


async def test_large() -> None:
    """Sizes are those of the files."""
    report = await measure_large(quiet, batch=1, side=1000)
    assert [round(case.size_mb) for case in report.cases] == [67, 3]
    assert len(report.targets()) == 4


async def test_soak() -> None:
    """Nothing is left after a few jobs either."""
    report = await measure_soak(quiet, jobs=40, warm=20)
    assert report.stray_files == ()
    assert report.tasks[0] > 0 and report.open_files[0] > 0
    assert json.loads(json.dumps(report.to_json()))["jobs"] == 40


async def test_streams() -> None:
    """Readers get events with an age; those that never read don't stop the others."""
    report = await measure_streams(quiet, streams=30, slow=3, seconds=4.0)
    assert report.events_per_second > 0
    assert report.ages_ms and report.closed == 0
    assert report.jobs > 0
