"""Transitions, admission, speed and store: the pure rules."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lib.errors import Draining, NotReady, Overloaded
from lib.jobs.admission import Situation, decide
from lib.jobs.model import Job, JobSpec, JobStatus, Timings
from lib.jobs.retention import Retention
from lib.jobs.store import MemoryJobStore
from lib.jobs.transitions import IllegalTransition, advance
from tests.fakes.clock import FakeClock


def job(request_id: str = "r", job_id: str = "j") -> Job:
    spec = JobSpec(request_id=request_id, dialect="test", workflow=b"{}")
    return Job(job_id=job_id, spec=spec, sequence=1, cost=100, timings=Timings(accepted_at=datetime.now(UTC)))


class StatusMachine(RuleBasedStateMachine):
    """Whatever is tried, a terminal status never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.job = job()
        self.outcome: JobStatus | None = None

    @rule(status=st.sampled_from(JobStatus))
    def try_status(self, status: JobStatus) -> None:
        try:
            self.job = advance(self.job, status)
        except IllegalTransition:
            return
        if self.job.status.terminal and self.outcome is None:
            self.outcome = self.job.status

    @invariant()
    def sticky(self) -> None:
        assert self.outcome in (None, self.job.status)


TestStatusMachine = StatusMachine.TestCase


@given(
    in_flight=st.integers(0, 20), executing=st.integers(0, 20), engines=st.integers(1, 4),
    wait_s=st.none() | st.floats(0, 1e4), limit_s=st.none() | st.floats(0.1, 100), backlog=st.integers(0, 20),
)  # fmt: skip
def test_admission_never_refuses_what_has_room(
    in_flight: int, executing: int, engines: int, wait_s: float | None, limit_s: float | None, backlog: int
) -> None:
    """One running and one prepared job an engine are accepted however long they take; each refusal says when."""
    situation = Situation(
        ready=True, in_flight_count=in_flight, in_flight_limit=10, executing_count=executing, engine_count=engines,
        wait_s=wait_s, backlog_bytes=backlog, backlog_limit_bytes=10,
    )  # fmt: skip
    full = in_flight >= 10 or backlog >= 10
    slow = executing >= 2 * engines and limit_s is not None and wait_s is not None and wait_s > limit_s
    if full or slow:
        with pytest.raises(Overloaded) as caught:
            decide(situation, max_wait_s=limit_s)
        assert caught.value.retry_after_s is not None
        assert 1 <= caught.value.retry_after_s <= 600
    else:
        decide(situation, max_wait_s=limit_s)


def test_admission_order() -> None:
    """Draining is said before not ready, not ready before full."""
    with pytest.raises(Draining):
        decide(Situation(ready=False, draining=True), max_wait_s=None)
    with pytest.raises(NotReady, match="no GPU"):
        decide(Situation(ready=False, not_ready_reason="no GPU", in_flight_count=9), max_wait_s=None)


async def test_the_store_is_bounded() -> None:
    """Finished jobs go after their time and over the count, the oldest first; live ones stay."""
    clock = FakeClock()
    store = MemoryJobStore(clock=clock, retention=Retention(ttl_s=10, max_results=2))
    await store.add(job("live", "live"))
    for i in range(3):
        await store.add(job(f"r{i}", f"j{i}"))
        await store.finish(job(f"r{i}", f"j{i}"))
    assert await store.get("j0") is None
    assert await store.latest("r0") is None
    assert await store.latest("r2") is not None
    await clock.advance(11)
    assert await store.get("j2") is None
    assert await store.get("live") is not None
