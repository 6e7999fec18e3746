"""``make bench`` in small: a real ComfyUI, a real worker, a few jobs."""

import json

import pytest

from benchmark.overhead import TINY, Case, measure_overhead
from benchmark.report import markdown, to_json


@pytest.mark.comfyui
async def test_our_service_is_measured_against_the_same_comfyui() -> None:
    """Both sides give one PNG a job; every round is either counted or void, and the report holds together."""
    lines: list[str] = []
    cases = (
        Case(name=TINY, concurrency=2, jobs=6, reserve_s=0),
        Case(name="sd", concurrency=4, jobs=4, count=2, reserve_s=0),
    )
    report = await measure_overhead(lines.append, cases=cases, rounds=1, memory=False)
    rounds = [line for line in lines if ", round " in line]
    counted = sum(one.rounds + one.void_rounds for one in report.comparisons)
    assert counted <= len(rounds) == 2
    assert all(one.raw_rate > 0 and one.ours_rate > 0 for one in report.comparisons)
    assert report.facts.comfyui
    assert json.loads(json.dumps(to_json(report)))["targets"]
    assert markdown(report)
