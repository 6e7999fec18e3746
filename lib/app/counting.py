"""Feeds the metrics from what happens."""

from collections.abc import Callable, Sequence

from lib.comfy.engine import ComfyEngine
from lib.comfy.ports import CareAction
from lib.delivery.posting import Attempt
from lib.delivery.schedules import Verdict
from lib.errors import ErrorCode
from lib.jobs.model import Job, JobStatus
from lib.jobs.speed import prediction_errors
from lib.telemetry.metrics import WorkerMetrics


def announce(metrics: WorkerMetrics, *, dialects: Sequence[str]) -> None:
    """Have every series from the start, at zero."""
    outcomes = [status.value for status in JobStatus if status.terminal]
    metrics.announce(
        dialects=dialects,
        outcomes=outcomes,
        codes=[code.value for code in ErrorCode],
        care=[action.value for action in CareAction],
    )


def count_jobs(metrics: WorkerMetrics) -> Callable[[Job], None]:
    """Return the ``JobListener`` that counts each job of a caller's when it is over."""

    def listen(job: Job) -> None:
        if job.spec.internal or not job.status.terminal:
            return
        metrics.job_finished(dialect=job.spec.dialect, outcome=str(job.status))
        _stages(metrics, job)
        _estimates(metrics, job)
        wanted = job.spec.delivery
        if wanted.s3 is not None or wanted.put is not None:  # without either, links are our own
            metrics.stored(sum(output.size_bytes for output in job.outputs if output.url and not output.upload_error))
        if (convert := wanted.convert) is not None:
            metrics.converted(sum(output.mime_type == f"image/{convert.format}" for output in job.outputs))

    return listen


def count_attempts(metrics: WorkerMetrics) -> Callable[[Attempt, bool], None]:
    """Return what counts each attempt to tell a webhook."""

    def count(attempt: Attempt, dead: bool) -> None:
        metrics.webhook_attempted(delivered=attempt.verdict is Verdict.DELIVERED, dead=dead)

    return count


def count_care(metrics: WorkerMetrics, engines: Sequence[ComfyEngine]) -> None:
    """Count what is done for each ComfyUI's health."""
    for engine in engines:
        engine.on_care(lambda action: metrics.engine_cared(action.value))


def _stages(metrics: WorkerMetrics, job: Job) -> None:
    timings = job.timings
    stages = {
        "prepare": timings.prepare_s,
        "wait": timings.wait_s,
        "execute": timings.execute_s,
        "collect": timings.collect_s,
        "deliver": timings.deliver_s,
    }
    for stage, seconds in stages.items():
        if seconds is not None:
            metrics.stage_took(stage, seconds)
    if timings.finished_at is not None:
        took_s = (timings.finished_at - timings.accepted_at).total_seconds()
        metrics.job_took(dialect=job.spec.dialect, duration_s=max(took_s, 0.0))  # the clock may have been set back


def _estimates(metrics: WorkerMetrics, job: Job) -> None:
    took_s = job.timings.execute_s
    ratio = None if took_s is None or not job.expected_s else took_s / job.expected_s
    metrics.estimated(wait_error_s=prediction_errors(job).wait_s, duration_ratio=ratio)
