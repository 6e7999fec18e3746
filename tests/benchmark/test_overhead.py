"""``make bench`` in small: a real ComfyUI, a real worker, a few jobs."""

import json
import random

import pytest

from benchmark.overhead import TINY, Case, job_graph, measure_overhead
from benchmark.report import Overhead
from benchmark.workload import WORKFLOWS


@pytest.mark.comfyui
async def test_our_service_is_measured_against_the_same_comfyui() -> None:
    """Both sides give one PNG a job; every round is either counted or void, and the report holds together."""
    lines: list[str] = []
    cases = (
        Case(name=TINY, concurrency=2, jobs=6, reserve_s=0),
        Case(name=TINY, concurrency=8, jobs=12, count=4, reserve_s=0),
    )
    report = await measure_overhead(lines.append, cases=cases, rounds=1, memory=False)
    rounds = [line for line in lines if ", round " in line]
    counted = sum(one.rounds + one.void_rounds for one in report.comparisons)
    assert counted <= len(rounds) == 2
    assert all(one.raw_rate > 0 and one.ours_rate > 0 for one in report.comparisons)
    assert report.facts.comfyui
    assert json.loads(json.dumps(Overhead(report).to_json()))["targets"]
    assert Overhead(report).markdown()


@pytest.mark.comfyui
async def test_a_dialect_is_measured_against_our_own_route() -> None:
    """The dialect gives the same picture a job, and is held against its promise, not against ComfyUI's."""
    cases = (Case(name=TINY, concurrency=1, jobs=4, reserve_s=0),)
    report = await measure_overhead(lambda line: None, cases=cases, rounds=1, memory=False, dialect="runpod")
    assert report.dialect == "runpod"
    assert [target.what for target in Overhead(report).targets()] == [
        "runpod: added latency p50 over /generate/sync, tiny"
    ]
    assert "| sync jobs/s | runpod jobs/s | runpod/sync (95 %) | sync'/sync |" in Overhead(report).markdown()


@pytest.mark.parametrize("name", ["tiny.json", "sd15.json"])
def test_no_job_is_like_another(name: str) -> None:
    """Caches answer nothing, no job writes into another's folder, and no placeholder is left to one side only."""
    text, chance = (WORKFLOWS / name).read_bytes(), random.Random(1)
    graphs = [json.dumps(job_graph(text, prefix=f"bench/{number}/x", chance=chance)) for number in range(50)]
    assert all(f"bench/{number}/x" in graph for number, graph in enumerate(graphs))
    assert len({graph.replace(f"bench/{number}/x", "") for number, graph in enumerate(graphs)}) == 50
    assert not any("__RANDOM" in graph for graph in graphs)
