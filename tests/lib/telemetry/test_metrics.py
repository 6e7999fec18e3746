"""Prometheus families."""

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
    metrics.stored(1024)
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
    assert found["pyworker_storage_bytes_total"] == 1024
    assert found["pyworker_process_resident_memory_bytes"] > 1 << 20


def test_outcomes_exist_before_the_first_job() -> None:
    """A rate needs its first sample at zero."""
    metrics = WorkerMetrics(CollectorRegistry())
    metrics.announce(dialects=["wrapper"], outcomes=["completed", "failed"])
    assert samples(metrics)["pyworker_jobs_total{dialect=wrapper,outcome=failed}"] == 0


def test_two_registries_do_not_meet() -> None:
    """Nothing is global: two workers in one process count apart."""
    one, two = WorkerMetrics(CollectorRegistry()), WorkerMetrics(CollectorRegistry())
    one.perf(1)
    assert samples(two)["pyworker_perf"] == 0
