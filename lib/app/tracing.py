"""Turns finished jobs and webhook attempts into the steps of a trace."""

from collections.abc import Callable
from datetime import datetime, timedelta

from lib.delivery.posting import Attempt
from lib.delivery.schedules import Verdict
from lib.jobs.model import Job
from lib.telemetry.traces import Fact, Step, Traces


def trace_jobs(traces: Traces) -> Callable[[Job], None]:
    """Return a ``JobListener`` that records each job of a caller's when it is over."""

    def listen(job: Job) -> None:
        if job.status.terminal and not job.spec.internal:
            traces.add_job(job.job_id, _whole(job), _parts(job), traceparent=job.spec.traceparent)

    return listen


def trace_webhook(traces: Traces, attempt: Attempt) -> None:
    """Add an attempt to tell a webhook to its job's trace."""
    item = attempt.item
    facts: dict[str, Fact] = {
        "server.address": item.host,
        "messaging.message.id": item.message_id,
        "webhook.event": str(item.event),
        "webhook.attempt": item.attempts + 1,
    }
    if attempt.status is not None:
        facts["http.response.status_code"] = attempt.status
    error = "" if attempt.verdict is Verdict.DELIVERED else str(attempt.status or attempt.verdict)
    step = Step(name="webhook", begun_at=attempt.begun_at, ended_at=attempt.ended_at, facts=facts, error=error)
    traces.add_part(item.job_id, step)


def _whole(job: Job) -> Step:
    facts: dict[str, Fact] = {
        "job.id": job.job_id,
        "job.request_id": job.spec.request_id,
        "job.dialect": job.spec.dialect,
        "job.status": str(job.status),
        "job.cost": job.cost,
        "job.run": job.run,
        "job.attempts": job.attempts,
        "job.outputs": len(job.outputs),
        "job.output_bytes": sum(output.size_bytes for output in job.outputs),
    }
    if job.spec.owner:
        facts["job.owner"] = job.spec.owner
    error = str(job.error.code) if job.error is not None else ""
    return Step(name="job", begun_at=job.timings.accepted_at, ended_at=_end(job), facts=facts, error=error)


def _parts(job: Job) -> list[Step]:
    """``fetch`` (inputs), ``queue``, ``comfy.execute``, ``upload``; those that the job came to."""
    timings, end = job.timings, _end(job)
    prepared_at = _after(timings.accepted_at, timings.prepare_s or 0.0, end)
    started_at = timings.execution_started_at
    parts = []
    if timings.prepare_s is not None:
        parts.append(
            Step(
                name="fetch",
                begun_at=timings.accepted_at,
                ended_at=prepared_at,
                facts={"job.inputs": len(job.inputs)},
            )
        )
    queued_until = end if started_at is None else max(started_at, prepared_at)
    parts.append(Step(name="queue", begun_at=prepared_at, ended_at=queued_until))
    if started_at is not None:
        ran_until = end if timings.execute_s is None else _after(started_at, timings.execute_s, end)
        facts = {"comfyui.prompt_id": job.prompt_id or "", "comfyui.engine": job.engine or ""}
        parts.append(Step(name="comfy.execute", begun_at=started_at, ended_at=ran_until, facts=facts))
    if timings.deliver_s is not None:
        begun_at = max(end - timedelta(seconds=timings.deliver_s), timings.accepted_at)
        parts.append(Step(name="upload", begun_at=begun_at, ended_at=end))
    return parts


def _end(job: Job) -> datetime:
    return job.timings.finished_at or job.timings.accepted_at


def _after(moment: datetime, seconds: float, end: datetime) -> datetime:
    """Stages are measured apart from the stamps, so they are kept inside the whole."""
    return min(moment + timedelta(seconds=seconds), end)
