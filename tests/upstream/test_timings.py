"""``timings`` of a result: which keys there are when, and what they add up to."""

from datetime import timedelta

from lib import errors
from lib.dialects.wrapper.render import render, render_refusal
from lib.jobs.model import Job, JobStatus, Timings
from tests.upstream.stand_ins import ACCEPTED_AT, JOB


def shown(job: Job) -> dict[str, int]:
    """The timings of a result; all are integers."""
    timings: dict[str, int] = render(job, include_response=False)["timings"]
    assert all(type(value) is int for value in timings.values())
    return timings


def test_timings_only_queued_at_creation() -> None:
    """Nothing is shown as zero that has not happened."""
    assert shown(JOB) == {"queued_at_ms": 1767225600000}


def test_timings_terminal_fields_added_and_total() -> None:
    """Execution and collection together are the generation; the queue is what remains of the total."""
    timings = Timings(
        accepted_at=ACCEPTED_AT,
        finished_at=ACCEPTED_AT + timedelta(seconds=10),
        prepare_s=1.0,
        wait_s=2.5,
        execute_s=4.0,
        collect_s=0.5,
        deliver_s=2.0,
    )
    assert shown(JOB.with_(status=JobStatus.COMPLETED, timings=timings)) == {
        "queued_at_ms": 1767225600000,
        "preprocess_ms": 1000,
        "generation_ms": 4500,
        "postprocess_ms": 2000,
        "completed_at_ms": 1767225610000,
        "total_ms": 10000,
    }


def test_timings_failure_path() -> None:
    """Total and post-processing are always there at the end; stages that did not succeed are not."""
    timings = Timings(accepted_at=ACCEPTED_AT, finished_at=ACCEPTED_AT + timedelta(seconds=1), prepare_s=0.5)
    found = shown(JOB.with_(status=JobStatus.FAILED, timings=timings))
    assert found["total_ms"] == found["completed_at_ms"] - found["queued_at_ms"] == 1000
    assert found["postprocess_ms"] == 0
    assert "generation_ms" not in found


def test_timings_no_total_without_queued_at() -> None:
    """A request that was not accepted has no timings at all."""
    assert render_refusal(errors.NotReady("x"), "")["timings"] == {}
