"""What replicas tell each other of workers and assignments, as JSON; times on the wire are epoch seconds."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from router.model import Assignment
from router.ports import WorkerRecord
from router.registry import Epoch


def to_wall(assignment: Assignment, epoch: Epoch) -> Assignment:
    """For the store and other replicas."""
    return _moved(assignment, epoch.of(0.0))


def to_monotonic(assignment: Assignment, epoch: Epoch) -> Assignment:
    """From the store or another replica."""
    return _moved(assignment, -epoch.of(0.0))


def assignment_body(assignment: Assignment, epoch: Epoch) -> dict[str, Any]:
    """News of an assignment."""
    return asdict(to_wall(assignment, epoch))


def read_assignment(body: Mapping[str, Any], epoch: Epoch) -> Assignment:
    """An assignment of another replica. Raises: KeyError, TypeError, ValueError for news that is none."""
    fields = {name: body[name] for name in body if name in Assignment.__dataclass_fields__}
    fields["models"] = tuple(fields.get("models") or ())
    return to_monotonic(Assignment(**fields), epoch)


def worker_body(record: WorkerRecord) -> dict[str, Any]:
    """News of a report."""
    return asdict(record)


def read_worker(body: Mapping[str, Any]) -> WorkerRecord:
    """A report that another replica heard. Raises: KeyError, TypeError, ValueError for news that is none."""
    return WorkerRecord(
        worker=str(body["worker"]),
        endpoint=str(body["endpoint"]),
        id=int(body["id"]),
        group=str(body["group"]),
        url=str(body["url"]),
        report=dict(body["report"]),
        heard_at=float(body["heard_at"]),
        first_at=float(body["first_at"]),
        refused_at=float(body["refused_at"]),
    )


def _moved(assignment: Assignment, by: float) -> Assignment:
    return replace(
        assignment,
        at=assignment.at + by,
        expected_start_at=assignment.expected_start_at + by,
        expected_finish_at=assignment.expected_finish_at + by,
    )
