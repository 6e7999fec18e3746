"""The tables of the latency benchmark, and what they are made of."""

from benchmark.facts import HostFacts
from benchmark.latency import LatencyReport, stage_sums

FACTS = HostFacts(cpu="a CPU", cpu_count=2, device="cpu", torch="2", comfyui="0.3")
METRICS = """# HELP pyworker_stage_seconds Time in one stage
pyworker_stage_seconds_bucket{le="0.1",stage="prepare"} 3.0
pyworker_stage_seconds_count{stage="prepare"} 3.0
pyworker_stage_seconds_sum{stage="prepare"} 0.006
pyworker_store_commit_seconds_count 6.0
pyworker_store_commit_seconds_sum 0.003
pyworker_job_seconds_sum{dialect="wrapper"} 9.0
"""


def test_stages_are_read_from_the_workers_metrics() -> None:
    """By stage, and the job store's; nothing else."""
    assert stage_sums(METRICS) == {"prepare": 0.006, "store_commit": 0.003}


def test_what_no_stage_counts_is_the_rest() -> None:
    """Neighbours are held against each other: their median difference, not the difference of medians."""
    stages = {"prepare": 0.5, "execute": 2.0, "store_commit": 0.4}
    report = LatencyReport(facts=FACTS, raw_ms=(4.0, 9.0, 5.0), ours_ms=(6.0, 10.0, 8.0), stages_ms=stages, cpu_ms=3.0)
    text = report.markdown()
    assert "| added, median of neighbours (95 %) | +2.00 (+1.00 .. +3.00) |" in text
    assert "answer | 5.50 |" in text
    assert "| of which wait: the record on disk, then a turn | 0.00 |" in text
