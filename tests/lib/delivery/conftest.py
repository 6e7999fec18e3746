"""Jobs and files for this folder, and storage servers."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import stamina

from lib.jobs.model import DeliverySpec, Job, JobSpec, JobStatus, Output, OutputKind, Timings
from tests.fakes.http_hosts import png
from tests.fakes.hub import no_xet
from tests.peers.azure.azurite import azurite_server
from tests.s3_fixture import nanio_server

__all__ = ["azurite_server", "nanio_server", "no_xet"]


@pytest.fixture(autouse=True, scope="session")
def quiet_stamina() -> None:
    """As ``lib.app`` does: stamina's own metrics, made at the first retry inside the event loop, are not wanted."""
    stamina.instrumentation.set_on_retry_hooks(())


@pytest.fixture
def job() -> Callable[..., Job]:
    """Make a job that asks for the given delivery."""

    def make(*, run: int = 1, status: JobStatus = JobStatus.COMPLETED, internal: bool = False, **asked: Any) -> Job:
        spec = JobSpec(
            request_id="req-1",
            dialect="wrapper",
            workflow=b"{}",
            internal=internal,
            delivery=DeliverySpec(**asked),
        )
        accepted_at = datetime(2026, 1, 1, tzinfo=UTC)
        return Job(
            job_id="job-1",
            spec=spec,
            sequence=1,
            cost=100.0,
            run=run,
            status=status,
            timings=Timings(accepted_at=accepted_at),
        )

    return make


@pytest.fixture
def output(tmp_path: Path) -> Callable[..., Output]:
    """Make an output whose file exists."""

    def make(name: str = "a.png", *, node_id: str = "9", data: bytes | None = None, folder: str = "") -> Output:
        path = tmp_path / (folder or node_id.replace(":", "_")) / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png() if data is None else data)
        return Output(
            node_id=node_id,
            kind=OutputKind.IMAGE,
            source_key="images",
            filename=name,
            local_path=str(path),
            mime_type="image/png",
            size_bytes=path.stat().st_size,
        )

    return make
