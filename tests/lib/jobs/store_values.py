"""Jobs and messages for tests of the stores."""

from datetime import timedelta
from typing import Any

from lib.jobs.model import (
    DeliverySpec,
    Idempotency,
    Job,
    JobEvent,
    JobSpec,
    JobStatus,
    OutboxItem,
    S3Target,
    Timings,
    WebhookTarget,
)
from tests.fakes.clock import START

KEY = Idempotency(scope="tenant/generate", key="a key of the caller's")
TO_S3 = DeliverySpec(s3=S3Target(bucket_name="b", access_key_id="id", secret_access_key="a secret"))


def job(number: int, *, job_id: str = "", **changes: Any) -> Job:
    """An accepted job; ``changes`` go to its spec."""
    given = {"request_id": f"r{number}", "dialect": "test", "workflow": b'{"1": {}}'} | changes
    return Job(
        job_id=job_id or f"j{number}",
        spec=JobSpec(**given),
        sequence=number,
        cost=100.0,
        timings=Timings(accepted_at=START),
    )


def ended(accepted: Job, status: JobStatus = JobStatus.COMPLETED, **changes: Any) -> Job:
    return accepted.with_(status=status, **changes)


def message(
    name: str, *, due_s: float = 0.0, owner: str = "", host: str = "hooks.example", size: int = 10
) -> OutboxItem:
    """A message that is due ``due_s`` after the fake clock's start."""
    return OutboxItem(
        message_id=name,
        job_id=f"job of {name}",
        owner=owner,
        event=JobEvent.COMPLETED,
        target=WebhookTarget(url=f"https://{host}/path?token=hidden", secret="whsec_hidden"),
        body=b"x" * size,
        created_at=START,
        next_at=START + timedelta(seconds=due_s),
    )
