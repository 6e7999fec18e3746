"""What of a job goes into its trace."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from lib.app.tracing import trace_jobs, trace_webhook
from lib.delivery.posting import Attempt
from lib.delivery.schedules import Verdict
from lib.errors import ExecutionFailed
from lib.jobs.model import Job, JobEvent, JobSpec, JobStatus, OutboxItem, Timings, WebhookTarget
from lib.settings import TelemetrySettings
from lib.telemetry.traces import open_traces
from tests.fakes.otlp import Collector

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


DONE = Job(
    job_id="j-1",
    spec=JobSpec(request_id="r-1", dialect="wrapper", workflow=b"{}", owner="studio"),
    sequence=1,
    cost=50.0,
    status=JobStatus.COMPLETED,
    engine="gpu-0",
    prompt_id="p-1",
    timings=Timings(
        accepted_at=at(0),
        execution_started_at=at(5),
        finished_at=at(10),
        prepare_s=2.0,
        wait_s=3.0,
        execute_s=4.0,
        collect_s=0.1,
        deliver_s=0.9,
    ),
)


async def traced(job: Job, *attempts: Attempt) -> dict[str, tuple[float, float, str]]:
    """The spans of a job: begin and end in seconds after its acceptance, and the error."""
    async with Collector() as collector:
        settings = TelemetrySettings(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        async with open_traces(settings) as traces:
            assert traces is not None
            trace_jobs(traces)(job)
            for attempt in attempts:
                trace_webhook(traces, attempt)
        zero = START.timestamp()
        found = {}
        for name, span in collector.spans.items():
            facts = {item.key: item.value.string_value for item in span.attributes}
            begun, ended = span.start_time_unix_nano / 1e9 - zero, span.end_time_unix_nano / 1e9 - zero
            found[name] = round(begun, 3), round(ended, 3), facts.get("error.type", "")
        return found


async def test_the_parts_of_a_job() -> None:
    """Fetch, queue, execution and upload, one after the other inside the whole; then its webhook."""
    target = WebhookTarget(url="https://hooks.example/x")
    item = OutboxItem(
        message_id="msg_1",
        job_id="j-1",
        owner="studio",
        event=JobEvent.COMPLETED,
        target=target,
        body=b"{}",
        created_at=at(10),
        next_at=at(10),
    )
    attempt = Attempt(item=item, verdict=Verdict.AGAIN, begun_at=at(11), ended_at=at(12), status=503)
    assert await traced(DONE, attempt) == {
        "job": (0, 10, ""),
        "fetch": (0, 2, ""),
        "queue": (2, 5, ""),
        "comfy.execute": (5, 9, ""),
        "upload": (9.1, 10, ""),
        "webhook": (11, 12, "503"),
    }


async def test_a_job_that_failed_in_between() -> None:
    """It has the parts that it came to, and the stable name of what went wrong."""
    timings = Timings(accepted_at=at(0), execution_started_at=at(3), finished_at=at(4), prepare_s=1.0)
    failed = replace(DONE, status=JobStatus.FAILED, timings=timings, error=ExecutionFailed("secret words"))
    assert await traced(failed) == {
        "job": (0, 4, "execution_failed"),
        "fetch": (0, 1, ""),
        "queue": (1, 3, ""),
        "comfy.execute": (3, 4, ""),
    }


async def test_a_job_that_never_started() -> None:
    """All of its time was waiting."""
    cancelled = replace(DONE, status=JobStatus.CANCELLED, timings=Timings(accepted_at=at(0), finished_at=at(4)))
    assert await traced(cancelled) == {"job": (0, 4, ""), "queue": (0, 4, "")}


@pytest.mark.parametrize(
    "job",
    [replace(DONE, status=JobStatus.RUNNING), replace(DONE, spec=replace(DONE.spec, internal=True))],
)
async def test_what_is_not_traced(job: Job) -> None:
    """Jobs that are not over, and our own benchmark."""
    assert await traced(job) == {}
