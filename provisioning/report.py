"""The machine-readable outcome of provisioning, ``<workspace>/provisioning-report.json``.

The worker reads it and refuses readiness, with the cause, while ``status`` is ``failed``. A step that failed and is
optional leaves the status ``ok``. Shape::

    {"status": "ok" | "failed", "started_at": ISO 8601, "finished_at": ISO 8601 or null,
     "steps": [{"name", "kind", "status": "ok" | "failed" | "skipped", "optional": bool,
                "error": text or null, "bytes": downloaded, "seconds": taken}],
     "volume": what is on the network volume (``volume.survey``), or null where there is none}
"""

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from provisioning.steps import write_text_atomically
from provisioning.volume.survey import VolumeReport

FILE_NAME = "provisioning-report.json"


class Outcome(StrEnum):
    """How a step, or all of them, ended."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


class StepReport(BaseModel):
    """One step."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: str
    status: Outcome
    optional: bool = False
    error: str | None = None
    bytes: int = 0
    seconds: float = 0.0


class ProvisioningReport(BaseModel):
    """All steps."""

    model_config = ConfigDict(frozen=True)

    status: Outcome
    started_at: datetime
    finished_at: datetime | None
    steps: tuple[StepReport, ...]
    volume: VolumeReport | None = None

    @property
    def failures(self) -> tuple[StepReport, ...]:
        """The steps that hold the worker back."""
        return tuple(step for step in self.steps if step.status is Outcome.FAILED and not step.optional)


def unfinished(started_at: datetime) -> ProvisioningReport:
    """Give the report that stands while provisioning runs, and stays if it is killed."""
    step = StepReport(name="provisioning", kind="run", status=Outcome.FAILED, error="Provisioning did not finish.")
    return ProvisioningReport(status=Outcome.FAILED, started_at=started_at, finished_at=None, steps=(step,))


def finished(
    started_at: datetime, steps: tuple[StepReport, ...], *, volume: VolumeReport | None = None
) -> ProvisioningReport:
    """Give the final report."""
    failed = any(step.status is Outcome.FAILED and not step.optional for step in steps)
    status = Outcome.FAILED if failed else Outcome.OK
    return ProvisioningReport(
        status=status, started_at=started_at, finished_at=datetime.now(UTC), steps=steps, volume=volume
    )


def write_report(workspace: Path, report: ProvisioningReport) -> None:
    """Write the report whole."""
    write_text_atomically(workspace / FILE_NAME, report.model_dump_json(indent=2) + "\n")
