"""What finished jobs add to the metrics."""

import pytest

from lib.app.counting import count_jobs
from lib.jobs.model import DeliverySpec, JobStatus, Output, OutputKind, PutTarget
from lib.telemetry.metrics import WorkerMetrics
from tests.lib.jobs.store_values import TO_S3, ended, job

FILES = (
    Output(node_id="1", kind=OutputKind.IMAGE, source_key="images", size_bytes=100, url="https://somewhere/a.png"),
    Output(node_id="2", kind=OutputKind.IMAGE, source_key="images", size_bytes=10, url="u", upload_error="refused"),
)


@pytest.mark.parametrize(
    ("delivery", "counted"),
    [(TO_S3, 100), (DeliverySpec(put=PutTarget(urls=("https://s/a", "https://s/b"))), 100), (DeliverySpec(), 0)],
)
def test_only_what_storage_took_counts_as_stored(delivery: DeliverySpec, counted: int) -> None:
    """A link of our own is no upload, and a file that the storage refused none either."""
    metrics = WorkerMetrics()
    count_jobs(metrics)(ended(job(1, delivery=delivery), JobStatus.COMPLETED, outputs=FILES))
    assert f"pyworker_storage_bytes_total {counted}.0" in metrics.render()[0].decode()
