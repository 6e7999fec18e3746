"""Prometheus families."""

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from lib.telemetry.metrics import WorkerMetrics


def samples(metrics: WorkerMetrics) -> dict[str, float]:
    """All samples as ``name{label=value}: number``."""
    body, kind = metrics.render()
    assert kind.startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_every_family_shows_what_it_was_told() -> None:
    """Names are part of the interface."""
    metrics = WorkerMetrics(CollectorRegistry())
    metrics.job_finished(dialect="wrapper", outcome="completed")
    metrics.stage_took("execute", 1.5)
    metrics.queue(jobs=3, load=300.0, wait_s=6.0)
    metrics.perf(50.0)
    metrics.engine("engine-0", up=True)
    metrics.engine_restarts(1)
    metrics.engine_restarts(1)
    metrics.webhook_attempted(delivered=False)
    metrics.webhook_attempted(delivered=False, dead=True)
    metrics.webhooks(pending=4, dead=1, oldest_s=90.5)
    metrics.stored(1024)
    metrics.job_took(dialect="wrapper", duration_s=3)
    metrics.refused("overloaded")
    metrics.engine_cared("freed")
    metrics.store_committed(0.002)
    metrics.store_trouble(trouble=True)
    metrics.recovered(7)
    metrics.streams(5)
    metrics.input_brought(2048, cached=False)
    metrics.input_brought(2048, cached=True)
    metrics.converted(3)
    found = samples(metrics)
    assert found["pyworker_jobs_total{dialect=wrapper,outcome=completed}"] == 1
    assert found["pyworker_stage_seconds_sum{stage=execute}"] == 1.5
    assert found["pyworker_queue_jobs"] == 3
    assert found["pyworker_load"] == 300
    assert found["pyworker_queue_time_seconds"] == 6
    assert found["pyworker_perf"] == 50
    assert found["pyworker_engine_up{engine=engine-0}"] == 1
    assert found["pyworker_engine_restarts_total"] == 1
    assert found["pyworker_webhook_attempts_total{result=failed}"] == 1
    assert found["pyworker_webhook_attempts_total{result=dead}"] == 1
    assert found["pyworker_webhooks_pending"] == 4
    assert found["pyworker_webhooks_dead"] == 1
    assert found["pyworker_webhook_oldest_seconds"] == 90.5
    assert found["pyworker_storage_bytes_total"] == 1024
    assert found["pyworker_job_seconds_sum{dialect=wrapper}"] == 3
    assert found["pyworker_refused_requests_total{code=overloaded}"] == 1
    assert found["pyworker_engine_care_total{action=freed}"] == 1
    assert found["pyworker_store_commit_seconds_count"] == 1
    assert found["pyworker_store_trouble"] == 1
    assert found["pyworker_recovered_jobs_total"] == 7
    assert found["pyworker_event_streams"] == 5
    assert found["pyworker_inputs_total{source=fetched}"] == 1
    assert found["pyworker_inputs_total{source=cached}"] == 1
    assert found["pyworker_input_bytes_total"] == 2048
    assert found["pyworker_converted_pictures_total"] == 3
    assert found["pyworker_process_resident_memory_bytes"] > 1 << 20


def test_predictions_are_wrong_in_both_directions() -> None:
    """A wait that was shorter than said counts below zero; an execution is compared with what was said of it. What was
    not predicted does not count."""
    metrics = WorkerMetrics(CollectorRegistry())
    metrics.estimated(wait_error_s=-30.0, duration_ratio=0.5)
    metrics.estimated(wait_error_s=3.0, duration_ratio=None)
    metrics.estimated(wait_error_s=None, duration_ratio=20.0)
    found = samples(metrics)
    assert found["pyworker_wait_estimate_error_seconds_bucket{le=-20.0}"] == 1
    assert found["pyworker_wait_estimate_error_seconds_bucket{le=1.0}"] == 1
    assert found["pyworker_wait_estimate_error_seconds_bucket{le=5.0}"] == 2
    assert found["pyworker_duration_estimate_ratio_bucket{le=0.5}"] == 1
    assert found["pyworker_duration_estimate_ratio_bucket{le=10.0}"] == 1
    assert found["pyworker_duration_estimate_ratio_bucket{le=+Inf}"] == 2


@pytest.mark.parametrize("seconds", [0.05, 1800])
def test_buckets_reach_from_tiny_jobs_to_long_films(seconds: float) -> None:
    """0.05 to 1800 s."""
    metrics = WorkerMetrics(CollectorRegistry())
    metrics.job_took(dialect="wrapper", duration_s=seconds)
    metrics.stage_took("execute", seconds)
    found = samples(metrics)
    assert found[f"pyworker_job_seconds_bucket{{dialect=wrapper,le={float(seconds)}}}"] == 1
    assert found[f"pyworker_stage_seconds_bucket{{le={float(seconds)},stage=execute}}"] == 1


def test_outcomes_exist_before_the_first_job() -> None:
    """A rate needs its first sample at zero."""
    metrics = WorkerMetrics(CollectorRegistry())
    metrics.announce(dialects=["wrapper"], outcomes=["completed", "failed"], codes=["overloaded"], care=["freed"])
    found = samples(metrics)
    assert found["pyworker_jobs_total{dialect=wrapper,outcome=failed}"] == 0
    assert found["pyworker_refused_requests_total{code=overloaded}"] == 0
    assert found["pyworker_engine_care_total{action=freed}"] == 0


def test_two_registries_do_not_meet() -> None:
    """Nothing is global: two workers in one process count apart."""
    one, two = WorkerMetrics(CollectorRegistry()), WorkerMetrics(CollectorRegistry())
    one.perf(1)
    assert samples(two)["pyworker_perf"] == 0
