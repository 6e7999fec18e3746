"""Copies of values with some fields changed."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from lib.jobs.copies import changed
from lib.jobs.model import Job, JobSpec, Output, OutputKind, Timings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TIMES = Timings(accepted_at=NOW)
SPEC = JobSpec(request_id="a", dialect="d", workflow=b"{}")
OUTPUT = Output(node_id="1", kind=OutputKind.IMAGE, source_key="images")


def test_a_copy_is_what_replace_makes() -> None:
    """Of every value that jobs copy."""
    assert changed(TIMES, wait_s=2.0) == replace(TIMES, wait_s=2.0)
    assert changed(SPEC, workflow=b"", owner="o") == replace(SPEC, workflow=b"", owner="o")
    assert changed(OUTPUT, url="u") == replace(OUTPUT, url="u")


def test_the_value_itself_stays_as_it_is() -> None:
    """Snapshots are shared."""
    changed(TIMES, wait_s=2.0)
    assert Timings(accepted_at=NOW) == TIMES


def test_a_field_that_is_not_there_is_a_mistake() -> None:
    """As it is for ``replace``."""
    with pytest.raises(KeyError):
        changed(TIMES, waits=1)


def test_jobs_copy_themselves() -> None:
    """``with_`` is the same."""
    job = Job(job_id="j", spec=SPEC, sequence=1, cost=1.0, timings=TIMES)
    assert job.with_(message="m") == replace(job, message="m")
